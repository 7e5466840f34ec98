//! The contract between operator and gateway: one routing table a
//! ModelDeployment, in the `routing.json` key of its ConfigMap, and what a
//! gateway counts by it ([`Measured`], `GET /measured` of its admin port).

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::latency::Latencies;
use crate::load::History;
use crate::names;
use crate::user_count::UserCount;

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
    /// Who is sent to which variant.
    #[serde(default, skip_serializing_if = "Split::is_by_request")]
    pub split: Split,
    /// Requests that a second backend gets a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// What is to be counted, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
    /// Where the number of servers follows the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// What the gateway lets in.
    pub limits: Limits,
}

impl RoutingTable {
    /// A table that draws a variant for each request, and counts nothing.
    pub fn new(deployment: String, variants: Vec<Variant>, limits: Limits) -> Self {
        Self {
            deployment,
            variants,
            split: Split::default(),
            shadow: None,
            measure: None,
            scaling: None,
            limits,
        }
    }

    /// The revisions that requests or copies of them get to.
    pub fn reached(&self) -> BTreeSet<String> {
        let weighty = self.variants.iter().filter(|variant| variant.weight > 0);
        let variants = weighty.map(|variant| variant.revision.clone());
        variants.chain(self.shadow.iter().map(|shadow| shadow.revision.clone())).collect()
    }
}

/// A revision that takes traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variant {
    /// [`STABLE`] or [`CANARY`]: the label in metrics.
    pub name: String,
    /// Revision behind it.
    pub revision: String,
    /// `HOST:PORT` of the revision's Service.
    pub backend: String,
    /// Percent of requests.
    pub weight: u32,
}

/// Name of the variant that has proved itself.
pub const STABLE: &str = "stable";
/// Name of the variant that is being tried.
pub const CANARY: &str = "canary";
/// Name under which copies of requests are counted.
pub const SHADOW: &str = "shadow";

/// Who is sent to which variant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Split {
    /// Each request is drawn anew.
    #[default]
    Request,
    /// One user, one variant: by [`user_bucket`] of a request header. The first variant has the
    /// upper buckets, the others have those from 0 on, in order. Who sends no such header goes
    /// to the first variant and is not counted.
    User {
        /// The header, in lower case.
        header: String,
        /// Sets one comparison apart from another.
        salt: String,
    },
}

impl Split {
    fn is_by_request(&self) -> bool {
        *self == Self::Request
    }
}

/// A backend that gets copies of requests. Its answers are measured and thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shadow {
    /// Revision behind it.
    pub revision: String,
    /// `HOST:PORT` of the revision's Service.
    pub backend: String,
    /// Percent of requests that are copied.
    pub percent: u32,
}

/// What a gateway counts of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measure {
    /// Counts go on while this stays the same, and begin anew when it changes.
    pub id: String,
    /// Length of the window of the newest requests.
    pub interval_seconds: u32,
}

/// What a gateway does for servers whose number follows the traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scaling {
    /// Time over which [`Load::peak`] is told.
    pub window_seconds: u32,
    /// How long a request waits for a server where there is none.
    pub hold_seconds: u32,
}

/// What is in flight of one revision: to a gateway requests, those that wait for a server included;
/// to a server of a language model ([`LOAD_PATH`]) tokens, those of prompts that wait included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// The revision.
    pub revision: String,
    /// Mean of the newest 10 s.
    pub recent: f64,
    /// Highest such mean within [`Scaling::window_seconds`].
    pub peak: f64,
    /// How long it has been watched at its present weight, up to [`Scaling::window_seconds`].
    pub watched_seconds: u32,
}

/// Where a server tells its [`Load`], or `null` where its model counts no tokens; `?window=SECONDS`
/// says how far back its peak goes.
pub const LOAD_PATH: &str = "/load";

/// Where a server tells its [`DriftReport`]; earlier ones answer `null` where they do not watch what they
/// are asked.
pub const DRIFT_PATH: &str = "/drift";

/// How far the requests of the last half hour to hour are from the training rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftReport {
    /// Rows that it is of.
    pub rows: u64,
    /// What is farthest, and how far: at most [`DriftReport::MOST`], none where there are too few rows.
    pub shifts: Vec<Shift>,
    /// Why nothing is compared, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_watched: Option<String>,
}

impl DriftReport {
    /// Most shifts that are told.
    pub const MOST: usize = 16;
    /// What stands for a classifier's answers among features.
    pub const LABELS: &str = "the labels that are answered";
}

