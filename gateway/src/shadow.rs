//! Copies of requests, for a revision that is not trusted yet: its answers are measured and
//! thrown away, and whatever it does, no client waits for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::body::Upload;
use crate::in_flight::Exchange;
use crate::metrics::{Metrics, Outcome};
use crate::table::{Table, Target};
use crate::upstream;

/// Copies on their way at once; more are not made.
const MAX_COPIES: usize = 64;
/// Tells a server that nobody waits for this answer.
const X_HEARTH_SHADOW: HeaderName = HeaderName::from_static("x-hearth-shadow");

/// Makes copies.
#[derive(Debug)]
pub(crate) struct Shadows {
    client: Client<HttpConnector, Full<Bytes>>,
    room: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// A request that was answered: its head as its backend got it, and its body.
pub(crate) struct Copied {
    pub(crate) head: Parts,
    pub(crate) upload: Upload,
    /// Longest wait for the answer.
    pub(crate) seconds: u32,
}

impl Shadows {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let client = upstream::client(MAX_COPIES);
        Self { client, room: Arc::new(Semaphore::new(MAX_COPIES)), metrics }
    }

    /// Sends a copy to `target`, `percent` times of a hundred.
    pub(crate) fn copy(&self, copied: Copied, target: &Target, percent: u32, table: &Table) {
        if rand::random_range(0..100) >= percent {
            return;
        }
        let room = Arc::clone(&self.room).try_acquire_owned();
        let (Ok(place), Some(body)) = (room, copied.upload.whole()) else {
            self.metrics.not_copied();
            return;
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = copied.head.method.clone();
        *request.uri_mut() = upstream::uri(target, &copied.head);
        *request.headers_mut() = copied.head.headers;
        request.headers_mut().insert(X_HEARTH_SHADOW, HeaderValue::from_static("1"));
        let mut exchange = Exchange::begin(&self.metrics);
        let reading = table.meter().and_then(|meter| meter.assigned(&target.name));
        exchange.goes_to(target, reading);
        let (client, limit) = (self.client.clone(), Duration::from_secs(copied.seconds.into()));
        tokio::spawn(async move {
            let whole = timeout(limit, async {
                let response = client.request(request).await.ok()?;
                let status = response.status();
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    frame.ok()?;
                }
                Some(status)
            });
            let status = whole.await.ok().flatten();
            exchange.outcome(
                status.map_or(Outcome::Broken, |status| Outcome::Status(status.as_u16() / 100)),
            );
            drop((exchange, place));
        });
    }
}
