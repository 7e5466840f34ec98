//! The tokenizer in a GGUF file → `tokenizer.json` and `tokenizer_config.json`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::gguf::{Gguf, ImportError};

/// `LLAMA_TOKEN_TYPE_CONTROL` and `_USER_DEFINED`.
pub(crate) const CONTROL: i64 = 3;
pub(crate) const USER_DEFINED: i64 = 4;

/// How Llama 3 and Qwen 2 split text before merging (their own `tokenizer.json`).
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(crate) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Both documents.
#[derive(Debug)]
pub struct Documents {
    /// `tokenizer.json`.
    pub document: String,
    /// `tokenizer_config.json`.
    pub settings: Value,
}

/// Makes both documents of byte-level BPE; other tokenizers are refused.
pub fn read(gguf: &Gguf) -> Result<Documents, ImportError> {
    let model = gguf.text("tokenizer.ggml.model").unwrap_or("none");
    if model != "gpt2" {
        return Err(gguf.unsupported(format!(
            "tokenizer {model:?} is not imported; only byte-level BPE (\"gpt2\") is: take tokenizer.json from the model's own directory"
        )));
    }
    let missing = |what: &str| gguf.malformed(format!("{what} is missing or not a list of texts"));
    let tokens =
        gguf.texts("tokenizer.ggml.tokens").ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    let merges =
        gguf.texts("tokenizer.ggml.merges").ok_or_else(|| missing("tokenizer.ggml.merges"))?;
    let merges: Option<Vec<(&str, &str)>> =
        merges.into_iter().map(|merge| merge.split_once(' ')).collect();
    let merges = merges.ok_or_else(|| gguf.malformed("a merge is not two tokens".into()))?;
    let vocabulary: BTreeMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();

    let failed = |error: tokenizers::Error| gguf.malformed(format!("tokenizer: {error}"));
    let bpe = json!({"type": "BPE", "vocab": vocabulary, "merges": merges}).to_string();
    let bpe: BPE = serde_json::from_str(&bpe).map_err(|error| failed(error.into()))?;
    let mut tokenizer = Tokenizer::new(bpe);
    tokenizer.with_pre_tokenizer(Some(splitter(gguf)?));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    let kinds = gguf.integers("tokenizer.ggml.token_type").unwrap_or_default();
    for (token, kind) in tokens.iter().zip(kinds) {
        match kind {
            CONTROL => drop(tokenizer.add_special_tokens([AddedToken::from(*token, true)])),
            USER_DEFINED => drop(tokenizer.add_tokens([AddedToken::from(*token, false)])),
            _ => {}
        }
    }
    let document = tokenizer.to_string(true).map_err(failed)?;
    Ok(Documents { document, settings: settings(gguf, &tokens) })
}

/// What splits text before merging, by llama.cpp's name of it.
fn splitter(gguf: &Gguf) -> Result<PreTokenizerWrapper, ImportError> {
    let by_pattern = |pattern: &str| -> Result<PreTokenizerWrapper, ImportError> {
        let pattern = SplitPattern::Regex(pattern.into());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(|error| gguf.malformed(format!("tokenizer: {error}")))?;
        Ok(sequence([split.into(), ByteLevel::new(false, false, false).into()]))
    };
    let whole = ByteLevel::new(false, true, true);
    match gguf.text("tokenizer.ggml.pre").unwrap_or("default") {
        "gpt-2" | "default" => Ok(whole.into()),
        "smollm" => Ok(sequence([Digits::new(true).into(), whole.into()])),
        "llama-bpe" | "llama3" | "llama-v3" => by_pattern(LLAMA3),
        "qwen2" => by_pattern(QWEN2),
        other => Err(gguf.unsupported(format!(
            "tokenizer split {other:?} is not imported; gpt-2, smollm, llama-bpe and qwen2 are: take tokenizer.json from the model's own directory"
        ))),
    }
}

fn sequence<const N: usize>(parts: [PreTokenizerWrapper; N]) -> PreTokenizerWrapper {
    Sequence::new(parts.into()).into()
}

fn settings(gguf: &Gguf, tokens: &[&str]) -> Value {
    let token = |key: &str| {
        let id = gguf.integer(&format!("tokenizer.ggml.{key}_token_id"))?;
        tokens.get(usize::try_from(id).ok()?).copied()
    };
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
    });
    for (field, key) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ] {
        if let Some(token) = token(key) {
            settings[field] = token.into();
        }
    }
    if let Some(template) = gguf.text("tokenizer.chat_template") {
        settings["chat_template"] = template.into();
    }
    if let Some(Value::Bool(adds)) = gguf
        .get("tokenizer.ggml.add_bos_token")
        .map(|setting| Value::Bool(matches!(setting, super::gguf::Setting::Bool(true))))
    {
        settings["add_bos_token"] = adds.into();
    }
    settings
}
