//! Texts to what a model gives of them: its tokens, what was computed before, the computing thread.

use std::sync::Arc;

use axum::http::StatusCode;

use super::cache::AnswerCache;
use super::common::Failure;
use super::engine::{Answer, Engine, EngineError};
use crate::data::TextEncoder;

/// The way of texts to a model.
pub struct Texts {
    /// Makes tokens of texts.
    pub encoder: TextEncoder,
    /// The way to the computing thread.
    pub engine: Engine,
    /// Answers that were computed before.
    pub cache: Option<AnswerCache>,
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Refused(refused) => refused.into(),
            EngineError::Model(_) | EngineError::Gone => {
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: error.to_string() }
            }
        }
    }
}

impl Texts {
    /// Refuses more texts than could ever wait: before they cost anything.
    pub fn check(&self, texts: usize) -> Result<(), Failure> {
        if texts == 0 {
            return Err(Failure::bad_request("there is no text; send at least one"));
        }
        Ok(self.engine.check(texts)?)
    }

    /// Tokens of texts, each cut at the model's longest.
    pub async fn encode(self: &Arc<Self>, texts: Vec<String>) -> Result<Vec<Vec<u32>>, Failure> {
        let own = self.clone();
        // A long text takes milliseconds: not on the threads that serve others.
        tokio::task::spawn_blocking(move || {
            texts.iter().map(|text| own.encoder.encode(text)).collect::<Result<Vec<_>, _>>()
        })
        .await
        .map_err(|error| Failure {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("the tokenizer failed: {error}"),
        })?
        .map_err(|error| Failure::bad_request(format!("the text cannot be tokenized: {error}")))
    }

    /// What the model gives of texts that were tokenized, in their order.
    pub async fn answers(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Answer>, Failure> {
        Ok(match &self.cache {
            None => self.engine.answers(texts).await?,
            Some(cache) => {
                let compute = |texts| {
                    let engine = self.engine.clone();
                    async move { engine.answers(texts).await }
                };
                cache.answers(texts, compute).await?
            }
        })
    }
}
