//! A directory with a language model → what texts are made with.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tch::Device;
use tokenizers::Tokenizer;

use super::grammar::Grammars;
use super::sampling::Sampling;
use crate::data::chat::read_json;
use crate::data::{ChatTemplate, DataError};
use crate::error::Error;
use crate::model::{Model, hold};
use crate::peft::served::{self, Turns};

/// What all texts of a model share, besides the model.
#[derive(Debug)]
pub struct Vocabulary {
    /// Text → tokens and back.
    pub tokenizer: Tokenizer,
    /// Messages → text, where the model has a template.
    pub template: Option<ChatTemplate>,
    /// What texts may be made to be.
    pub grammars: Grammars,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    /// How tokens are chosen where a request does not say: `generation_config.json`.
    pub sampling: Sampling,
    /// Tokens that the model has embeddings of.
    pub size: usize,
    /// Most tokens of a text.
    pub context: usize,
}

/// The parts of `generation_config.json` that this reads.
#[derive(Debug, Default, Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<Ids>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// Reads `directory`, compressed or not, and puts the adapters beside it. Chat templates are told the
/// time of each text.
pub fn load(
    directory: &Path,
    adapters: &[&Path],
    device: Device,
) -> Result<((Model, Turns), Vocabulary), Error> {
    let mut model = crate::quantize::load_narrow(directory, device)?;
    hold(&mut model)?;
    let turns = served::serve(&mut model, adapters, device)?;
    let vocabulary = Vocabulary::read(directory, &model)?;
    Ok(((model, turns), vocabulary))
}

impl Vocabulary {
    fn read(directory: &Path, model: &Model) -> Result<Self, Error> {
        let path = directory.join("tokenizer.json");
        let failed = |detail: String| DataError::Tokenizer { path: path.clone(), detail };
        let bytes =
            fs::read(&path).map_err(|source| DataError::Read { path: path.clone(), source })?;
        let mut tokenizer =
            Tokenizer::from_bytes(&bytes).map_err(|error| failed(error.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| failed(error.to_string()))?;
        let number = |key: &str| model.config.raw.get(key).and_then(Value::as_u64);
        let of_config = |key: &str| number(key).and_then(|number| usize::try_from(number).ok());
        let size = of_config("vocab_size").unwrap_or_else(|| tokenizer.get_vocab_size(true));
        let generation: GenerationConfig =
            read_json(&directory.join("generation_config.json"))?.unwrap_or_default();
        let ends = match generation.eos_token_id {
            Some(ids) => ids.into_vec(),
            None => model
                .config
                .raw
                .get("eos_token_id")
                .and_then(|ids| Ids::deserialize(ids).ok())
                .map_or_else(Vec::new, Ids::into_vec),
        };
        // Without one, texts end at their bound alone, and a grammar's at its last token.
        let end = ends.first().copied().unwrap_or_else(|| u32::try_from(size).unwrap_or(0));
        let json: Value =
            serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))?;
        let grammars = Grammars::new(&json, &tokenizer, end, size);
        let plain = Sampling::default();
        let sampling = Sampling {
            temperature: generation.temperature.unwrap_or(plain.temperature),
            top_p: generation.top_p.unwrap_or(plain.top_p),
            top_k: generation.top_k.unwrap_or(plain.top_k),
            min_p: generation.min_p.unwrap_or(plain.min_p),
            repetition_penalty: generation.repetition_penalty.unwrap_or(plain.repetition_penalty),
            ..plain
        };
        Ok(Self {
            tokenizer,
            template: ChatTemplate::load(directory, || jiff::Zoned::now().datetime())?,
            grammars,
            ends,
            sampling,
            size,
            context: of_config("max_position_embeddings").unwrap_or(2048),
        })
    }
}
