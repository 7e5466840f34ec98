//! Connections to backends, and sending a request until it is answered or
//! [`retry`] gives up.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use http::request::Parts;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use crate::body::{AttemptBody, Upload};
use crate::metrics::Metrics;
use crate::reply::Refusal;
use crate::retry::{self, Attempt, REPLAY_BYTES};
use crate::table::Target;

/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Longest that sent bytes may stay unacknowledged: a node that is gone is
/// noticed, and the request sent elsewhere.
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(5);
/// Time between two attempts to reach a server that is starting.
const HOLD_PAUSE: Duration = Duration::from_millis(250);
const POOL_IDLE_LIMIT: Duration = Duration::from_secs(30);
const POOL_IDLE_CONNECTIONS: usize = 256;

/// The backends' side of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pooled: Client<HttpConnector, AttemptBody>,
    /// A new connection each time: a pool may hold more dead ones than there
    /// are attempts.
    fresh: Client<HttpConnector, AttemptBody>,
}

impl Upstream {
    pub(crate) fn new() -> Self {
        Self { pooled: client(POOL_IDLE_CONNECTIONS), fresh: client(0) }
    }

    /// Sends a request to `target`. Where nobody can be reached, it is tried until `held_until`,
    /// and a few times in any case.
    pub(crate) async fn send(
        &self,
        target: &Target,
        head: &Parts,
        (upload, held_until): (&Upload, Instant),
        metrics: &Metrics,
    ) -> Result<Response<Incoming>, Refusal> {
        let uri = uri(target, head);
        // A pooled connection may turn out to be closed, which costs the
        // beginning of a body that is too large to be kept.
        let large = http_body::Body::size_hint(&upload.attempt().ok_or(Refusal::BodyBroken)?)
            .exact()
            .is_none_or(|bytes| bytes > REPLAY_BYTES as u64);
        for attempts in 1.. {
            let mut request = Request::new(upload.attempt().ok_or(Refusal::BodyBroken)?);
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = uri.clone();
            *request.headers_mut() = head.headers.clone();
            let client = if attempts == 1 && !large { &self.pooled } else { &self.fresh };
            let error = match client.request(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            if let Some(refusal) = upload.refusal() {
                return Err(refusal);
            }
            let failure = classify(&error, upload.is_replayable());
            tracing::debug!(variant = target.name, attempts, ?failure, %error, "no answer");
            let holds = failure == Attempt::NotConnected && Instant::now() < held_until;
            let wait = retry::wait(failure, attempts, rand::random());
            let Some(wait) = wait.or(holds.then_some(HOLD_PAUSE)) else {
                return Err(give_up(failure, target, attempts));
            };
            metrics.retried(&target.name);
            tokio::time::sleep(wait).await;
        }
        Err(Refusal::BodyBroken)
    }
}

/// A client of backends that keeps so many idle connections to each.
pub(crate) fn client<B>(idle_connections: usize) -> Client<HttpConnector, B>
where
    B: http_body::Body + Send,
    B::Data: Send,
{
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT));
    connector.set_keepalive(Some(Duration::from_secs(10)));
    connector.set_keepalive_interval(Some(Duration::from_secs(2)));
    connector.set_keepalive_retries(Some(3));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_LIMIT)
        .pool_max_idle_per_host(idle_connections)
        .build(connector)
}

fn give_up(failure: Attempt, target: &Target, attempts: u32) -> Refusal {
    let revision = String::from_utf8_lossy(target.revision.as_bytes()).into_owned();
    match failure {
        Attempt::NotConnected => Refusal::Unreachable { revision, attempts },
        Attempt::Broken { .. } => Refusal::Broken { revision, attempts },
        Attempt::Nonsense => Refusal::Nonsense { revision },
    }
}

/// The backend's address with the path and query that were asked for.
pub(crate) fn uri(target: &Target, head: &Parts) -> Uri {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    // `OPTIONS *` is about the server, and our server answers at `/`.
    let path = if path.starts_with('/') { path } else { "/" };
    Uri::builder()
        .scheme("http")
        .authority(target.authority.clone())
        .path_and_query(path)
        .build()
        .unwrap_or_default()
}

fn classify(error: &legacy::Error, replayable: bool) -> Attempt {
    if error.is_connect() {
        return Attempt::NotConnected;
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return Attempt::Nonsense;
        }
        if error.downcast_ref::<io::Error>().is_some() {
            break;
        }
        cause = error.source();
    }
    Attempt::Broken { replayable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use std::sync::Arc;

    #[test]
    fn only_path_and_query_come_from_the_client() {
        let target = Target {
            name: "stable".into(),
            revision: HeaderValue::from_static("r"),
            authority: "server:80".parse().unwrap(),
            weight: 100,
            in_flight: Arc::default(),
        };
        for (asked, want) in [
            ("/a/b?c=%20d", "http://server:80/a/b?c=%20d"),
            ("http://evil:1/a?b", "http://server:80/a?b"),
            ("*", "http://server:80/"),
            ("http://evil:1", "http://server:80/"),
        ] {
            let (head, ()) = Request::builder().uri(asked).body(()).unwrap().into_parts();
            assert_eq!(uri(&target, &head).to_string(), want);
        }
    }
}
