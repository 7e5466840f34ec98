//! Figures for Prometheus. Labels come from closed sets: variants of the table
//! (at most 16) and classes of outcomes.

use std::fmt::Write as _;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of [`Metrics::request_seconds`]: 1 ms to 131 s, a factor of 2 apart.
const BUCKETS: i32 = 18;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// An answer with this hundred of its status was sent whole.
    Status(u16),
    /// The server broke off in the middle of its answer.
    Broken,
    /// The client went away before the end.
    Canceled,
}

impl EncodeLabelValue for Outcome {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> std::fmt::Result {
        match self {
            Self::Status(hundred) => write!(encoder, "{hundred}xx"),
            Self::Broken => encoder.write_str("broken"),
            Self::Canceled => encoder.write_str("canceled"),
        }
    }
}

/// A variant; `none` for what never got to one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VariantLabel {
    /// Name in the routing table.
    pub variant: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    variant: String,
    code: Outcome,
}

/// Why a routing table was not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum TableTrouble {
    /// Its source cannot be reached.
    Unreachable,
    /// It is not there.
    Missing,
    /// It is no routing table.
    Malformed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TroubleLabels {
    reason: TableTrouble,
}

/// All figures of a gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<VariantLabel, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    retries: Family<VariantLabel, Counter>,
    weights: Family<VariantLabel, Gauge>,
    troubles: Family<TroubleLabels, Counter>,
    connections: Gauge,
    uncopied: Counter,
    fallbacks: Family<VariantLabel, Counter>,
}

fn request_histogram() -> Histogram {
    Histogram::new((0..BUCKETS).map(|power| 0.001 * f64::powi(2.0, power)))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("hearth_gateway");
        let new = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(request_histogram),
            in_flight: Gauge::default(),
            retries: Family::default(),
            weights: Family::default(),
            troubles: Family::default(),
            connections: Gauge::default(),
            uncopied: Counter::default(),
            fallbacks: Family::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Requests that ended, by outcome", new.requests.clone());
        registry.register_with_unit(
            "request",
            "Time from a request's head to the end of its answer",
            Unit::Seconds,
            new.seconds.clone(),
        );
        registry.register("in_flight_requests", "Requests being answered", new.in_flight.clone());
        registry.register(
            "retries",
            "Attempts after the first to get an answer from a server",
            new.retries.clone(),
        );
        registry.register("variant_weight", "Percent of requests", new.weights.clone());
        registry.register(
            "routing_table_troubles",
            "Times that a routing table was not taken over; the one before stands",
            new.troubles.clone(),
        );
        registry.register(
            "fallbacks",
            "Requests that the stable variant answered, since this one could not be reached",
            new.fallbacks.clone(),
        );
        registry.register(
            "shadow_skipped",
            "Requests that should have been copied and were not: too large, or too many at once",
            new.uncopied.clone(),
        );
        registry.register("connections", "Open connections of clients", new.connections.clone());
        Self { registry, ..new }
    }
}

impl Metrics {
    /// A request ended.
    pub(crate) fn ended(&self, variant: &str, code: Outcome, seconds: f64) {
        let variant = variant.to_owned();
        self.requests.get_or_create(&RequestLabels { variant: variant.clone(), code }).inc();
        self.seconds.get_or_create(&VariantLabel { variant }).observe(seconds);
    }

    /// An attempt follows another.
    pub(crate) fn retried(&self, variant: &str) {
        self.retries.get_or_create(&VariantLabel { variant: variant.to_owned() }).inc();
    }

    pub(crate) fn in_flight(&self) -> &Gauge {
        &self.in_flight
    }

    pub(crate) fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// The stable variant answers instead of this one.
    pub(crate) fn went_over(&self, variant: &str) {
        self.fallbacks.get_or_create(&VariantLabel { variant: variant.to_owned() }).inc();
    }

    /// A request should have been copied and was not.
    pub(crate) fn not_copied(&self) {
        self.uncopied.inc();
    }

    /// A table is in force.
    pub(crate) fn routed(&self, table: &hearth_crds::routing::RoutingTable) {
        self.weights.clear();
        for variant in &table.variants {
            let label = VariantLabel { variant: variant.name.clone() };
            self.weights.get_or_create(&label).set(i64::from(variant.weight));
        }
    }

    /// A table was not taken over.
    pub fn troubled(&self, reason: TableTrouble) {
        self.troubles.get_or_create(&TroubleLabels { reason }).inc();
    }

    /// The exposition text (OpenMetrics).
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_documented_ones() {
        let metrics = Metrics::default();
        metrics.ended("stable", Outcome::Status(2), 0.02);
        metrics.ended("none", Outcome::Canceled, 0.02);
        metrics.retried("stable");
        metrics.troubled(TableTrouble::Malformed);
        let text = metrics.text();
        for line in [
            "hearth_gateway_requests_total{variant=\"stable\",code=\"2xx\"} 1",
            "hearth_gateway_requests_total{variant=\"none\",code=\"canceled\"} 1",
            "hearth_gateway_request_seconds_count{variant=\"stable\"} 1",
            "hearth_gateway_request_seconds_bucket{le=\"0.032\",variant=\"stable\"} 1",
            "hearth_gateway_in_flight_requests 0",
            "hearth_gateway_retries_total{variant=\"stable\"} 1",
            "hearth_gateway_routing_table_troubles_total{reason=\"Malformed\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
    }
}
