//! OpenAI's API: `/v1/chat/completions` and `/v1/completions` of a language model, [`embeddings`] of
//! a model that gives vectors, `/v1/models` of both.

mod answer;
pub mod embeddings;
mod request;
mod stream;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::common::{self, Common, Failure};
use crate::data::Chat as ChatToRender;
use crate::generate::engine::{Engine, Refused, Request as TextRequest};
use crate::generate::language::Vocabulary;
use answer::{Answer, Kind};
use request::{Chat, Completion, How, Prompt};

pub use embeddings::EmbeddingServer;

/// What the routes share.
pub struct LanguageServer {
    /// Name, figures, bounds.
    pub common: Arc<Common>,
    /// Tokens, templates, grammars.
    pub vocabulary: Arc<Vocabulary>,
    /// The way to the model.
    pub engine: Engine,
    /// Names of adapters, by their numbers.
    pub adapters: Vec<String>,
    /// When this began, in seconds since 1970.
    pub started: i64,
}

/// A failure in OpenAI's form.
#[derive(Debug)]
struct ApiFailure(Failure);

impl From<Failure> for ApiFailure {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Backlog(refused) => refused.into(),
            Refused::Long { .. } => Self::bad_request(refused.to_string()),
        }
    }
}

impl From<Refused> for ApiFailure {
    fn from(refused: Refused) -> Self {
        Self(refused.into())
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        let body = Json(error_body(&failure.message, failure.status));
        failure.retry_after((failure.status, body).into_response())
    }
}

/// What tells of an error.
fn error_body(message: &str, status: StatusCode) -> Value {
    let kind = match status {
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    };
    let code = (status == StatusCode::NOT_FOUND).then_some("model_not_found");
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// All routes.
pub fn router(server: &Arc<LanguageServer>) -> Router {
    let answers = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(complete))
        .with_state(server.clone());
    let about = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .fallback(unknown)
        .with_state(server.clone());
    common::measured(&server.common, answers)
        .merge(about)
        .merge(common::routes(server.common.clone()))
}

