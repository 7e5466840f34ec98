//! What a text may be: any JSON object, or what a JSON schema describes, kept to token by token
//! (llguidance).

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, token_bytes_from_tokenizer_json};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// What a text has to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A JSON document that this schema describes.
    Schema(Value),
    /// A JSON object.
    Object,
}

/// Why a text cannot be made to have a shape.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

/// Makes grammars for the tokens of one model.
pub struct Grammars {
    factory: Result<ParserFactory, String>,
    /// Bytes of each token; those of special ones begin with 0xFF.
    bytes: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Grammars")
            .field("tokens", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

impl Grammars {
    /// For the tokens of a `tokenizer.json`, of which `end` ends a text, and a model that knows so
    /// many. Where the bytes of tokens cannot be told (they can of byte-level and byte-fallback
    /// tokenizers), no text can be made to have a shape.
    pub fn new(json: &Value, tokenizer: &Tokenizer, end: u32, vocabulary: usize) -> Self {
        let known = token_bytes_from_tokenizer_json(json).map_err(|error| format!("{error:#}"));
        let size = vocabulary.max(known.as_ref().map_or(0, Vec::len));
        let (factory, bytes) = match known {
            Ok(mut bytes) => {
                bytes.resize(size, Vec::new());
                (factory(&bytes, end).map_err(|error| format!("{error:#}")), bytes)
            }
            Err(why) => {
                let name = |id| tokenizer.id_to_token(id).unwrap_or_default().into_bytes();
                (Err(why), (0..).map(name).take(size).collect())
            }
        };
        Self { factory, bytes }
    }

    /// Bytes of a token's text.
    pub fn bytes(&self, token: u32) -> &[u8] {
        let bytes = self.bytes.get(token as usize).map_or(&[][..], Vec::as_slice);
        bytes.strip_prefix(&[0xff]).unwrap_or(bytes)
    }

    /// A text that keeps to `shape`.
    pub fn matcher(&self, shape: &Shape) -> Result<Matcher, GrammarError> {
        let factory = self.factory.as_ref().map_err(|why| GrammarError(why.clone()))?;
        let schema = match shape {
            Shape::Schema(schema) => schema.clone(),
            Shape::Object => json!({"type": "object"}),
        };
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let matcher = Matcher::new(factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(GrammarError(error)),
            None => Ok(matcher),
        }
    }
}

fn factory(bytes: &[Vec<u8>], end: u32) -> anyhow::Result<ParserFactory> {
    let size = u32::try_from(bytes.len())?;
    let trie = TokTrie::from(&TokRxInfo::new(size, end), bytes);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment)?;
    factory.quiet();
    Ok(factory)
}
