//! `/healthz`, `/readyz` and `/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::Metrics;
use crate::watch::WatchHealth;

/// What the probes ask for.
#[derive(Clone)]
pub struct Probes {
    /// Counters.
    pub metrics: Metrics,
    /// Whether the watches make progress.
    pub watches: WatchHealth,
    /// Set once the operator acts, or stands by for the leader.
    pub ready: Arc<AtomicBool>,
}

/// The routes.
pub fn app(probes: Probes) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(probes)
}

async fn healthz(State(probes): State<Probes>) -> (StatusCode, String) {
    match probes.watches.stuck() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(kind) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the watch of {kind} has failed for ten minutes\n"),
        ),
    }
}

async fn readyz(State(probes): State<Probes>) -> (StatusCode, &'static str) {
    if probes.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the first lists are not here yet\n")
    }
}

async fn metrics(State(probes): State<Probes>) -> impl IntoResponse {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, TYPE)], probes.metrics.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    async fn ask(probes: &Probes, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = app(probes.clone()).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn probes_tell_the_truth() {
        let probes = Probes {
            metrics: Metrics::default(),
            watches: WatchHealth::default(),
            ready: Arc::default(),
        };
        assert_eq!(ask(&probes, "/healthz").await.0, StatusCode::OK);
        assert_eq!(ask(&probes, "/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        probes.ready.store(true, Ordering::Relaxed);
        assert_eq!(ask(&probes, "/readyz").await.0, StatusCode::OK);
        probes.metrics.wrote("Job", "create");
        let (_, text) = ask(&probes, "/metrics").await;
        assert!(text.contains(r#"hearth_api_writes_total{kind="Job",verb="create"} 1"#), "{text}");
    }
}
