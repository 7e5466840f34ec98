//! What became of users, told by the application that asked: `POST /hearth/outcomes`.
//!
//! The variant of a user follows from the user alone, so an outcome may come to any gateway, at
//! any time.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;

use crate::reply::Refusal;
use crate::table::Table;

/// Where outcomes are sent.
pub(crate) const PATH: &str = "/hearth/outcomes";
/// Largest list of outcomes, in bytes.
const MAX_BYTES: usize = 256 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome {
    user: String,
    success: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Body {
    One(Outcome),
    Many(Vec<Outcome>),
}

/// Counts the outcomes of a request's body.
pub(crate) async fn take(
    request: Request<Incoming>,
    table: &Table,
    patience: Duration,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if *request.method() != Method::POST {
        return Err(Refusal::OutcomeMethod);
    }
    let body = Limited::new(request.into_body(), MAX_BYTES).collect();
    let body = timeout(patience, body).await.map_err(|_| Refusal::BodyTimeout)?;
    let body = body.map_err(|_| Refusal::BodyTooLarge { limit: MAX_BYTES as u64 })?.to_bytes();
    let outcomes = match serde_json::from_slice(&body) {
        Ok(Body::One(outcome)) => vec![outcome],
        Ok(Body::Many(outcomes)) => outcomes,
        Err(error) => return Err(Refusal::Outcome { reason: error.to_string() }),
    };
    let meter = table.meter().ok_or(Refusal::NoComparison)?;
    for outcome in outcomes {
        let target = table.of_user(outcome.user.as_bytes()).ok_or(Refusal::NoComparison)?;
        meter.outcome(&target.name, outcome.success);
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}
