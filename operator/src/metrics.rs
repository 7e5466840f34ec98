//! The operator's metrics (design.md, section 6). Closed label sets: no names.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::error::Category;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByController {
    controller: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByFailure {
    controller: &'static str,
    category: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByWrite {
    kind: &'static str,
    verb: &'static str,
}

/// Counters of the operator.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconcile: Family<ByController, Histogram>,
    errors: Family<ByFailure, Counter>,
    writes: Family<ByWrite, Counter>,
    watch_errors: Counter,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let reconcile = Family::<ByController, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.001, 2.0, 15))
        });
        let errors = Family::<ByFailure, Counter>::default();
        let writes = Family::<ByWrite, Counter>::default();
        let (watch_errors, leader) = (Counter::default(), Gauge::default());
        registry.register("hearth_reconcile_seconds", "Time of one reconcile", reconcile.clone());
        registry.register("hearth_reconcile_errors", "Failed reconciles", errors.clone());
        registry.register("hearth_api_writes", "Requests that change the cluster", writes.clone());
        registry.register("hearth_watch_errors", "Broken watches", watch_errors.clone());
        registry.register("hearth_leader", "1 while this process leads", leader.clone());
        Self { registry: Arc::new(registry), reconcile, errors, writes, watch_errors, leader }
    }
}

impl Metrics {
    /// Counts one reconcile.
    pub fn reconciled(&self, controller: &'static str, took: Duration) {
        self.reconcile.get_or_create(&ByController { controller }).observe(took.as_secs_f64());
    }

    /// Counts one failed reconcile.
    pub fn failed(&self, controller: &'static str, category: Category) {
        self.errors.get_or_create(&ByFailure { controller, category: category.as_str() }).inc();
    }

    /// Counts one request that changes the cluster.
    pub fn wrote(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&ByWrite { kind, verb }).inc();
    }

    /// Requests so far that changed objects of this kind.
    pub fn writes_of(&self, kind: &'static str, verb: &'static str) -> u64 {
        self.writes.get_or_create(&ByWrite { kind, verb }).get()
    }

    /// Counts one error of a watch.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// Says whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}
