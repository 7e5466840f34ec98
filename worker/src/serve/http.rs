//! Routes of a classifier.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_crds::model_deployment::ServingRuntime;
use serde::Deserialize;
use serde_json::json;

use super::classify::Threshold;
use super::common::{self, Common, Failure};
use super::engine::Answer;
use super::reads::{Reads, Way};
use super::{binary, classify, inference, scans};

/// What the routes share.
pub struct Server<R: Reads> {
    /// Name, figures, bounds.
    pub common: Arc<Common>,
    /// Classes in the order of their ids.
    pub labels: Vec<String>,
    /// What decides between two of them.
    pub threshold: Option<Threshold>,
    /// What computes it.
    pub runtime: ServingRuntime,
    /// The way to the model.
    pub way: Arc<Way<R>>,
}

/// All routes.
pub fn router<R: Reads>(server: &Arc<Server<R>>) -> Router {
    let answers = Router::new()
        .route("/v1/classify", post(classify::<R>))
        .route("/v2/models/{name}/infer", post(infer::<R>))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer::<R>))
        .with_state(server.clone());
    let about = Router::new()
        .route("/v2", get(about))
        .route("/v2/models/{name}", get(metadata::<R>))
        .route("/v2/models/{name}/ready", get(model_ready::<R>))
        .route("/v2/models/{name}/versions/{version}", get(metadata::<R>))
        .route("/v2/models/{name}/versions/{version}/ready", get(model_ready::<R>))
        .fallback(unknown::<R>)
        .with_state(server.clone());
    common::measured(&server.common, answers)
        .merge(about)
        .merge(common::routes(server.common.clone()))
}

async fn classify<R: Reads>(
    State(server): State<Arc<Server<R>>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok());
    if R::SCANS
        && let Some(media) = media
        && scans::is_of(media)
    {
        let files = scans::files(media, &server.common.whole(body)?)?;
        return Ok(Json(server.report(files, at_least_one(asked.top_k)?).await?).into_response());
    }
    let alone = R::MEDIA.zip(media).is_some_and(|(known, media)| media.starts_with(known));
    let (inputs, top_k) = if alone {
        (vec![server.common.whole(body)?.into()], asked.top_k)
    } else {
        let request: classify::Request = server.common.parse(body)?;
        let texts = request.inputs.into_texts().into_iter().enumerate();
        let bytes =
            |(index, text)| R::bytes_of(text).map_err(|why| format!("{} {index} {why}", R::INPUT));
        let inputs: Result<Vec<_>, _> = texts.map(bytes).collect();
        (inputs.map_err(Failure::bad_request)?, request.top_k.or(asked.top_k))
    };
    let top_k = at_least_one(top_k)?;
    let scores = server.scores(inputs).await?;
    let ranked = |scores: &Answer| {
        classify::ranked(&server.labels, scores, server.threshold.as_ref(), top_k)
    };
    Ok(Json(classify::Response {
        model: server.common.name.clone(),
        revision: server.common.revision.clone(),
        outputs: scores.iter().map(ranked).collect(),
        threshold: server.threshold.clone(),
    })
    .into_response())
}

fn at_least_one(top_k: Option<usize>) -> Result<Option<usize>, Failure> {
    match top_k {
        Some(0) => Err(Failure::bad_request("top_k is 0; ask for at least one class")),
        top_k => Ok(top_k),
    }
}

async fn infer<R: Reads>(
    State(server): State<Arc<Server<R>>>,
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
    let inputs = request.inputs::<R>(behind).map_err(Failure::bad_request)?;
    let scores = server.scores(inputs).await?;
    let outputs = request.outputs(&server.labels, server.threshold.as_ref(), &scores);
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

/// What the address of a picture's request may ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    top_k: Option<usize>,
}

/// The model that a path names, and its version where it names one.
#[derive(Debug, Deserialize)]
struct ModelPath {
    name: String,
    version: Option<String>,
}

impl<R: Reads> Server<R> {
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

    async fn scores(&self, inputs: Vec<Vec<u8>>) -> Result<Vec<Answer>, Failure> {
        self.way.check(inputs.len())?;
        self.way.answers(self.way.rows(inputs).await?).await
    }
}

async fn about() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let extensions = inference::EXTENSIONS;
    Json(json!({"name": "hearth", "version": version, "extensions": extensions})).into_response()
}

async fn metadata<R: Reads>(
    State(server): State<Arc<Server<R>>>,
    Path(path): Path<ModelPath>,
) -> Result<Response, Failure> {
    server.check(&path)?;
    let classes = (server.labels.as_slice(), server.threshold.as_ref());
    let metadata = inference::metadata::<R>(&server.common, server.runtime, classes);
    Ok(Json(metadata).into_response())
}

async fn model_ready<R: Reads>(
    State(server): State<Arc<Server<R>>>,
    Path(path): Path<ModelPath>,
) -> Result<Response, Failure> {
    server.check(&path)?;
    let ready = server.common.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(json!({"name": path.name, "ready": ready}))).into_response())
}

async fn unknown<R: Reads>(request: Request) -> Failure {
    let message = format!(
        "there is no {} {}: this model is a classifier; {}",
        request.method(),
        request.uri().path(),
        R::HOW
    );
    Failure { status: StatusCode::NOT_FOUND, message }
}
