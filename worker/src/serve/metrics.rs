//! What Prometheus reads from a server.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::agent::metrics::encode_registry;

/// How a request ended: a closed set.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    code: u16,
}

/// The figures of a server.
#[derive(Debug)]
pub struct ServingMetrics {
    registry: Registry,
    request_seconds: Histogram,
    requests: Family<Outcome, Counter>,
    queue_depth: Gauge,
    batch_size: Histogram,
    tokens: Counter,
}

impl Default for ServingMetrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            request_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            requests: Family::default(),
            queue_depth: Gauge::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            tokens: Counter::default(),
        };
        let inference = metrics.registry.sub_registry_with_prefix("hearth_inference");
        inference.register(
            "request_seconds",
            "From a request's body to its answer",
            metrics.request_seconds.clone(),
        );
        inference.register("requests", "Requests by HTTP status", metrics.requests.clone());
        inference.register("queue_depth", "Texts that wait", metrics.queue_depth.clone());
        inference.register("batch_size", "Texts computed together", metrics.batch_size.clone());
        inference.register("tokens", "Tokens computed", metrics.tokens.clone());
        metrics
    }
}

impl ServingMetrics {
    /// A request was answered.
    pub fn request(&self, code: u16, seconds: f64) {
        self.request_seconds.observe(seconds);
        self.requests.get_or_create(&Outcome { code }).inc();
    }

    /// Texts wait.
    pub fn queue_depth(&self, texts: usize) {
        self.queue_depth.set(i64::try_from(texts).unwrap_or(i64::MAX));
    }

    /// Texts are computed together.
    pub fn batch(&self, texts: usize) {
        self.batch_size.observe(texts as f64);
    }

    /// Tokens of a request, padding not counted.
    pub fn tokens(&self, tokens: usize) {
        self.tokens.inc_by(tokens as u64);
    }

    /// Text exposition.
    pub fn encode(&self) -> String {
        encode_registry(&self.registry)
    }
}
