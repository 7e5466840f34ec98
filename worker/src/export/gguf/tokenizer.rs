//! `tokenizer.json` and `tokenizer_config.json` → llama.cpp's settings. Pure.
//!
//! The way back of [`crate::import::tokenizer`], whose splits it knows.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::import::gguf::Setting;
use crate::import::tokenizer::{CONTROL, LLAMA3, QWEN2, USER_DEFINED};

/// `LLAMA_TOKEN_TYPE_NORMAL` and `_UNUSED`.
const NORMAL: i64 = 1;
const UNUSED: i64 = 5;

/// The documents of a directory.
#[derive(Debug)]
pub struct Documents<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a Value,
    /// `tokenizer_config.json`; empty where there is none.
    pub settings: &'a Map<String, Value>,
    /// `config.json`.
    pub config: &'a Map<String, Value>,
    /// `chat_template.jinja`, which newer directories have.
    pub template: Option<&'a str>,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

/// Newer files have two texts, older ones both with a space between them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Apart(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

impl Documents<'_> {
    /// All settings, for embeddings of `rows` tokens.
    pub fn settings(&self, rows: i64) -> Result<Vec<(String, Setting)>, String> {
        let (tokens, kinds) = self.tokens(rows)?;
        let mut settings = vec![
            ("model", Setting::Text("gpt2".into())),
            ("pre", Setting::Text(self.split()?.into())),
        ];
        for (key, field) in [
            ("bos_token_id", "bos"),
            ("eos_token_id", "eos"),
            ("unknown_token_id", "unk"),
            ("padding_token_id", "pad"),
        ] {
            settings.extend(self.special(field, &tokens).map(|id| (key, Setting::Integer(id))));
        }
        settings.push(("add_bos_token", Setting::Bool(self.adds_first())));
        settings.push(("merges", self.merges()?));
        let texts = tokens.into_iter().map(Setting::Text).collect();
        settings.push(("tokens", Setting::List(texts)));
        let kinds = kinds.into_iter().map(Setting::Integer).collect();
        settings.push(("token_type", Setting::List(kinds)));
        let named = |(key, setting)| (format!("tokenizer.ggml.{key}"), setting);
        let template = self.template.or_else(|| self.settings.get("chat_template")?.as_str());
        let template = template.map(|text| Setting::Text(text.into()));
        let template = template.map(|text| ("tokenizer.chat_template".to_owned(), text));
        Ok(settings.into_iter().map(named).chain(template).collect())
    }

    fn bpe(&self) -> Result<Bpe, String> {
        let model = &self.tokenizer["model"];
        let falls_back = model["byte_fallback"].as_bool().unwrap_or(false);
        if model["type"].as_str().is_some_and(|kind| kind != "BPE") || falls_back {
            return Err(refusal("its model is no byte-level BPE"));
        }
        Bpe::deserialize(model)
            .map_err(|error| format!("tokenizer.json: its model makes no sense: {error}"))
    }

    /// Tokens in the order of their ids, and their types. Rows of the embeddings that no token has
    /// get one that no text gives.
    fn tokens(&self, rows: i64) -> Result<(Vec<String>, Vec<i64>), String> {
        let rows = usize::try_from(rows).unwrap_or_default();
        let mut tokens: Vec<String> = (0..rows).map(|id| format!("[PAD{id}]")).collect();
        let mut kinds = vec![UNUSED; rows];
        let added = self.tokenizer.get("added_tokens").cloned().unwrap_or(Value::Null);
        let added: Option<Vec<Added>> = serde_json::from_value(added)
            .map_err(|error| format!("tokenizer.json: added_tokens make no sense: {error}"))?;
        let own = self.bpe()?.vocab.into_iter().map(|(token, id)| (id, token, NORMAL));
        let added = added.unwrap_or_default().into_iter().map(|token| {
            (token.id, token.content, if token.special { CONTROL } else { USER_DEFINED })
        });
        for (id, token, kind) in own.chain(added) {
            let place = usize::try_from(id).unwrap_or(usize::MAX);
            let (Some(text), Some(of)) = (tokens.get_mut(place), kinds.get_mut(place)) else {
                return Err(format!(
                    "tokenizer.json: token {token:?} has number {id}, and the embeddings {rows} rows"
                ));
            };
            *text = token;
            *of = kind;
        }
        Ok((tokens, kinds))
    }

    fn merges(&self) -> Result<Setting, String> {
        let joined = |merge| match merge {
            Merge::Joined(text) => Setting::Text(text),
            Merge::Apart(left, right) => Setting::Text(format!("{left} {right}")),
        };
        Ok(Setting::List(self.bpe()?.merges.into_iter().map(joined).collect()))
    }

    /// llama.cpp's name of what splits text before merging.
    fn split(&self) -> Result<&'static str, String> {
        let normalizer = &self.tokenizer["normalizer"];
        if !normalizer.is_null() && normalizer["type"] != "NFC" {
            return Err(refusal(&format!("normalizer {} is not known", normalizer["type"])));
        }
        let split = &self.tokenizer["pre_tokenizer"];
        let alone = std::slice::from_ref(split);
        let parts = split["pretokenizers"].as_array().map_or(alone, Vec::as_slice);
        let kinds: Vec<&str> =
            parts.iter().map(|part| part["type"].as_str().unwrap_or_default()).collect();
        let pattern = parts[0]["pattern"]["Regex"].as_str().unwrap_or_default();
        match kinds.as_slice() {
            ["ByteLevel"] => Ok("gpt-2"),
            ["Digits", "ByteLevel"] if parts[0]["individual_digits"] == true => Ok("smollm"),
            ["Split", "ByteLevel"] if pattern == LLAMA3 => Ok("llama-bpe"),
            ["Split", "ByteLevel"] if pattern == QWEN2 => Ok("qwen2"),
            _ => Err(refusal("it splits texts in a way that is not known")),
        }
    }

    /// The number of a special token, by the tokenizer or by the model.
    fn special(&self, name: &str, tokens: &[String]) -> Option<i64> {
        let token = self
            .settings
            .get(&format!("{name}_token"))
            .and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        let by_text = token.and_then(|token| tokens.iter().position(|known| known == token));
        by_text.and_then(|id| i64::try_from(id).ok()).or_else(|| {
            let id = self.config.get(&format!("{name}_token_id"))?;
            id.as_i64().or_else(|| id.get(0)?.as_i64())
        })
    }

    /// Whether texts begin with the token of beginnings.
    fn adds_first(&self) -> bool {
        let asked = self.settings.get("add_bos_token").and_then(Value::as_bool);
        asked.unwrap_or_else(|| {
            let processor = &self.tokenizer["post_processor"];
            let inner = processor["processors"].as_array().into_iter().flatten();
            let begins = |step: &Value| step["single"][0].get("SpecialToken").is_some();
            std::iter::once(processor).chain(inner).any(begins)
        })
    }
}

