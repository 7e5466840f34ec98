//! Routes of a classifier.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_crds::model_deployment::ServingRuntime;
use serde::Deserialize;
use serde_json::json;

use super::common::{self, Common, Failure};
use super::engine::Answer;
use super::texts::Texts;
use super::{binary, classify, inference};

/// What the routes share.
pub struct Server {
    /// Name, figures, bounds.
    pub common: Arc<Common>,
    /// Classes in the order of their ids.
    pub labels: Vec<String>,
    /// What computes it.
    pub runtime: ServingRuntime,
    /// The way to the model.
    pub texts: Arc<Texts>,
}

/// All routes.
pub fn router(server: &Arc<Server>) -> Router {
    let answers = Router::new()
        .route("/v1/classify", post(classify))
        .route("/v2/models/{name}/infer", post(infer))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer))
        .with_state(server.clone());
    let about = Router::new()
        .route("/v2", get(about))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/versions/{version}", get(metadata))
        .route("/v2/models/{name}/versions/{version}/ready", get(model_ready))
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
    Path(path): Path<ModelPath>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    server.check(&path)?;
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING) {
        let message = format!("the body is encoded as {encoding:?}; send it as it is");
        return Err(Failure { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, message });
    }
    let body = server.common.whole(body)?;
    let json_length = headers.get(binary::JSON_LENGTH).map(HeaderValue::as_bytes);
    let (json, behind) = binary::split(&body, json_length).map_err(Failure::bad_request)?;
    let request: inference::Request = common::from_json(json)?;
    let texts = request.texts(behind).map_err(Failure::bad_request)?;
    let scores = server.scores(texts).await?;
    let outputs = request.outputs(&server.labels, &scores);
    let response = inference::Response {
        model_name: server.common.name.clone(),
        model_version: server.common.revision.clone(),
        id: request.id,
        outputs: outputs.tensors,
    };
    if outputs.binary.is_empty() {
        return Ok(Json(response).into_response());
    }
    let mut answer = serde_json::to_vec(&response).map_err(|error| Failure {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        message: format!("the answer is no JSON: {error}"),
    })?;
    let json_length = answer.len().to_string();
    answer.extend(outputs.binary);
    let headers = [
        (header::CONTENT_TYPE.as_str(), "application/octet-stream"),
        (binary::JSON_LENGTH, &json_length),
    ];
    Ok((headers, answer).into_response())
}

/// The model that a path names, and its version where it names one.
#[derive(Debug, Deserialize)]
struct ModelPath {
    name: String,
    version: Option<String>,
}

impl Server {
    /// Refuses another model, or another revision of it.
    fn check(&self, ModelPath { name, version }: &ModelPath) -> Result<(), Failure> {
        self.common.check_name(name)?;
        let revision = &self.common.revision;
        match version {
            Some(version) if version != revision => {
                let message =
                    format!("there is no version {version:?}; this server has {revision:?}");
                Err(Failure { status: StatusCode::NOT_FOUND, message })
            }
            _ => Ok(()),
        }
    }

    async fn scores(&self, texts: Vec<String>) -> Result<Vec<Answer>, Failure> {
        self.texts.check(texts.len())?;
        self.texts.answers(self.texts.encode(texts).await?).await
    }
}

async fn about() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let extensions = inference::EXTENSIONS;
    Json(json!({"name": "hearth", "version": version, "extensions": extensions})).into_response()
}

async fn metadata(
    State(server): State<Arc<Server>>,
    Path(path): Path<ModelPath>,
) -> Result<Response, Failure> {
    server.check(&path)?;
    let metadata = inference::metadata(&server.common, server.runtime, &server.labels);
    Ok(Json(metadata).into_response())
}

async fn model_ready(
    State(server): State<Arc<Server>>,
    Path(path): Path<ModelPath>,
) -> Result<Response, Failure> {
    server.check(&path)?;
    let ready = server.common.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(json!({"name": path.name, "ready": ready}))).into_response())
}

async fn unknown(request: Request) -> Failure {
    let message = format!(
        "there is no {} {}: this model is a classifier; texts go to POST /v1/classify or /v2/models/NAME/infer",
        request.method(),
        request.uri().path()
    );
    Failure { status: StatusCode::NOT_FOUND, message }
}
