//! Text → token ids: cleaning, then the model's own tokenizer.

use std::path::{Path, PathBuf};

use hearth_crds::preparation::Cleaning;
use hearth_prepare::text::clean::{Cleaner, Masked};
use serde::Deserialize;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use super::DataError;
use super::facts::{self, Facts};
use super::ingest::{Encode, Encoded, Refusal};
use super::sequence::{Kind, Tokens};
use super::source::{Columns, Parts};

/// Cleans and tokenizes text. Shared by threads.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: Tokenizer,
    path: PathBuf,
    /// Hash of `tokenizer.json`.
    pub(crate) fingerprint: blake3::Hash,
    pub(crate) cleaning: Cleaning,
    cleaner: Cleaner,
    pub(crate) max_length: usize,
    pad: u32,
    /// Id of what the tokenizer does not know, where there is such a token.
    unknown: Option<u32>,
}

/// The part of an export's `hearth.json` that says how text was prepared.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recipe {
    #[serde(flatten)]
    cleaning: Cleaning,
    max_length: usize,
}

/// The part of a `config.json` that bounds a text.
#[derive(Deserialize)]
struct Bounds {
    max_position_embeddings: Option<usize>,
}

impl TextEncoder {
    /// Reads `tokenizer.json` in `model`. Samples are cut on the right after
    /// `max_length` tokens, special tokens counted; truncation and padding
    /// that the file itself asks for are overridden.
    pub fn load(model: &Path, cleaning: Cleaning, max_length: usize) -> Result<Self, DataError> {
        let cleaner = Cleaner::new(&cleaning)?;
        let path = model.join("tokenizer.json");
        let bytes = super::source::read_file(&path)?;
        let failed = |error: tokenizers::Error| DataError::Tokenizer {
            path: path.clone(),
            detail: error.to_string(),
        };
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(failed)?;
        let pad = tokenizer
            .get_padding()
            .map(|padding| padding.pad_id)
            .or_else(|| ["[PAD]", "<pad>"].iter().find_map(|token| tokenizer.token_to_id(token)))
            .unwrap_or(0);
        tokenizer.with_padding(None);
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        tokenizer.with_truncation(Some(truncation)).map_err(failed)?;
        let fingerprint = blake3::hash(&bytes);
        let unknown = unknown(&tokenizer, &bytes);
        Ok(Self { tokenizer, path, fingerprint, cleaning, cleaner, max_length, pad, unknown })
    }

    /// Prepares text as the training of an exported model did (`hearth.json`);
    /// a directory without one gets no cleaning and the model's own maximum.
    pub fn from_export(model: &Path) -> Result<Self, DataError> {
        let recipe = model.join("hearth.json");
        if recipe.exists() {
            let Recipe { cleaning, max_length } = read_json(&recipe)?;
            return Self::load(model, cleaning, max_length);
        }
        let bounds: Bounds = read_json(&model.join("config.json"))?;
        Self::load(model, Cleaning::default(), bounds.max_position_embeddings.unwrap_or(512))
    }

    /// Id that fills rows up.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Tokens of the tokenizer's vocabulary, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Most tokens of a row.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Token ids of one text, special tokens included.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        Ok(self.measured(text)?.0)
    }

    /// Token ids of one text, and what the text is like once it is cleaned.
    pub fn measured(&self, text: &str) -> Result<(Vec<u32>, Facts), DataError> {
        let cleaned = self.cleaner.clean(text, &mut Masked::default());
        let encoding = self.tokenizer.encode_fast(&*cleaned, true).map_err(|error| {
            DataError::Tokenizer { path: self.path.clone(), detail: error.to_string() }
        })?;
        let ids = encoding.get_ids().to_vec();
        let facts = facts::of_text(&cleaned, &ids, self.unknown);
        Ok((ids, facts))
    }

    /// Names of what texts are told by.
    pub fn facts(&self) -> &'static [&'static str] {
        if self.unknown.is_some() { &facts::OF_TEXT } else { &facts::OF_WHOLE_TEXT }
    }
}

/// A class of each labelled text.
impl Encode for TextEncoder {
    fn kind(&self) -> Kind {
        Kind::Classes
    }

    fn recipe(&self, columns: &Columns) -> String {
        let how = (columns, &self.cleaning, self.max_length);
        format!("classes {} {how:?}", self.fingerprint)
    }

    fn encode(&self, parts: Parts) -> Result<Encoded, Refusal> {
        let Parts::Labelled { text, label } = parts else {
            return Err(Refusal::Malformed("no labelled text".into()));
        };
        let (ids, facts) = self.measured(&text).map_err(Refusal::Failed)?;
        Ok(Encoded {
            label: Some(label),
            sequences: vec![Tokens { ids, targets: None }],
            pixels: None,
            facts,
        })
    }
}

/// The part of a `tokenizer.json` that names the token for what is in no other.
#[derive(Deserialize)]
struct TokenizerFile {
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct TokenizerModel {
    unk_token: Option<String>,
    unk_id: Option<u32>,
    /// Bytes are of all texts, so that nothing is unknown.
    #[serde(default)]
    byte_fallback: bool,
}

/// The id of that token, where there is one.
fn unknown(tokenizer: &Tokenizer, file: &[u8]) -> Option<u32> {
    let TokenizerFile { model } = serde_json::from_slice(file).ok()?;
    if model.byte_fallback {
        return None;
    }
    model.unk_token.and_then(|token| tokenizer.token_to_id(&token)).or(model.unk_id)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, DataError> {
    let bytes = super::source::read_file(path)?;
    serde_json::from_slice(&bytes).map_err(|error| DataError::Read {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
    })
}
