//! Texts as OpenAI's objects.

use std::sync::Arc;

use axum::http::StatusCode;
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{ApiFailure, LanguageServer};
use crate::generate::engine::{EndReason, Event};
use crate::generate::language::Vocabulary;
use crate::generate::sampling::Chosen;
use crate::serve::common::Failure;

/// Which of the two objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// An answer that is being made.
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) vocabulary: Arc<Vocabulary>,
    id: String,
    created: i64,
    model: String,
    revision: String,
    prompt_tokens: usize,
    /// Texts of each prompt, one after another.
    choices: usize,
}

/// Tokens of an answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Chosen.
    pub(super) chosen: usize,
    /// Of the prompts, remembered from other texts.
    pub(super) cached: usize,
}

/// One text, whole.
struct Choice {
    text: String,
    reason: EndReason,
    tokens: Vec<Chosen>,
    usage: Usage,
}

impl Answer {
    pub(super) fn new(
        (kind, model): (Kind, String),
        server: &LanguageServer,
        (prompt_tokens, choices): (usize, usize),
    ) -> Self {
        let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
        Self {
            kind,
            vocabulary: server.vocabulary.clone(),
            id: format!("{prefix}-{:016x}", rand::random::<u64>()),
            created: jiff::Zoned::now().timestamp().as_second(),
            model,
            revision: server.common.revision.clone(),
            prompt_tokens,
            choices,
        }
    }

    /// Counts the tokens of text `index`. A prompt counts once, with the first of its texts.
    pub(super) fn count(&self, usage: &mut Usage, index: usize, text: Usage) {
        usage.chosen += text.chosen;
        if index.is_multiple_of(self.choices) {
            usage.cached += text.cached;
        }
    }

    /// An object with these choices, of a stream or not.
    pub(super) fn object(&self, choices: &[Value], is_piece: bool) -> Value {
        let object = match (self.kind, is_piece) {
            (Kind::Chat, false) => "chat.completion",
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "system_fingerprint": self.revision, "choices": choices,
        })
    }

    pub(super) fn usage(&self, usage: Usage) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": usage.chosen,
            "total_tokens": self.prompt_tokens + usage.chosen,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        })
    }

    /// The whole answer, once all texts are over.
    pub(super) async fn whole(
        &self,
        events: Vec<UnboundedReceiver<Event>>,
    ) -> Result<Value, ApiFailure> {
        let choices = try_join_all(events.into_iter().map(collect)).await?;
        let mut usage = Usage::default();
        for (index, choice) in choices.iter().enumerate() {
            self.count(&mut usage, index, choice.usage);
        }
        let choices: Vec<Value> = choices.into_iter().enumerate().map(|(index, choice)| {
            let logprobs = self.logprobs(&choice.tokens, &mut 0);
            let mut object = match self.kind {
                Kind::Chat => {
                    json!({"message": {"role": "assistant", "content": choice.text, "refusal": null}})
                }
                Kind::Completion => json!({"text": choice.text}),
            };
            object["index"] = index.into();
            object["logprobs"] = logprobs;
            object["finish_reason"] = reason(choice.reason).into();
            object
        }).collect();
        let mut answer = self.object(&choices, false);
        answer["usage"] = self.usage(usage);
        Ok(answer)
    }

    /// What is told of tokens, of which the first is at character `offset` of the text; null where
    /// they have no log-probabilities. Moves `offset` on.
    pub(super) fn logprobs(&self, tokens: &[Chosen], offset: &mut usize) -> Value {
        if tokens.iter().all(|token| token.logprobs.is_none()) {
            return Value::Null;
        }
        match self.kind {
            Kind::Chat => {
                let content = tokens.iter().filter_map(|token| {
                    let told = token.logprobs.as_ref()?;
                    let mut object = self.token(token.id, told.chosen);
                    let top = told.top.iter().map(|(id, logprob)| self.token(*id, *logprob));
                    object["top_logprobs"] = top.collect();
                    Some(object)
                });
                json!({"content": content.collect::<Vec<_>>(), "refusal": null})
            }
            Kind::Completion => self.completion_logprobs(tokens, offset),
        }
    }

    /// The older form: four lists.
    fn completion_logprobs(&self, tokens: &[Chosen], offset: &mut usize) -> Value {
        let (mut texts, mut chosen, mut top, mut offsets) = (vec![], vec![], vec![], vec![]);
        for token in tokens {
            let Some(told) = &token.logprobs else { continue };
            let text = self.text(token.id);
            let pairs = told.top.iter().map(|(id, logprob)| (self.text(*id), json!(logprob)));
            top.push(Value::Object(pairs.collect()));
            offsets.push(*offset);
            *offset += text.chars().count();
            texts.push(text);
            chosen.push(told.chosen);
        }
        json!({
            "tokens": texts, "token_logprobs": chosen, "top_logprobs": top, "text_offset": offsets,
        })
    }

    fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.vocabulary.grammars.bytes(id)).into_owned()
    }

    fn token(&self, id: u32, logprob: f32) -> Value {
        let bytes = self.vocabulary.grammars.bytes(id);
        json!({"token": self.text(id), "logprob": logprob, "bytes": bytes})
    }
}

/// `finish_reason`.
pub(super) fn reason(reason: EndReason) -> &'static str {
    match reason {
        EndReason::Stop => "stop",
        EndReason::Length => "length",
    }
}

async fn collect(mut events: UnboundedReceiver<Event>) -> Result<Choice, ApiFailure> {
    let (mut whole, mut tokens) = (String::new(), Vec::new());
    loop {
        match events.recv().await {
            Some(Event::Token { text, chosen }) => {
                whole.push_str(&text);
                tokens.push(chosen);
            }
            Some(Event::End { text, reason, chosen, cached }) => {
                whole.push_str(&text);
                let usage = Usage { chosen, cached };
                return Ok(Choice { text: whole, reason, tokens, usage });
            }
            Some(Event::Failed(why)) => return Err(failed(&why)),
            None => return Err(failed("the computing thread has ended")),
        }
    }
}

fn failed(why: &str) -> ApiFailure {
    let message = format!("the text could not be made: {why}");
    ApiFailure(Failure { status: StatusCode::INTERNAL_SERVER_ERROR, message })
}