async fn chat(
    State(server): State<Arc<LanguageServer>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiFailure> {
    let mut request: Chat = server.common.parse(body)?;
    let model = server.model(&request.common.model)?;
    let streams = request.common.stream == Some(true);
    let how = request.how(&server.vocabulary.sampling).map_err(Failure::bad_request)?;
    let prompts = move |vocabulary: &Vocabulary| Ok(vec![vocabulary.chat_prompt(&request)?]);
    server.answer((Kind::Chat, model), how, streams, prompts).await
}

async fn complete(
    State(server): State<Arc<LanguageServer>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiFailure> {
    let mut request: Completion = server.common.parse(body)?;
    let model = server.model(&request.common.model)?;
    let streams = request.common.stream == Some(true);
    let how = request.how(&server.vocabulary.sampling).map_err(Failure::bad_request)?;
    let prompts = move |vocabulary: &Vocabulary| vocabulary.prompts(request.prompt);
    server.answer((Kind::Completion, model), how, streams, prompts).await
}

/// What a request asks by its `model`.
struct Asked {
    name: String,
    /// Number of its adapters; none of the model itself.
    adapter: Option<usize>,
}

impl LanguageServer {
    fn model(&self, name: &str) -> Result<Asked, Failure> {
        let adapter = self.adapters.iter().position(|known| known == name);
        if adapter.is_none() && name != self.common.name {
            let all = std::iter::once(&self.common.name).chain(&self.adapters);
            let all: Vec<String> = all.map(|known| format!("{known:?}")).collect();
            let message = format!("there is no model {name:?}; this server has {}", all.join(", "));
            return Err(Failure { status: StatusCode::NOT_FOUND, message });
        }
        Ok(Asked { name: name.to_owned(), adapter })
    }

    /// Answers with texts after `prompts`, which a thread of its own makes: tokenizing a long text
    /// takes milliseconds that others would wait.
    async fn answer(
        self: &Arc<Self>,
        (kind, Asked { name, adapter }): (Kind, Asked),
        how: How,
        streams: bool,
        prompts: impl FnOnce(&Vocabulary) -> Result<Vec<Vec<u32>>, String> + Send + 'static,
    ) -> Result<Response, ApiFailure> {
        let own = self.clone();
        let (choices, tells_usage) = (how.choices, how.tells_usage);
        let prepared = tokio::task::spawn_blocking(move || {
            let prompts = prompts(&own.vocabulary).map_err(Failure::bad_request)?;
            own.requests(&how, prompts, adapter)
        });
        let texts = prepared.await.map_err(|error| Failure {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("the request could not be prepared: {error}"),
        })??;
        let prompt_tokens = texts.iter().step_by(choices).map(|text| text.prompt.len()).sum();
        let events = self.engine.generate(texts)?;
        let answer = Answer::new((kind, name), self, (prompt_tokens, choices));
        if streams {
            return Ok(stream::respond(answer, events, tells_usage));
        }
        Ok(Json(answer.whole(events).await?).into_response())
    }
}

impl Vocabulary {
    fn chat_prompt(&self, request: &Chat) -> Result<Vec<u32>, String> {
        let template = self
            .template
            .as_ref()
            .ok_or("this model has no chat template; send a text to /v1/completions")?;
        let messages = request.messages.iter().map(|message| for_template(plain(message)?));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let variables = request.template_variables.clone().map(for_template).transpose()?;
        let text = template.render(ChatToRender {
            messages: &messages,
            add_generation_prompt: true,
            variables: variables.as_ref(),
            ..ChatToRender::default()
        })?;
        // A template writes the special tokens itself.
        self.tokens(&text, false)
    }

    fn prompts(&self, prompt: Prompt) -> Result<Vec<Vec<u32>>, String> {
        match prompt {
            Prompt::Text(text) => Ok(vec![self.tokens(&text, true)?]),
            Prompt::Texts(texts) => texts.iter().map(|text| self.tokens(text, true)).collect(),
            Prompt::Tokens(tokens) => Ok(vec![tokens]),
            Prompt::ManyTokens(many) => Ok(many),
        }
    }

    fn tokens(&self, text: &str, special: bool) -> Result<Vec<u32>, String> {
        let encoding = self.tokenizer.encode_fast(text, special);
        let encoding = encoding.map_err(|error| format!("the prompt has no tokens: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }
}

impl LanguageServer {
    /// The texts to make of each prompt, prompt by prompt.
    fn requests(
        &self,
        how: &How,
        prompts: Vec<Vec<u32>>,
        adapter: Option<usize>,
    ) -> Result<Vec<TextRequest>, Failure> {
        let refuse = |message: String| Err(Failure::bad_request(message));
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let texts = prompts.len().saturating_mul(how.choices);
        self.engine.check(texts, longest)?;
        if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
            return refuse("a prompt is empty; a text needs a beginning".into());
        }
        let Vocabulary { size, grammars, .. } = &*self.vocabulary;
        let ids = prompts.iter().flatten().chain(how.sampling.logit_bias.keys());
        if let Some(token) = ids.into_iter().find(|token| **token as usize >= *size) {
            return refuse(format!("there is no token {token}; the model has {size}"));
        }
        let matcher = how.shape.as_ref().map(|shape| grammars.matcher(shape)).transpose();
        let matcher = match matcher {
            Ok(matcher) => matcher,
            Err(error) => return refuse(format!("response_format cannot be kept to: {error}")),
        };
        let mut requests = Vec::with_capacity(texts);
        for prompt in prompts {
            for number in 0..how.choices {
                let mut sampling = how.sampling.clone();
                sampling.seed = sampling.seed.wrapping_add(number as u64);
                requests.push(TextRequest {
                    prompt: prompt.clone(),
                    sampling,
                    stops: how.stops.clone(),
                    max_tokens: how.max_tokens.unwrap_or(usize::MAX),
                    ignores_end: how.ignores_end,
                    matcher: matcher.as_ref().map(llguidance::Matcher::deep_clone),
                    adapter,
                });
            }
        }
        Ok(requests)
    }
}

fn for_template(value: Value) -> Result<minijinja::Value, String> {
    serde_json::from_value(value).map_err(|error| format!("the chat has no such form: {error}"))
}

/// A message whose content is one text: templates know no parts.
fn plain(message: &Value) -> Result<Value, String> {
    let Some(parts) = message.get("content").and_then(Value::as_array) else {
        return match message.get("content") {
            Some(Value::String(_)) => Ok(message.clone()),
            _ => Err("each message needs a content that is a text, or a list of text parts".into()),
        };
    };
    let text = |part: &Value| match part.get("text") {
        Some(Value::String(text)) if part.get("type") == Some(&json!("text")) => Ok(text.clone()),
        _ => Err("only text parts are supported in a message's content".to_owned()),
    };
    let text = parts.iter().map(text).collect::<Result<Vec<_>, _>>()?.concat();
    let mut message = message.clone();
    message["content"] = Value::String(text);
    Ok(message)
}

async fn models(State(server): State<Arc<LanguageServer>>) -> Response {
    let own = std::iter::once(server.card(&server.common.name));
    let cards: Vec<Value> =
        own.chain(server.adapters.iter().map(|name| server.card(name))).collect();
    Json(json!({"object": "list", "data": cards})).into_response()
}

async fn model(
    State(server): State<Arc<LanguageServer>>,
    Path(name): Path<String>,
) -> Result<Response, ApiFailure> {
    let Asked { name, .. } = server.model(&name)?;
    Ok(Json(server.card(&name)).into_response())
}

impl LanguageServer {
    fn card(&self, name: &str) -> Value {
        let mut card = card(&self.common, self.started, self.engine.room());
        if name != self.common.name {
            card["id"] = name.into();
            card["parent"] = self.common.name.clone().into();
        }
        card
    }
}

/// What `/v1/models` tells of a model that reads so many tokens.
fn card(common: &Common, started: i64, most_tokens: usize) -> Value {
    json!({
        "id": common.name, "object": "model", "created": started, "owned_by": "hearth",
        "root": common.revision, "max_model_len": most_tokens,
    })
}

async fn unknown(request: Request) -> ApiFailure {
    let what = "this is a language model; chats go to POST /v1/chat/completions, texts to POST /v1/completions";
    unknown_route(&request, what)
}

/// A route that this model does not have; `what` says which it does.
fn unknown_route(request: &Request, what: &str) -> ApiFailure {
    let message = format!("there is no {} {}: {what}", request.method(), request.uri().path());
    ApiFailure(Failure { status: StatusCode::NOT_FOUND, message })
}