/// How far one feature, or the score, is from the training rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shift {
    /// The feature; nothing for the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature: Option<String>,
    /// Population stability index.
    pub psi: f64,
}

/// Longest window that a server remembers, in seconds.
pub const MAX_LOAD_WINDOW: u32 = 86_400;

impl Load {
    /// Of what was seen of a revision until `now`.
    pub fn of(revision: &str, history: &History, now: Duration, window: Duration) -> Self {
        Self {
            revision: revision.to_owned(),
            recent: history.recent(),
            peak: history.peak(now, window),
            watched_seconds: history.watched_seconds(now, window),
        }
    }
}

/// What a gateway has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// [`Measure::id`] of the table in force; empty where nothing is counted.
    pub id: String,
    /// One entry a variant of the table, and one for [`SHADOW`].
    pub variants: Vec<VariantFigures>,
    /// Where servers are scaled: one entry a revision of the table.
    #[serde(default)]
    pub loads: Vec<Load>,
}

/// What was counted of one variant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VariantFigures {
    /// The variant.
    pub name: String,
    /// Requests that were sent there, ended or not.
    pub assigned: u64,
    /// Since counting began.
    pub total: Figures,
    /// Of the newest one to two intervals.
    pub window: Figures,
    /// What clients said came of it (`POST /hearth/outcomes`).
    pub outcomes: Outcomes,
    /// Who was sent there, where users are split.
    #[serde(default, skip_serializing_if = "UserCount::is_empty")]
    pub users: UserCount,
}

impl VariantFigures {
    /// These and those, of two gateways.
    pub fn add(&mut self, other: &Self) {
        self.assigned += other.assigned;
        self.total.add(&other.total);
        self.window.add(&other.window);
        self.outcomes.reported += other.outcomes.reported;
        self.outcomes.succeeded += other.outcomes.succeeded;
        self.users.unite(&other.users);
    }
}

/// Requests that ended, but for those that clients gave up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// All.
    pub requests: u64,
    /// Those answered with 5xx, broken off, or not answered at all.
    pub failed: u64,
    /// Time from a request's head to the end of its answer.
    pub latencies: Latencies,
}

impl Figures {
    /// These and those.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.latencies.add(&other.latencies);
    }

    /// Share of requests that failed; 0 where there was none.
    pub fn error_rate(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failed as f64 / self.requests as f64 }
    }
}

/// Outcomes of users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcomes {
    /// Outcomes that were reported.
    pub reported: u64,
    /// Those that were a success.
    pub succeeded: u64,
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

/// Buckets that users are spread over.
pub const USER_BUCKETS: u32 = 10_000;

/// A hash of a user, the same on every gateway and in every version: FNV-1a of both, then
/// MurmurHash3's 64-bit finalizer (Appleby 2011, `fmix64`), since FNV alone leaves some bits of
/// short keys uneven.
pub fn user_hash(salt: &str, user: &[u8]) -> u64 {
    let mut hash = names::fnv1a(&[salt.as_bytes(), &[0], user].concat());
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

/// The bucket of a user, below [`USER_BUCKETS`].
pub fn user_bucket(salt: &str, user: &[u8]) -> u32 {
    // The upper half counts users (`user_count`), the lower one places them.
    ((user_hash(salt, user) & 0xffff_ffff) % u64::from(USER_BUCKETS)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chi-squared of 20 bins of 500 buckets, 19 degrees of freedom: above 43.8 once in 1,000.
    #[test]
    fn users_are_spread_evenly_and_stay_where_they_are() {
        for salt in ["", "shop/r2", "shop/r3"] {
            let mut bins = [0_f64; 20];
            for user in 0..20_000 {
                let bucket = user_bucket(salt, format!("user-{user}").as_bytes());
                bins[bucket as usize / 500] += 1.0;
            }
            let unevenness: f64 = bins.iter().map(|n| (n - 1000.0).powi(2) / 1000.0).sum();
            assert!(unevenness < 43.8, "{salt}: {unevenness}");
        }
        assert_eq!(user_bucket("shop/r2", b"ann"), user_bucket("shop/r2", b"ann"));
        let moved = (0..1000).filter(|user| {
            let user = format!("u{user}");
            user_bucket("a", user.as_bytes()) / 5000 != user_bucket("b", user.as_bytes()) / 5000
        });
        // Another salt draws anew: half of them change sides, 4 standard deviations around it.
        assert!((437..563).contains(&moved.count()));
    }
}
