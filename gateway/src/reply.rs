//! What the gateway itself says: a status and one JSON sentence.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::wire::Ambiguity;

/// Why a request got no answer from a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    Ambiguous(#[from] Ambiguity),
    #[error("this gateway forwards requests and opens no tunnels")]
    Tunnel,
    #[error(
        "the request's header fields are too many or too long: at most {} fields and {} bytes",
        crate::headers::MAX_FIELDS,
        crate::headers::MAX_BYTES
    )]
    HeadersTooLarge,
    #[error(
        "the request has passed through this gateway several times: the backend is the gateway itself"
    )]
    Circle,
    #[error("no revision is ready yet: see `kubectl describe modeldeployment {deployment}`")]
    NoBackend { deployment: String },
    #[error(
        "{limit} requests are in flight, the most that gateway.maxInFlightRequests allows; try again later"
    )]
    Busy { limit: u32 },
    #[error("the request's body is larger than gateway.maxBodyBytes, {limit} bytes")]
    BodyTooLarge { limit: u64 },
    #[error("the request's body did not arrive in time")]
    BodyTimeout,
    #[error("the request's body ended early")]
    BodyBroken,
    #[error(
        "the server did not begin to answer within {seconds} s (gateway.requestTimeoutSeconds)"
    )]
    Timeout { seconds: u32 },
    #[error("no connection to a server of revision {revision}, after {attempts} attempts")]
    Unreachable { revision: String, attempts: u32 },
    #[error(
        "the server of revision {revision} broke the connection before it answered, {attempts} times"
    )]
    Broken { revision: String, attempts: u32 },
    #[error("the server of revision {revision} answered something that is not HTTP")]
    Nonsense { revision: String },
    #[error("{needed} is needed")]
    NoKey { needed: String },
    #[error("this token lets nobody in: {why}")]
    BadToken { why: String },
    #[error("this API key is not known: ask whoever runs this deployment for one")]
    UnknownKey,
    #[error(
        "client {client} may send {limit} requests a minute, a tenth of them at once; try again in {seconds} s"
    )]
    KeyBusy { client: String, limit: u32, seconds: u64 },
    #[error(
        "no comparison of users is under way: outcomes are counted while rollout.strategy is ABTest and a new revision is on its way"
    )]
    NoComparison,
    #[error("outcomes are sent with POST")]
    OutcomeMethod,
    #[error("an outcome is {{\"user\": \"ID\", \"success\": true}}, or a list of them: {reason}")]
    Outcome { reason: String },
}

impl Refusal {
    /// Status and the code for programs.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Ambiguous(_) => (StatusCode::BAD_REQUEST, "ambiguous_framing"),
            Self::Tunnel => (StatusCode::METHOD_NOT_ALLOWED, "tunnel_refused"),
            Self::HeadersTooLarge => {
                (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large")
            }
            Self::Circle => (StatusCode::LOOP_DETECTED, "loop_detected"),
            Self::NoBackend { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no_backend"),
            Self::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "too_many_requests_in_flight"),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, "body_incomplete"),
            Self::Timeout { .. } => (StatusCode::GATEWAY_TIMEOUT, "backend_timeout"),
            Self::Unreachable { .. } => (StatusCode::BAD_GATEWAY, "backend_unreachable"),
            Self::Broken { .. } => (StatusCode::BAD_GATEWAY, "backend_broke"),
            Self::Nonsense { .. } => (StatusCode::BAD_GATEWAY, "backend_nonsense"),
            Self::NoKey { .. } | Self::UnknownKey | Self::BadToken { .. } => {
                (StatusCode::UNAUTHORIZED, "unauthorized")
            }
            Self::KeyBusy { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Self::NoComparison => (StatusCode::NOT_FOUND, "no_comparison"),
            Self::OutcomeMethod => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Outcome { .. } => (StatusCode::BAD_REQUEST, "malformed_outcome"),
        }
    }

    /// Whether the connection cannot be used for another request.
    fn closes(&self) -> bool {
        matches!(
            self,
            Self::Ambiguous(_) | Self::BodyTooLarge { .. } | Self::BodyTimeout | Self::BodyBroken
        )
    }

    /// The answer.
    pub(crate) fn response(&self) -> Response<Full<Bytes>> {
        let (status, code) = self.kind();
        let text = json!({"error": {"code": code, "message": self.to_string()}}).to_string();
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::KeyBusy { seconds, .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(*seconds));
            }
            // RFC 6750, 3.1: nothing was wrong with what was not given.
            Self::NoKey { .. } => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::UnknownKey | Self::BadToken { .. } => {
                let text = format!("Bearer error=\"invalid_token\", error_description=\"{self}\"");
                let value = HeaderValue::from_str(&text);
                let plain = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(WWW_AUTHENTICATE, value.unwrap_or(plain));
            }
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        if self.closes() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
