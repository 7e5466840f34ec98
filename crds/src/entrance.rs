//! How requests come in: the gateway of a `ModelDeployment`, whom it lets in, and what leads to it.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The gateway in front of the server pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Pods.
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// Largest request body; larger ones are answered with 413.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub max_body_bytes: i64,
    /// Requests in flight in one gateway pod; more are answered with 503 and Retry-After.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_in_flight_requests: i32,
    /// Time limit of one request, headers of the answer included.
    #[schemars(range(min = 1, max = 86400))]
    pub request_timeout_seconds: i32,
    /// Lets in only who has a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<SecretRef>,
    /// Lets in only whom an OpenID Connect issuer vouches for; with `apiKeys`, who has a key, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oidc: Option<Oidc>,
    /// Encrypts the traffic: the address is then https, port 443. The Secret holds `tls.crt` and
    /// `tls.key`, as cert-manager writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<SecretRef>,
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            replicas: 1,
            max_body_bytes: 4 << 20,
            max_in_flight_requests: 1024,
            request_timeout_seconds: 60,
            api_keys: None,
            oidc: None,
            tls: None,
        }
    }
}

/// A Secret of the same namespace. Gateways mount it; the operator does not read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// Which tokens of an OpenID Connect issuer let in. They are signed with RS256 or ES256.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Oidc {
    /// `iss` of the tokens, as the issuer writes it.
    #[schemars(length(max = 512), regex(pattern = r"^https://[!#-\[\]-~]+$"))]
    pub issuer: String,
    /// One of `aud` of the tokens.
    #[schemars(length(max = 256), regex(pattern = r"^[!#-\[\]-~]+$"))]
    pub audience: String,
    /// A ConfigMap of the same namespace whose key `jwks.json` holds the issuer's public keys, a JSON
    /// Web Key Set. Gateways mount it, and take changes over without a restart.
    #[schemars(length(min = 1, max = 253))]
    pub jwks_config_map_name: String,
    /// Requests that one gateway pod lets in in a minute of each subject (`sub`), up to a tenth of
    /// them at once.
    // The API server knows no uint32, and says so at each `kubectl apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "int32"))]
    pub requests_per_minute: Option<NonZeroU32>,
}

/// What leads clients to the gateway. In every case it splits, holds and measures the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Routing {
    /// The gateway's Service.
    #[default]
    Gateway,
    /// An HTTPRoute of the Gateway API that leads to this Service, besides.
    HTTPRoute,
}

/// Where an HTTPRoute belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// The Gateways that take it on.
    #[schemars(length(min = 1, max = 8))]
    pub parent_refs: Vec<ParentRef>,
    /// Host names that it is for; those of the Gateway's listener where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(
            length(min = 1, max = 253),
            regex(
                pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
            )
        )
    )]
    pub hostnames: Vec<String>,
}

/// A Gateway of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace; the deployment's where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// One of its listeners; all where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}
