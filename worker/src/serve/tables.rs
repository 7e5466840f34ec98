//! Routes of a model of tables.
//!
//! ```text
//! POST /v1/predict
//! {"rows": [{"amount": 12.5, "channel": "card"}], "explain": 3}
//! {"model": "transfers", "revision": "…", "outputs": [{"label": "false", "score": 0.99, …}]}
//! ```
//! `POST /v1/models/NAME:predict` takes `{"instances": […]}` and gives `{"predictions": […]}`
//! (TensorFlow Serving's REST API, which KServe calls its V1 protocol); `POST /v2/models/NAME/infer` takes
//! a tensor of each column (the Open Inference Protocol).

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hearth_crds::model_deployment::ServingRuntime;
use hearth_features::{FeatureClient, LookupError};
use hearth_tabular::{Model, Prediction, Recipe, TabularError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::common::{self, Common, Failure};
use super::{inference, tensors};

/// Most rows of a request that LightGBM computes on the thread that reads it.
const AT_ONCE: usize = 16;
/// Most rows of a request.
const MOST_ROWS: usize = 10_000;

/// A row of a request, by its columns' names.
pub type Row = Map<String, Value>;

/// What the routes share.
pub struct TableServer {
    /// Name, figures, bounds.
    pub common: Arc<Common>,
    /// The model.
    pub model: Arc<Model>,
    /// Features of entities that join rows, where they are kept.
    pub features: Option<FeatureClient>,
    /// What computes it; under libtorch's name LightGBM, where it is of trees.
    pub runtime: ServingRuntime,
}

/// `POST /v1/predict`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    rows: Vec<Row>,
    /// Features to tell of each row, by how much they count.
    #[serde(default)]
    explain: usize,
}

/// An answer to [`Asked`].
#[derive(Debug, Serialize)]
struct Told {
    model: String,
    revision: String,
    outputs: Vec<Prediction>,
}

/// `POST /v1/models/NAME:predict`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Instances {
    instances: Vec<Row>,
}

/// All routes.
pub fn router(server: &Arc<TableServer>) -> Router {
    let answers = Router::new()
        .route("/v1/predict", post(predict))
        .route("/v1/models/{verb}", post(instances))
        .route("/v2/models/{name}/infer", post(infer))
        .with_state(server.clone());
    let about = Router::new()
        .route("/v1/models/{verb}", get(ready))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(ready))
        .fallback(unknown)
        .with_state(server.clone());
    common::measured(&server.common, answers)
        .merge(about)
        .merge(common::routes(server.common.clone()))
}

impl From<TabularError> for Failure {
    fn from(error: TabularError) -> Self {
        let status = match error {
            TabularError::Row { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message: error.to_string() }
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        let status = if error.is_passing() {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::BAD_REQUEST
        };
        Self { status, message: error.to_string() }
    }
}

async fn predict(
    State(server): State<Arc<TableServer>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let Asked { rows, explain } = server.common.parse(body)?;
    let outputs = server.predictions(rows, explain).await?;
    let (model, revision) = (server.common.name.clone(), server.common.revision.clone());
    Ok(Json(Told { model, revision, outputs }).into_response())
}

async fn instances(
    State(server): State<Arc<TableServer>>,
    Path(verb): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    let Some(name) = verb.strip_suffix(":predict") else {
        let message = format!("there is no POST /v1/models/{verb}; ask /v1/models/NAME:predict");
        return Err(Failure { status: StatusCode::NOT_FOUND, message });
    };
    server.common.check_name(name)?;
    let Instances { instances } = server.common.parse(body)?;
    let predictions = server.predictions(instances, 0).await?;
    Ok(Json(json!({ "predictions": predictions })).into_response())
}

async fn infer(
    State(server): State<Arc<TableServer>>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Failure> {
    server.common.check_name(&name)?;
    let request: tensors::Request = server.common.parse(body)?;
    let rows = request.rows().map_err(Failure::bad_request)?;
    let predictions = server.predictions(rows, 0).await?;
    Ok(Json(json!({
        "model_name": server.common.name,
        "model_version": server.common.revision,
        "id": request.id,
        "outputs": tensors::outputs(&predictions),
    }))
    .into_response())
}

async fn metadata(
    State(server): State<Arc<TableServer>>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    server.common.check_name(&name)?;
    Ok(Json(json!({
        "name": server.common.name,
        "versions": [server.common.revision],
        "platform": match server.model.parts().recipe {
            Recipe::Trees(_) if server.runtime == ServingRuntime::Libtorch => "hearth_lightgbm",
            _ => inference::platform(server.runtime),
        },
        "inputs": tensors::inputs(&server.model.parts().features),
        "outputs": tensors::kinds(&server.model.parts().features),
    }))
    .into_response())
}

async fn ready(
    State(server): State<Arc<TableServer>>,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    server.common.check_name(&name)?;
    let ready = server.common.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((status, Json(json!({"name": name, "ready": ready}))).into_response())
}

async fn unknown(request: Request) -> Failure {
    let message = format!(
        "there is no {} {}: this model is of tables; rows go to POST /v1/predict, /v1/models/NAME:predict or /v2/models/NAME/infer",
        request.method(),
        request.uri().path(),
    );
    Failure { status: StatusCode::NOT_FOUND, message }
}

impl TableServer {
    /// What the model says of rows. LightGBM computes a few here, since that takes microseconds.
    async fn predictions(
        self: &Arc<Self>,
        mut rows: Vec<Row>,
        explain: usize,
    ) -> Result<Vec<Prediction>, Failure> {
        if let Some(features) = self.features.as_ref().filter(|_| rows.len() <= MOST_ROWS) {
            features.join(&mut rows).await?;
        }
        let at_once = match self.model.parts().recipe {
            Recipe::Trees(_) if self.runtime == ServingRuntime::Libtorch => AT_ONCE,
            _ => 0,
        };
        match rows.len() {
            0 => Err(Failure::bad_request("there is no row; send at least one")),
            few if few <= at_once => self.compute(&rows, explain),
            _ if rows.len() <= MOST_ROWS => {
                let own = self.clone();
                let computed = tokio::task::spawn_blocking(move || own.compute(&rows, explain));
                computed.await.map_err(|error| Failure {
                    status: StatusCode::INTERNAL_SERVER_ERROR,
                    message: format!("computing failed: {error}"),
                })?
            }
            count => Err(Failure::bad_request(format!(
                "{count} rows at once are more than {MOST_ROWS}; send them in parts"
            ))),
        }
    }

    fn compute(&self, rows: &[Row], explain: usize) -> Result<Vec<Prediction>, Failure> {
        let read = self.model.encode(rows)?;
        let predictions = self.model.predict_rows(&read, explain)?;
        if let Some(drift) = self.common.drift.watch() {
            drift.add(&self.model, &read, &predictions);
        }
        Ok(predictions)
    }
}
