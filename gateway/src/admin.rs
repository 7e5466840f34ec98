//! The admin port: health, metrics, the table in force, and what is counted by it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use hearth_crds::routing::Measured;

use crate::state::State;

/// `/healthz`, `/readyz`, `/metrics`, `/routing`, `/measured`.
pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/routing", get(routing))
        .route("/measured", get(measured))
        .with_state(state)
}

async fn readyz(Shared(state): Shared<Arc<State>>) -> (StatusCode, &'static str) {
    if state.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if state.is_ready() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no routing table with a backend yet\n")
    }
}

async fn metrics(Shared(state): Shared<Arc<State>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], state.metrics.text())
}

/// The operator asks this before it takes an old revision away.
async fn routing(Shared(state): Shared<Arc<State>>) -> Response {
    match state.table() {
        Some(table) => axum::Json(&table.document).into_response(),
        None => (StatusCode::NOT_FOUND, "no routing table yet\n").into_response(),
    }
}

/// The operator judges revisions by this.
async fn measured(Shared(state): Shared<Arc<State>>) -> axum::Json<Measured> {
    axum::Json(state.measured())
}
