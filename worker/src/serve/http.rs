//! Routes of a classifier.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use super::cache::AnswerCache;
use super::common::{self, Common, Failure};
use super::engine::{Engine, EngineError, Scores};
use super::{classify, inference};
use crate::data::TextEncoder;

/// What the routes share.
pub struct Server {
    /// Name, figures, bounds.
    pub common: Arc<Common>,
    /// Classes in the order of their ids.
    pub labels: Vec<String>,
    /// Makes tokens of texts.
    pub encoder: TextEncoder,
    /// The way to the model.
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

/// All routes.
pub fn router(server: &Arc<Server>) -> Router {
    let answers = Router::new()
        .route("/v1/classify", post(classify))
        .route("/v2/models/{name}/infer", post(infer))
        .with_state(server.clone());
    let about = Router::new()
        .route("/v2", get(about))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .fallback(unknown)
        .with_state(server.clone());
    common::measured(&server.common, answers)
        .merge(about)
        .merge(common::routes(server.common.clone()))
}

async fn classify(
    State(server): State<Arc<Server>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let request: classify::Request = server.common.parse(body)?;
    if request.top_k == Some(0) {
        return Err(Failure::bad_request("top_k is 0; ask for at least one class"));
    }
    let top_k = request.top_k;
    let scores = server.scores(request.inputs.into_texts()).await?;
    let outputs =
        scores.iter().map(|scores| classify::ranked(&server.labels, scores, top_k)).collect();
    let (model, revision) = (server.common.name.clone(), server.common.revision.clone());
    Ok(Json(classify::Response { model, revision, outputs }).into_response())
}

async fn infer(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    server.common.check_name(&name)?;
    let request: inference::Request = server.common.parse(body)?;
    let texts = request.texts().map_err(Failure::bad_request)?;
    let scores = server.scores(texts).await?;
    let outputs = request.outputs(&server.labels, &scores);
    Ok(Json(inference::Response {
        model_name: server.common.name.clone(),
        model_version: server.common.revision.clone(),
        id: request.id,
        outputs,
    })
    .into_response())
}

impl Server {
    async fn scores(self: &Arc<Self>, texts: Vec<String>) -> Result<Vec<Scores>, Failure> {
        if texts.is_empty() {
            return Err(Failure::bad_request("there is no text to classify"));
        }
        self.engine.check(texts.len())?;
        let server = self.clone();
        // A long text takes milliseconds: not on the threads that serve others.
        let encoded = tokio::task::spawn_blocking(move || {
            texts.iter().map(|text| server.encoder.encode(text)).collect::<Result<Vec<_>, _>>()
        })
        .await
        .map_err(|error| Failure {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: format!("the tokenizer failed: {error}"),
        })?
        .map_err(|error| Failure::bad_request(format!("the text cannot be tokenized: {error}")))?;
        Ok(match &self.cache {
            None => self.engine.scores(encoded).await?,
            Some(cache) => {
                let compute = |texts| {
                    let engine = self.engine.clone();
                    async move { engine.scores(texts).await }
                };
                cache.answers(encoded, compute).await?
            }
        })
    }
}

async fn about() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"name": "hearth", "version": version, "extensions": []})).into_response()
}

async fn metadata(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    server.common.check_name(&name)?;
    let metadata =
        inference::metadata(&server.common.name, &server.common.revision, &server.labels);
    Ok(Json(metadata).into_response())
}

async fn model_ready(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    server.common.check_name(&name)?;
    let ready = server.common.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(json!({"name": name, "ready": ready}))).into_response())
}

async fn unknown(request: Request) -> Failure {
    let message = format!(
        "there is no {} {}; texts go to POST /v1/classify or /v2/models/NAME/infer",
        request.method(),
        request.uri().path()
    );
    Failure { status: StatusCode::NOT_FOUND, message }
}
