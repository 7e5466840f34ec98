//! Routes of a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::engine::{Engine, EngineError, Scores};
use super::metrics::ServingMetrics;
use super::queue::Refused;
use super::{classify, inference};
use crate::agent::http::exposition;
use crate::data::TextEncoder;

/// What the routes share.
pub struct Server {
    /// Name of the served model.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// Classes in the order of their ids.
    pub labels: Vec<String>,
    /// Makes tokens of texts.
    pub encoder: TextEncoder,
    /// The way to the model.
    pub engine: Engine,
    /// Figures.
    pub metrics: Arc<ServingMetrics>,
    /// Warmed up, and not asked to stop.
    pub ready: Arc<AtomicBool>,
    /// Largest body in bytes.
    pub max_body: usize,
}

/// An error as the client sees it: a status and a sentence.
struct Failure {
    status: StatusCode,
    message: String,
}

impl Failure {
    fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({ "error": self.message }))).into_response();
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::Refused(Refused::Full { .. }) => StatusCode::TOO_MANY_REQUESTS,
            EngineError::Refused(Refused::TooMany { .. }) => StatusCode::BAD_REQUEST,
            EngineError::Refused(Refused::Closed) => StatusCode::SERVICE_UNAVAILABLE,
            EngineError::Model(_) | EngineError::Gone => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message: error.to_string() }
    }
}

/// While the model loads: alive, and nothing else yet.
pub fn loading() -> Router {
    Router::new().route("/healthz", get(alive)).route("/v2/health/live", get(alive)).fallback(
        || async {
            let message = "the model is being loaded; try again in a second".to_owned();
            Failure { status: StatusCode::SERVICE_UNAVAILABLE, message }
        },
    )
}

/// All routes.
pub fn router(server: Arc<Server>) -> Router {
    let answers = Router::new()
        .route("/v1/classify", post(classify))
        .route("/v2/models/{name}/infer", post(infer))
        .layer(middleware::from_fn_with_state(server.clone(), measure))
        .layer(DefaultBodyLimit::max(server.max_body));
    Router::new()
        .merge(answers)
        .route("/v2", get(about))
        .route("/v2/health/live", get(alive))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .with_state(server)
}

async fn classify(
    State(server): State<Arc<Server>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let request: classify::Request = server.parse(body)?;
    if request.top_k == Some(0) {
        return Err(Failure::bad_request("top_k is 0; ask for at least one class"));
    }
    let top_k = request.top_k;
    let scores = server.scores(request.inputs.into_texts()).await?;
    let outputs =
        scores.iter().map(|scores| classify::ranked(&server.labels, scores, top_k)).collect();
    let (model, revision) = (server.name.clone(), server.revision.clone());
    Ok(Json(classify::Response { model, revision, outputs }).into_response())
}

async fn infer(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    server.check_name(&name)?;
    let request: inference::Request = server.parse(body)?;
    let texts = request.texts().map_err(Failure::bad_request)?;
    let scores = server.scores(texts).await?;
    let outputs = request.outputs(&server.labels, &scores);
    Ok(Json(inference::Response {
        model_name: server.name.clone(),
        model_version: server.revision.clone(),
        id: request.id,
        outputs,
    })
    .into_response())
}

impl Server {
    fn parse<T: DeserializeOwned>(
        &self,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<T, Failure> {
        let body = body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Failure {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                message: format!(
                    "the body is larger than {} bytes; send fewer texts at once",
                    self.max_body
                ),
            },
            status => Failure { status, message: rejection.body_text() },
        })?;
        serde_json::from_slice(&body).map_err(|error| {
            Failure::bad_request(format!("the body is not what it should be: {error}"))
        })
    }

    async fn scores(self: &Arc<Self>, texts: Vec<String>) -> Result<Vec<Scores>, Failure> {
        if texts.is_empty() {
            return Err(Failure::bad_request("there is no text to classify"));
        }
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
        self.metrics.tokens(encoded.iter().map(Vec::len).sum());
        Ok(self.engine.scores(encoded).await?)
    }

    fn check_name(&self, name: &str) -> Result<(), Failure> {
        if name == self.name {
            return Ok(());
        }
        let message = format!("there is no model {name:?}; this server has {:?}", self.name);
        Err(Failure { status: StatusCode::NOT_FOUND, message })
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

async fn measure(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    server.metrics.request(response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

async fn about() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"name": "hearth", "version": version, "extensions": []})).into_response()
}

async fn alive() -> Response {
    Json(json!({"live": true})).into_response()
}

async fn ready(State(server): State<Arc<Server>>) -> Response {
    let ready = server.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready }))).into_response()
}

async fn metadata(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    server.check_name(&name)?;
    let metadata = inference::metadata(&server.name, &server.revision, &server.labels);
    Ok(Json(metadata).into_response())
}

async fn model_ready(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    server.check_name(&name)?;
    let ready = server.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(json!({"name": name, "ready": ready}))).into_response())
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    exposition(server.metrics.encode())
}

async fn unknown(request: Request) -> Failure {
    let message = format!(
        "there is no {} {}; texts go to POST /v1/classify or /v2/models/NAME/infer",
        request.method(),
        request.uri().path()
    );
    Failure { status: StatusCode::NOT_FOUND, message }
}
