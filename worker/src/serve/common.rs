//! What all servers share: probes, figures, bodies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hearth_crds::routing::{DRIFT_PATH, LOAD_PATH};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::drift::Watching;
use super::load::TokenLoad;
use super::metrics::ServingMetrics;
use crate::agent::http::exposition;
use crate::backlog::Refused;

/// What the routes of every server share.
#[derive(Debug)]
pub struct Common {
    /// Name of the served model.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// Figures.
    pub metrics: Arc<ServingMetrics>,
    /// Warmed up, and not asked to stop.
    pub ready: Arc<AtomicBool>,
    /// Largest body in bytes.
    pub max_body: usize,
    /// Tokens in flight, where the model counts them.
    pub tokens: Option<Arc<TokenLoad>>,
    /// How far requests are from training rows, where that is watched.
    pub drift: Watching,
}

/// An error as the client sees it: a status and a sentence.
#[derive(Debug)]
pub struct Failure {
    /// Status.
    pub status: StatusCode,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Failure {
    /// Of a request that asks for what cannot be.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// Tells clients when to come again, where that helps.
    pub fn retry_after(&self, mut response: Response) -> Response {
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Full { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refused::TooMany { .. } => StatusCode::BAD_REQUEST,
            Refused::Closed => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, message: refused.to_string() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = Json(json!({ "error": self.message }));
        self.retry_after((self.status, body).into_response())
    }
}

impl Common {
    /// A body as JSON.
    pub fn parse<T: DeserializeOwned>(
        &self,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<T, Failure> {
        from_json(&self.whole(body)?)
    }

    /// A body that came whole.
    pub fn whole(&self, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Failure> {
        body.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Failure {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                message: format!(
                    "the body is larger than {} bytes; send less at once",
                    self.max_body
                ),
            },
            status => Failure { status, message: rejection.body_text() },
        })
    }

    /// Refuses a name that is not the model's.
    pub fn check_name(&self, name: &str) -> Result<(), Failure> {
        if name == self.name {
            return Ok(());
        }
        let message = format!("there is no model {name:?}; this server has {:?}", self.name);
        Err(Failure { status: StatusCode::NOT_FOUND, message })
    }

    /// Whether requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// What JSON says.
pub fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(json).map_err(|error| {
        Failure::bad_request(format!("the body is not what it should be: {error}"))
    })
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

/// Probes and figures.
pub fn routes(common: Arc<Common>) -> Router {
    Router::new()
        .route("/v2/health/live", get(alive))
        .route("/v2/health/ready", get(ready))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route(LOAD_PATH, get(load))
        .route(DRIFT_PATH, get(drift))
        .with_state(common)
}

/// Routes that answer requests, measured, and with bodies bounded.
pub fn measured(common: &Arc<Common>, answers: Router) -> Router {
    answers
        .layer(middleware::from_fn_with_state(common.clone(), measure))
        .layer(DefaultBodyLimit::max(common.max_body))
}

async fn measure(State(common): State<Arc<Common>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    common.metrics.request(response.status().as_u16(), began.elapsed().as_secs_f64());
    response
}

async fn alive() -> Response {
    Json(json!({"live": true})).into_response()
}

async fn ready(State(common): State<Arc<Common>>) -> Response {
    let ready = common.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready }))).into_response()
}

/// How far back a load's peak goes.
#[derive(Debug, Deserialize)]
struct Window {
    window: u32,
}

async fn load(State(common): State<Arc<Common>>, Query(asked): Query<Window>) -> Response {
    let read = |tokens: &Arc<TokenLoad>| tokens.read(&common.revision, asked.window);
    Json(common.tokens.as_ref().map(read)).into_response()
}

async fn drift(State(common): State<Arc<Common>>) -> Response {
    Json(common.drift.report()).into_response()
}

async fn metrics(State(common): State<Arc<Common>>) -> Response {
    exposition(common.metrics.encode())
}
