//! Texts piece by piece, as server-sent events.

use std::convert::Infallible;

use axum::http::StatusCode;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, SelectAll, Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use super::answer::{Answer, Kind, Usage, reason};
use super::error_body;
use crate::generate::engine::Event;
use crate::generate::sampling::Chosen;

/// The pieces of an answer, in the order in which they come. When the client goes away, the
/// channels close, and the texts are given up.
pub(super) fn respond(
    answer: Answer,
    events: Vec<UnboundedReceiver<Event>>,
    tells_usage: bool,
) -> Response {
    let pieces = Pieces::new(answer, events, tells_usage);
    let events = stream::unfold(pieces, async |mut pieces| {
        let next = pieces.next().await?;
        Some((stream::iter(next), pieces))
    });
    let events = events.flatten().map(|text| Ok::<_, Infallible>(sse::Event::default().data(text)));
    // A proxy that buffers would make pieces of no use.
    let headers = [("x-accel-buffering", "no")];
    (headers, Sse::new(events).keep_alive(KeepAlive::default())).into_response()
}

/// A text of the answer: what comes of it, and what came.
type Texts = SelectAll<std::pin::Pin<Box<dyn Stream<Item = (usize, Event)> + Send>>>;

struct Pieces {
    answer: Answer,
    texts: Texts,
    begun: Vec<bool>,
    /// Characters of each text's tokens that came.
    offsets: Vec<usize>,
    usage: Usage,
    tells_usage: bool,
    open: usize,
}

impl Pieces {
    fn new(answer: Answer, events: Vec<UnboundedReceiver<Event>>, tells_usage: bool) -> Self {
        let open = events.len();
        let texts = events.into_iter().enumerate().map(|(index, events)| {
            let events = stream::unfold(events, async |mut events| {
                let event = events.recv().await?;
                Some((event, events))
            });
            events.map(move |event| (index, event)).boxed()
        });
        Self {
            answer,
            texts: stream::select_all(texts),
            begun: vec![false; open],
            offsets: vec![0; open],
            usage: Usage::default(),
            tells_usage,
            open,
        }
    }

    /// The next messages; none after `[DONE]`.
    async fn next(&mut self) -> Option<Vec<String>> {
        if self.open == 0 {
            return None;
        }
        let Some((index, event)) = self.texts.next().await else {
            return Some(self.fail("the computing thread has ended"));
        };
        let mut messages = Vec::new();
        if !std::mem::replace(&mut self.begun[index], true) && self.answer.kind == Kind::Chat {
            let delta = json!({"role": "assistant", "content": ""});
            messages.push(self.piece(index, delta, Value::Null, Value::Null));
        }
        match event {
            Event::Token { text, chosen } => {
                if !text.is_empty() || chosen.logprobs.is_some() {
                    messages.push(self.grown(index, text, &[chosen]));
                }
            }
            Event::End { text, reason: why, chosen, cached } => {
                if !text.is_empty() {
                    messages.push(self.grown(index, text, &[]));
                }
                let delta = if self.answer.kind == Kind::Chat { json!({}) } else { json!("") };
                messages.push(self.piece(index, delta, Value::Null, reason(why).into()));
                self.answer.count(&mut self.usage, index, Usage { chosen, cached });
                self.open -= 1;
                if self.open == 0 {
                    messages.extend(self.end());
                }
            }
            Event::Failed(why) => messages.extend(self.fail(&why)),
        }
        Some(messages)
    }

    fn grown(&mut self, index: usize, text: String, tokens: &[Chosen]) -> String {
        let logprobs = self.answer.logprobs(tokens, &mut self.offsets[index]);
        let delta = match self.answer.kind {
            Kind::Chat => json!({ "content": text }),
            Kind::Completion => text.into(),
        };
        self.piece(index, delta, logprobs, Value::Null)
    }

    fn piece(&self, index: usize, delta: Value, logprobs: Value, reason: Value) -> String {
        let name = if self.answer.kind == Kind::Chat { "delta" } else { "text" };
        let mut choice = json!({ "index": index });
        choice[name] = delta;
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = reason;
        let mut object = self.answer.object(&[choice], true);
        if self.tells_usage {
            object["usage"] = Value::Null;
        }
        object.to_string()
    }

    fn end(&self) -> Vec<String> {
        let usage = self.tells_usage.then(|| {
            let mut object = self.answer.object(&[], true);
            object["usage"] = self.answer.usage(self.usage);
            object.to_string()
        });
        usage.into_iter().chain(["[DONE]".to_owned()]).collect()
    }

    /// The status is out already: the stream tells of the error, and ends.
    fn fail(&mut self, why: &str) -> Vec<String> {
        self.open = 0;
        let message = format!("the text could not be made: {why}");
        vec![error_body(&message, StatusCode::INTERNAL_SERVER_ERROR).to_string()]
    }
}
