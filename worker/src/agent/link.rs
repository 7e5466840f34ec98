//! How an agent reaches the coordinator.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::protocol::{BEAT_PATH, Beat, Order};
use super::service::Service;

/// For one beat, name look-up and connection included.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A beat was not answered with an order.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers.
    #[error("agent 0 at {0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// The coordinator does not take beats of this agent now.
    #[error("agent 0 refuses this agent: {0}")]
    Refused(String),
    /// A newer process has this agent's place.
    #[error("{0}")]
    Replaced(String),
}

/// The way to the coordinator.
pub enum Link {
    /// In this process.
    Local(Arc<Service>),
    /// In agent 0's.
    Remote(Client),
}

impl Link {
    /// Sends a beat and waits for the order.
    pub async fn beat(&mut self, beat: &Beat) -> Result<Order, LinkError> {
        match self {
            Self::Local(service) => {
                service.beat(beat.clone()).map_err(|error| LinkError::Replaced(error.to_string()))
            }
            Self::Remote(client) => client.beat(beat).await,
        }
    }
}

/// One kept connection. It is dropped on any error, and the name is resolved
/// again for the next: a replaced pod has another address.
pub struct Client {
    host: String,
    port: u16,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of agent 0 at `host:port`. Connects on the first beat.
    pub fn new(host: &str, port: u16) -> Self {
        Self { host: host.to_owned(), port, connection: None }
    }

    async fn beat(&mut self, beat: &Beat) -> Result<Order, LinkError> {
        let answer = match tokio::time::timeout(TIMEOUT, self.post(beat)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        let (status, body) = answer.map_err(|why| {
            self.connection = None;
            LinkError::Unreachable(format!("{}:{}", self.host, self.port), why)
        })?;
        match status {
            StatusCode::OK => serde_json::from_slice(&body)
                .map_err(|error| LinkError::Refused(format!("its order makes no sense: {error}"))),
            StatusCode::GONE => Err(LinkError::Replaced(text(&body))),
            _ => Err(LinkError::Refused(format!("{status}: {}", text(&body)))),
        }
    }

    async fn post(&mut self, beat: &Beat) -> Result<(StatusCode, Bytes), String> {
        let body = serde_json::to_vec(beat).map_err(|error| error.to_string())?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(BEAT_PATH)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_ready() => connection,
            _ => self.connect().await?,
        };
        let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        self.connection = Some(connection);
        Ok((status, body.to_bytes()))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let address = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}
