//! One request: checked, routed, forwarded, answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::body::{BodyLimits, Upload};
use crate::entrance::Entrance;
use crate::headers;
use crate::in_flight::{Download, Exchange, InFlight};
use crate::metrics::Outcome;
use crate::outcomes;
use crate::reply::Refusal;
use crate::shadow::{Copied, Shadows};
use crate::socket::Peer;
use crate::state::State;
use crate::table::Target;
use crate::upstream::Upstream;

/// Time limits that are not the routing table's.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request's head, and for the next request of an open connection.
    pub head: Duration,
    /// For the next piece of a request's body, and for a client to read.
    pub client_idle: Duration,
    /// For the next piece of an answer.
    pub answer_idle: Duration,
    /// For a server that takes connections.
    pub reach: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            client_idle: Duration::from_secs(30),
            answer_idle: Duration::from_mins(5),
            reach: Duration::from_secs(15),
        }
    }
}

/// An answer: our own, or a backend's as it comes.
pub(crate) type ReplyBody = Either<Full<Bytes>, Download>;

/// The data path.
#[derive(Debug)]
pub struct Gateway {
    state: Arc<State>,
    upstream: Upstream,
    shadows: Shadows,
    entrance: Entrance,
    in_flight: Arc<InFlight>,
    patience: Patience,
}

impl Gateway {
    /// A gateway that routes by the table of `state`; who comes in is `entrance`'s to say.
    pub fn new(state: Arc<State>, patience: Patience, entrance: Entrance) -> Arc<Self> {
        let (upstream, in_flight) = (Upstream::new(), Arc::default());
        let shadows = Shadows::new(Arc::clone(&state.metrics));
        Arc::new(Self { state, upstream, shadows, entrance, in_flight, patience })
    }

    /// What it shares with the admin port.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Time limits.
    pub fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Answers a request; never fails.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<ReplyBody> {
        let mut exchange = Exchange::begin(&self.state.metrics);
        let mut response = match self.forward(request, peer, &mut exchange).await {
            Ok(Answer::Passed { response, target }) => self.pass_on(response, &target, exchange),
            Ok(Answer::Own(response)) => {
                exchange.outcome(Outcome::Status(response.status().as_u16() / 100));
                response.map(Either::Left)
            }
            Err(refusal) => {
                let response = refusal.response();
                exchange.outcome(Outcome::Status(response.status().as_u16() / 100));
                response.map(Either::Left)
            }
        };
        if self.state.is_draining() || peer.ambiguity.get().is_some() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn forward(
        &self,
        mut request: Request<Incoming>,
        peer: &Peer,
        exchange: &mut Exchange,
    ) -> Result<Answer, Refusal> {
        check(&request, peer)?;
        self.entrance.admit(request.headers_mut())?;
        let table = self.state.table();
        let table = table.ok_or_else(|| Refusal::NoBackend { deployment: "NAME".into() })?;
        let limits = table.limits();
        let limit = limits.max_in_flight_requests;
        if !exchange.enter(&self.in_flight, limit) {
            return Err(Refusal::Busy { limit });
        }
        if request.uri().path() == outcomes::PATH {
            let response = outcomes::take(request, &table, self.patience.client_idle).await?;
            return Ok(Answer::Own(response));
        }
        let deployment = || table.document.deployment.clone();
        let (target, counts) = table
            .pick(request.headers())
            .map(|(target, counts)| (target.clone(), counts))
            .ok_or_else(|| Refusal::NoBackend { deployment: deployment() })?;
        let meter = table.meter().filter(|_| counts);
        exchange.goes_to(&target, meter.and_then(|meter| meter.assigned(&target.name)));

        let seconds = limits.request_timeout_seconds;
        let begin = Instant::now();
        let (mut head, body) = request.into_parts();
        let body_limits =
            BodyLimits { bytes: limits.max_body_bytes, idle: self.patience.client_idle };
        let upload = Upload::new(body, body_limits)?;
        headers::for_backend(&mut head.headers, peer, head.version);
        // A server that restarts is waited for, and where there may be none, the first one.
        let hold = table.document.scaling.map_or(0, |scaling| scaling.hold_seconds);
        let reach = self.patience.reach.max(Duration::from_secs(hold.into()));
        let deadline = begin + reach + Duration::from_secs(seconds.into());
        let metrics = &self.state.metrics;
        let mut target = target;
        let response = loop {
            let instead = table.instead_of(&target);
            // Where another can answer, nobody waits for this one.
            let held_until = if instead.is_some() { begin } else { begin + reach };
            let sent = self.upstream.send(&target, &head, (&upload, held_until), metrics);
            let sent = timeout_at(deadline, sent).await.map_err(|_| {
                if upload.has_ended() { Refusal::Timeout { seconds } } else { Refusal::BodyTimeout }
            })?;
            match (sent, instead) {
                (Err(Refusal::Unreachable { .. }), Some(stable)) => {
                    exchange.goes_over_to(stable);
                    target = stable.clone();
                }
                (sent, _) => break sent?,
            }
        };
        if let Some((shadow, percent)) = table.shadow() {
            self.shadows.copy(Copied { head, upload, seconds }, shadow, *percent, &table);
        }
        Ok(Answer::Passed { response, target })
    }

    fn pass_on(
        &self,
        response: Response<Incoming>,
        target: &Target,
        exchange: Exchange,
    ) -> Response<ReplyBody> {
        let (mut head, body) = response.into_parts();
        headers::for_client(&mut head.headers, &target.revision, head.version);
        head.version = http::Version::HTTP_11;
        head.extensions.clear();
        let whole = Outcome::Status(head.status.as_u16() / 100);
        let body = Download::new(body, exchange, whole, self.patience.answer_idle);
        Response::from_parts(head, Either::Right(body))
    }
}

/// Who answers.
enum Answer {
    /// A backend, and which one.
    Passed { response: Response<Incoming>, target: Target },
    /// The gateway itself.
    Own(Response<Full<Bytes>>),
}

/// What no request may be, whatever the table says.
fn check(request: &Request<Incoming>, peer: &Peer) -> Result<(), Refusal> {
    if let Some(ambiguity) = peer.ambiguity.get() {
        return Err(Refusal::Ambiguous(*ambiguity));
    }
    if *request.method() == Method::CONNECT {
        return Err(Refusal::Tunnel);
    }
    if headers::too_large(request.headers()) {
        return Err(Refusal::HeadersTooLarge);
    }
    if headers::runs_in_a_circle(request.headers()) {
        return Err(Refusal::Circle);
    }
    Ok(())
}