fn refusal(why: &str) -> String {
    format!(
        "tokenizer.json is not written as GGUF: {why}; byte-level BPE as gpt-2, smollm, llama-bpe and qwen2 split is: use another quantization"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer() -> Value {
        json!({
            "added_tokens": [
                {"id": 3, "content": "<end>", "special": true},
                {"id": 4, "content": "<tool>", "special": false},
            ],
            "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "use_regex": true},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        })
    }

    fn settings(tokenizer: &Value, settings: &Value) -> Result<BTreeMap<String, Setting>, String> {
        let (settings, config) = (settings.as_object().unwrap(), json!({"eos_token_id": [3, 1]}));
        let config = config.as_object().unwrap();
        let documents = Documents { tokenizer, settings, config, template: None };
        Ok(documents.settings(6)?.into_iter().collect())
    }

    #[test]
    fn tokens_lie_by_their_numbers() {
        let got = settings(&tokenizer(), &json!({"bos_token": {"content": "<tool>"}})).unwrap();
        let texts = |list: &[&str]| {
            Setting::List(list.iter().map(|text| Setting::Text((*text).into())).collect())
        };
        assert_eq!(
            got["tokenizer.ggml.tokens"],
            texts(&["a", "b", "ab", "<end>", "<tool>", "[PAD5]"])
        );
        assert_eq!(got["tokenizer.ggml.merges"], texts(&["a b"]));
        let kinds = [1, 1, 1, 3, 4, 5].map(Setting::Integer).to_vec();
        assert_eq!(got["tokenizer.ggml.token_type"], Setting::List(kinds));
        assert_eq!(got["tokenizer.ggml.bos_token_id"], Setting::Integer(4));
        assert_eq!(got["tokenizer.ggml.eos_token_id"], Setting::Integer(3));
        assert_eq!(got["tokenizer.ggml.add_bos_token"], Setting::Bool(false));
        assert_eq!(got["tokenizer.ggml.pre"], Setting::Text("gpt-2".into()));
    }

    #[test]
    fn splits_are_told_by_their_patterns() {
        let by = |pattern: &str| {
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}}, {"type": "ByteLevel"}]})
        };
        for (split, want) in [
            (by(LLAMA3), Some("llama-bpe")),
            (by(QWEN2), Some("qwen2")),
            (by(r"\s+"), None),
            (json!({"type": "Whitespace"}), None),
            (Value::Null, None),
        ] {
            let mut tokenizer = tokenizer();
            tokenizer["pre_tokenizer"] = split;
            let got = settings(&tokenizer, &json!({}));
            match want {
                Some(want) => {
                    assert_eq!(got.unwrap()["tokenizer.ggml.pre"], Setting::Text(want.into()));
                }
                None => assert!(got.unwrap_err().contains("not known")),
            }
        }
    }

    #[test]
    fn the_first_token_is_added_where_the_directory_adds_it() {
        let mut tokenizer = tokenizer();
        tokenizer["post_processor"] = json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel"},
            {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<end>"}}]}]});
        let adds = |settings: &BTreeMap<String, Setting>| {
            settings["tokenizer.ggml.add_bos_token"] == Setting::Bool(true)
        };
        assert!(adds(&settings(&tokenizer, &json!({})).unwrap()));
        assert!(!adds(&settings(&tokenizer, &json!({"add_bos_token": false})).unwrap()));
    }

    #[test]
    fn other_tokenizers_are_refused() {
        for (name, change) in [
            ("model", json!({"type": "WordPiece", "vocab": {}})),
            ("bytes", json!({"type": "BPE", "byte_fallback": true, "vocab": {}, "merges": []})),
        ] {
            let mut tokenizer = tokenizer();
            tokenizer["model"] = change;
            let refused = settings(&tokenizer, &json!({})).unwrap_err();
            assert!(refused.contains("no byte-level BPE"), "{name}: {refused}");
        }
        let mut outside = tokenizer();
        outside["added_tokens"][0]["id"] = 6.into();
        let refused = settings(&outside, &json!({})).unwrap_err();
        assert!(refused.contains("6 rows"), "{refused}");
    }
}
