//! `POST /v1/embeddings`, as OpenAI's API reference has it, of a model that gives vectors.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::request::Prompt;
use super::{ApiFailure, card, unknown_route};
use crate::data::TextEncoder;
use crate::serve::common::{self, Common, Failure};
use crate::serve::engine::Answer;
use crate::serve::reads::{Row, Way};

/// What the routes share.
pub struct EmbeddingServer {
    /// Name, figures, bounds.
    pub common: Arc<Common>,
    /// The way to the model.
    pub texts: Arc<Way<TextEncoder>>,
    /// Numbers of a vector.
    pub width: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// When this began, in seconds since 1970.
    pub started: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Embeddings {
    model: String,
    input: Prompt,
    encoding_format: Option<Format>,
    dimensions: Option<usize>,
    #[serde(rename = "user")]
    _user: Option<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Float,
    Base64,
}

#[derive(Serialize)]
struct Entry<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Floats(&'a [f32]),
    /// Of little-endian 32-bit floats.
    Base64(String),
}

#[derive(Serialize)]
struct Answers<'a> {
    object: &'static str,
    data: Vec<Entry<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// All routes.
pub fn router(server: &Arc<EmbeddingServer>) -> Router {
    let answers = Router::new().route("/v1/embeddings", post(embed)).with_state(server.clone());
    let about = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .fallback(unknown)
        .with_state(server.clone());
    common::measured(&server.common, answers)
        .merge(about)
        .merge(common::routes(server.common.clone()))
}

async fn embed(
    State(server): State<Arc<EmbeddingServer>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiFailure> {
    let request: Embeddings = server.common.parse(body)?;
    server.common.check_name(&request.model)?;
    let width = server.width;
    if let Some(asked) = request.dimensions.filter(|asked| *asked != width) {
        return Err(Failure::bad_request(format!(
            "dimensions is {asked}, and this model gives {width}: it was not trained to be cut"
        ))
        .into());
    }
    let tokens = server.tokens(request.input).await?;
    let prompt_tokens = tokens.iter().map(|row| row.units.len()).sum();
    let vectors = server.texts.answers(tokens).await?;
    let format = request.encoding_format.unwrap_or_default();
    let data = vectors.iter().enumerate().map(|(index, vector)| Entry {
        object: "embedding",
        index,
        embedding: encoded(vector, format),
    });
    let usage = Usage { prompt_tokens, total_tokens: prompt_tokens };
    let data = data.collect();
    Ok(Json(Answers { object: "list", data, model: &server.common.name, usage }).into_response())
}

fn encoded(vector: &Answer, format: Format) -> Vector<'_> {
    match format {
        Format::Float => Vector::Floats(vector),
        Format::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}

impl EmbeddingServer {
    async fn tokens(&self, input: Prompt) -> Result<Vec<Row<u32>>, Failure> {
        let texts = match input {
            Prompt::Text(text) => vec![text],
            Prompt::Texts(texts) => texts,
            Prompt::Tokens(tokens) => return self.check_tokens(vec![tokens]),
            Prompt::ManyTokens(many) => return self.check_tokens(many),
        };
        self.texts.check(texts.len())?;
        if let Some(empty) = texts.iter().position(String::is_empty) {
            return Err(Failure::bad_request(format!("input {empty} is an empty text")));
        }
        self.texts.rows(texts.into_iter().map(String::into_bytes).collect()).await
    }

    fn check_tokens(&self, many: Vec<Vec<u32>>) -> Result<Vec<Row<u32>>, Failure> {
        self.texts.check(many.len())?;
        let most = self.texts.reader.max_length();
        for (index, tokens) in many.iter().enumerate() {
            if tokens.is_empty() || tokens.len() > most {
                return Err(Failure::bad_request(format!(
                    "input {index} has {} tokens; this model reads 1 to {most}",
                    tokens.len()
                )));
            }
            if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocabulary) {
                return Err(Failure::bad_request(format!(
                    "there is no token {token}; the model has {}",
                    self.vocabulary
                )));
            }
        }
        Ok(many.into_iter().map(|units| Row { units, facts: Vec::new() }).collect())
    }

    fn card(&self) -> serde_json::Value {
        card(&self.common, self.started, self.texts.reader.max_length())
    }
}

async fn models(State(server): State<Arc<EmbeddingServer>>) -> Response {
    Json(json!({"object": "list", "data": [server.card()]})).into_response()
}

async fn model(
    State(server): State<Arc<EmbeddingServer>>,
    Path(name): Path<String>,
) -> Result<Response, ApiFailure> {
    server.common.check_name(&name)?;
    Ok(Json(server.card()).into_response())
}

async fn unknown(request: Request) -> ApiFailure {
    unknown_route(&request, "this model gives embeddings: texts go to POST /v1/embeddings")
}
