//! Asks agent 0 how it goes.

use std::time::Duration;

use bytes::Bytes;
use hearth_crds::worker_config::WorkerStatus;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(2);
const MOST_BYTES: usize = 1 << 20;

/// A client for `GET /status`.
#[derive(Clone, Debug)]
pub(super) struct StatusClient {
    client: Client<HttpConnector, Empty<Bytes>>,
    port: u16,
}

impl StatusClient {
    pub(super) fn new(port: u16) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), port }
    }

    /// The status, or `None` while the agent does not answer.
    pub(super) async fn ask(&self) -> Option<WorkerStatus> {
        let uri = format!("http://127.0.0.1:{}/status", self.port).parse().ok()?;
        let read = async {
            let response = self.client.get(uri).await.ok()?;
            let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.ok()?;
            serde_json::from_slice(&body.to_bytes()).ok()
        };
        timeout(LIMIT, read).await.ok().flatten()
    }
}
