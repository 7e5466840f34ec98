//! A request from its head to the last byte of its answer: its place among the
//! requests in flight, and its entry in the metrics. Both end with the value,
//! so that none is lost when a client goes away.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::idle::IdleLimit;
use crate::load::Counted;
use crate::meter::Reading;
use crate::metrics::{Metrics, Outcome};
use crate::table::Target;

/// Requests in flight, against a limit that may change.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    requests: AtomicU32,
}

/// A request that has a place.
#[derive(Debug)]
pub(crate) struct Exchange {
    in_flight: Option<Arc<InFlight>>,
    metrics: Arc<Metrics>,
    variant: String,
    reading: Option<Reading>,
    counted: Option<Counted>,
    outcome: Outcome,
    since: Instant,
}

impl Exchange {
    /// A request that just came.
    pub(crate) fn begin(metrics: &Arc<Metrics>) -> Self {
        Self {
            in_flight: None,
            metrics: Arc::clone(metrics),
            variant: "none".to_owned(),
            reading: None,
            counted: None,
            outcome: Outcome::Canceled,
            since: Instant::now(),
        }
    }

    /// Takes a place, unless `limit` are taken.
    pub(crate) fn enter(&mut self, all: &Arc<InFlight>, limit: u32) -> bool {
        let taken = all.requests.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            (now < limit).then_some(now + 1)
        });
        if taken.is_ok() {
            self.in_flight = Some(Arc::clone(all));
            self.metrics.in_flight().inc();
        }
        taken.is_ok()
    }

    /// The variant that answers, and its counters.
    pub(crate) fn goes_to(&mut self, target: &Target, reading: Option<Reading>) {
        target.name.clone_into(&mut self.variant);
        self.reading = reading;
        self.counted = Some(Counted::begin(&target.in_flight));
    }

    /// Another variant answers, since this one cannot be reached: a failure of this one, which is
    /// no success of the other.
    pub(crate) fn goes_over_to(&mut self, target: &Target) {
        if let Some(reading) = self.reading.take() {
            reading.ended(Outcome::Broken, self.since.elapsed().as_secs_f64());
        }
        self.metrics.went_over(&self.variant);
        self.goes_to(target, None);
    }

    /// What the metrics will say.
    pub(crate) fn outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(all) = &self.in_flight {
            all.requests.fetch_sub(1, Ordering::AcqRel);
            self.metrics.in_flight().dec();
        }
        let seconds = self.since.elapsed().as_secs_f64();
        if let Some(reading) = &self.reading {
            reading.ended(self.outcome, seconds);
        }
        self.metrics.ended(&self.variant, self.outcome, seconds);
    }
}

/// A backend's answer on its way to the client.
#[derive(Debug)]
pub(crate) struct Download {
    incoming: Incoming,
    exchange: Exchange,
    whole: Outcome,
    idle: IdleLimit,
}

/// The answer broke off; the client's connection is closed, so that it does
/// not take a part for the whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("the server broke off its answer")]
    Broken(#[source] hyper::Error),
    #[error("the server sent nothing more of its answer in time")]
    Stalled,
}

impl Download {
    /// `whole`: the outcome once all of the answer was passed on; `idle_limit`:
    /// longest wait for its next piece.
    pub(crate) fn new(
        incoming: Incoming,
        mut exchange: Exchange,
        whole: Outcome,
        idle_limit: Duration,
    ) -> Self {
        if incoming.is_end_stream() {
            exchange.outcome(whole);
        }
        Self { incoming, exchange, whole, idle: IdleLimit::new(idle_limit) }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(cx) else {
            ready!(this.idle.poll_over(cx));
            this.exchange.outcome(Outcome::Broken);
            return Poll::Ready(Some(Err(DownloadError::Stalled)));
        };
        this.idle.came();
        match frame {
            Some(Err(error)) => {
                this.exchange.outcome(Outcome::Broken);
                Poll::Ready(Some(Err(DownloadError::Broken(error))))
            }
            Some(Ok(frame)) => {
                // hyper does not ask again after the last byte of a known length.
                if this.incoming.is_end_stream() {
                    this.exchange.outcome(this.whole);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                this.exchange.outcome(this.whole);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
