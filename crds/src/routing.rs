//! The contract between operator and gateway: one routing table a
//! ModelDeployment, in the `routing.json` key of its ConfigMap.

use serde::{Deserialize, Serialize};

/// Key in the ConfigMap.
pub const ROUTING_KEY: &str = "routing.json";
/// Port of the gateway's traffic.
pub const GATEWAY_PORT: u16 = 8080;
/// Port of the gateway's `/healthz`, `/readyz` and `/metrics`.
pub const GATEWAY_ADMIN_PORT: u16 = 9090;

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RoutingTable {
    /// The ModelDeployment.
    pub deployment: String,
    /// Backends; the weights of a table add up to 100. Empty before the first
    /// revision is ready: the gateway then answers 503 with Retry-After.
    pub variants: Vec<Variant>,
    /// What the gateway lets in.
    pub limits: Limits,
}

/// A revision that takes traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variant {
    /// `stable` or `canary`: the label in metrics.
    pub name: String,
    /// Revision behind it.
    pub revision: String,
    /// `HOST:PORT` of the revision's Service.
    pub backend: String,
    /// Percent of requests.
    pub weight: u32,
}

/// What the gateway lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Largest request body in bytes; larger ones are answered with 413.
    pub max_body_bytes: u64,
    /// Requests in flight; more are answered with 503 and Retry-After.
    pub max_in_flight_requests: u32,
    /// Seconds until the headers of an answer must be there; 504 after it.
    pub request_timeout_seconds: u32,
}
