//! What an agent answers over HTTP.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use hearth_crds::worker_config::{REPLICAS_PATH, Replicas};

use super::metrics::encode_registry;
use super::protocol::{BEAT_PATH, Beat};
use super::roster::{MOST_AGENTS, Refusal};
use super::service::{BeatError, Service};
use crate::monitor::SystemMetrics;

/// Routes of agent 0.
pub fn coordinator(service: Arc<Service>, system: Arc<SystemMetrics>) -> Router {
    let metrics = move |State(service): State<Arc<Service>>| async move {
        exposition(service.metrics(&system))
    };
    Router::new()
        .route("/healthz", get(healthy))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/history", get(history))
        .route(REPLICAS_PATH, put(resize))
        .route(BEAT_PATH, post(beat))
        .with_state(service)
}

/// Routes of the other agents. Training's figures are agent 0's to tell.
pub fn member(system: Arc<SystemMetrics>) -> Router {
    let metrics = move || async move { exposition(encode_registry(system.registry())) };
    Router::new().route("/healthz", get(healthy)).route("/metrics", get(metrics))
}

async fn healthy() -> &'static str {
    "ok\n"
}

async fn status(State(service): State<Arc<Service>>) -> Response {
    Json(service.status()).into_response()
}

async fn history(State(service): State<Arc<Service>>) -> Response {
    Json(service.history()).into_response()
}

async fn resize(
    State(service): State<Arc<Service>>,
    Json(Replicas { replicas }): Json<Replicas>,
) -> Response {
    if (1..=MOST_AGENTS).contains(&replicas) {
        service.resize(replicas);
        StatusCode::NO_CONTENT.into_response()
    } else {
        let said = format!("replicas is {replicas}: write 1 to {MOST_AGENTS}");
        (StatusCode::UNPROCESSABLE_ENTITY, said).into_response()
    }
}

async fn beat(State(service): State<Arc<Service>>, Json(beat): Json<Beat>) -> Response {
    match service.beat(beat) {
        Ok(order) => Json(order).into_response(),
        Err(error) => {
            let status = match &error {
                BeatError::Refused(Refusal::Replaced { .. }) => StatusCode::GONE,
                BeatError::Refused(Refusal::NoSuchAgent { .. }) | BeatError::OtherJob { .. } => {
                    StatusCode::CONFLICT
                }
            };
            (status, error.to_string()).into_response()
        }
    }
}

/// A body in OpenMetrics' text format.
pub fn exposition(text: String) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
