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

/// The figures of every server.
#[derive(Debug)]
pub struct ServingMetrics {
    registry: Registry,
    request_seconds: Histogram,
    requests: Family<Outcome, Counter>,
}

impl ServingMetrics {
    /// These, and those that `more` registers.
    pub fn with<M>(more: impl FnOnce(&mut Registry) -> M) -> (Self, M) {
        let mut registry = Registry::default();
        let inference = registry.sub_registry_with_prefix("hearth_inference");
        let request_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 14));
        let requests = Family::default();
        inference.register(
            "request_seconds",
            "From a request's body to its answer",
            request_seconds.clone(),
        );
        inference.register("requests", "Requests by HTTP status", requests.clone());
        let more = more(inference);
        (Self { registry, request_seconds, requests }, more)
    }

    /// A request was answered.
    pub fn request(&self, code: u16, seconds: f64) {
        self.request_seconds.observe(seconds);
        self.requests.get_or_create(&Outcome { code }).inc();
    }

    /// Text exposition.
    pub fn encode(&self) -> String {
        encode_registry(&self.registry)
    }
}

/// The figures of texts that are computed together.
#[derive(Debug)]
pub struct BatchMetrics {
    queue_depth: Gauge,
    batch_size: Histogram,
    tokens: Counter,
}

impl BatchMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            queue_depth: Gauge::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            tokens: Counter::default(),
        };
        registry.register(
            "queue_depth",
            "Texts or pictures that wait",
            metrics.queue_depth.clone(),
        );
        registry.register(
            "batch_size",
            "Texts or pictures computed together",
            metrics.batch_size.clone(),
        );
        registry.register("tokens", "Tokens computed", metrics.tokens.clone());
        metrics
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
}
