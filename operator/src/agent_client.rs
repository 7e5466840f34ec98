//! Asks pods how they are: agent 0 for its status, gateways for their routes. Agent 0 is told
//! how many agents there should be.

use std::time::Duration;

use bytes::Bytes;
use hearth_crds::routing::{
    DRIFT_PATH, DriftReport, GATEWAY_ADMIN_PORT, LOAD_PATH, Load, Measured, RoutingTable,
};
use hearth_crds::worker_config::{AGENT_PORT, REPLICAS_PATH, Replicas, SERVE_PORT, WorkerStatus};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// Longest wait for an answer, connecting included.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer that is read: 1,024 pods of 64 ranks fit.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// What agent 0 said.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum AgentAnswer {
    /// It was not asked: it does not run, or was asked a moment ago.
    #[default]
    NotAsked,
    /// Nothing, for this reason.
    Silent(String),
    /// How it is.
    Status(Box<WorkerStatus>),
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing in [`TIMEOUT`].
    #[error("{url} gave no answer in {} s", TIMEOUT.as_secs())]
    Timeout {
        /// Who was asked.
        url: String,
    },
    /// No connection, or it broke.
    #[error("{url} cannot be reached: {reason}")]
    Unreachable {
        /// Who was asked.
        url: String,
        /// The chain of causes.
        reason: String,
    },
    /// An answer that says nothing.
    #[error("{url} answered {problem}")]
    Answer {
        /// Who was asked.
        url: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

/// An HTTP client for pods. It keeps no connection open: pods come and go.
#[derive(Clone, Debug)]
pub struct PodClient {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for PodClient {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Self { client }
    }
}

impl PodClient {
    /// `GET /status` of the agent at this address.
    pub async fn agent_status(&self, ip: &str) -> Result<WorkerStatus, AskError> {
        self.get(url(ip, AGENT_PORT, "status")).await
    }

    /// `PUT /replicas` of the agent at this address.
    pub async fn resize_gang(&self, ip: &str, replicas: u32) -> Result<(), AskError> {
        let url = url(ip, AGENT_PORT, REPLICAS_PATH.trim_start_matches('/'));
        let body = serde_json::to_vec(&Replicas { replicas }).unwrap_or_default();
        let request = self.send(Method::PUT, &url, body.into());
        match tokio::time::timeout(TIMEOUT, request).await {
            Ok(answer) => answer.map(drop),
            Err(_) => Err(AskError::Timeout { url }),
        }
    }

    /// `GET /routing` of the gateway at this address.
    pub async fn gateway_routing(&self, ip: &str) -> Result<RoutingTable, AskError> {
        self.get(url(ip, GATEWAY_ADMIN_PORT, "routing")).await
    }

    /// `GET /measured` of the gateway at this address.
    pub async fn gateway_figures(&self, ip: &str) -> Result<Measured, AskError> {
        self.get(url(ip, GATEWAY_ADMIN_PORT, "measured")).await
    }

    /// `GET /load` of the server at this address, over so many seconds: tokens in flight; `None`:
    /// its model counts none.
    pub async fn server_load(&self, ip: &str, window: u32) -> Result<Option<Load>, AskError> {
        let path = format!("{}?window={window}", LOAD_PATH.trim_start_matches('/'));
        self.get(url(ip, SERVE_PORT, &path)).await
    }

    /// `GET /drift` of the server at this address; `None`: it is an older one, and does not watch what it is asked.
    pub async fn server_drift(&self, ip: &str) -> Result<Option<DriftReport>, AskError> {
        self.get(url(ip, SERVE_PORT, DRIFT_PATH.trim_start_matches('/'))).await
    }

    /// The JSON document at `url`.
    pub async fn get<T: DeserializeOwned>(&self, url: String) -> Result<T, AskError> {
        match tokio::time::timeout(TIMEOUT, self.fetch(&url)).await {
            Ok(answer) => answer,
            Err(_) => Err(AskError::Timeout { url }),
        }
    }

    async fn fetch<T: DeserializeOwned>(&self, url: &str) -> Result<T, AskError> {
        let body = self.send(Method::GET, url, Bytes::new()).await?;
        serde_json::from_slice(&body).map_err(|error| AskError::Answer {
            url: url.into(),
            problem: format!("with something else than was asked for: {error}"),
        })
    }

    /// The body of the answer.
    async fn send(&self, method: Method, url: &str, body: Bytes) -> Result<Bytes, AskError> {
        let unreachable = |reason: String| AskError::Unreachable { url: url.into(), reason };
        let wrong = |problem: String| AskError::Answer { url: url.into(), problem };
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|_| unreachable("not an address".into()))?;
        let answer =
            self.client.request(request).await.map_err(|error| unreachable(chain(&error)))?;
        let status = answer.status();
        if !status.is_success() {
            return Err(wrong(status.to_string()));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok(body.map_err(|error| wrong(format!("and broke off: {error}")))?.to_bytes())
    }
}

fn url(ip: &str, port: u16, path: &str) -> String {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    format!("http://{host}:{port}/{path}")
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
