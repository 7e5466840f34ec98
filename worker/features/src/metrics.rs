//! What Prometheus reads of lookups.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How the lookup of an entity ended: a closed set.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Outcome {
    /// It is there, and not too old.
    Hit,
    /// Nothing is stored of it, or the row has no key.
    Missing,
    /// It is too old.
    Stale,
    /// The store took too long.
    Timeout,
    /// The store is not reached, refuses, or holds what cannot be read.
    Error,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    view: Arc<str>,
    outcome: Outcome,
}

/// The figures of lookups. Clones count together.
#[derive(Clone, Debug)]
pub struct FeatureMetrics {
    lookups: Family<Labels, Counter>,
    lookup_seconds: Histogram,
    age_seconds: Histogram,
    defaults: Counter,
    kept: Counter,
}

impl FeatureMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            lookups: Family::default(),
            lookup_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 14)),
            age_seconds: Histogram::new(exponential_buckets(1.0, 4.0, 13)),
            defaults: Counter::default(),
            kept: Counter::default(),
        };
        registry.register(
            "feature_lookups",
            "Entities looked up, by view and outcome",
            metrics.lookups.clone(),
        );
        registry.register(
            "feature_lookup_seconds",
            "What looking features up adds to a request",
            metrics.lookup_seconds.clone(),
        );
        registry.register(
            "feature_age_seconds",
            "Age of the features that joined a request",
            metrics.age_seconds.clone(),
        );
        registry.register(
            "feature_defaults",
            "Features that became their default",
            metrics.defaults.clone(),
        );
        registry.register(
            "features_kept",
            "Features that a request held itself",
            metrics.kept.clone(),
        );
        metrics
    }

    pub(crate) fn looked_up(&self, view: &Arc<str>, outcome: Outcome, entities: u64) {
        let labels = Labels { view: Arc::clone(view), outcome };
        self.lookups.get_or_create(&labels).inc_by(entities);
    }

    pub(crate) fn took(&self, seconds: f64) {
        self.lookup_seconds.observe(seconds);
    }

    pub(crate) fn aged(&self, milliseconds: i64) {
        self.age_seconds.observe(milliseconds as f64 / 1000.0);
    }

    pub(crate) fn defaulted(&self, features: u64) {
        self.defaults.inc_by(features);
    }

    pub(crate) fn kept(&self, features: u64) {
        self.kept.inc_by(features);
    }

    /// Lookups of a view that ended so.
    pub fn count(&self, view: &str, outcome: Outcome) -> u64 {
        self.lookups.get_or_create(&Labels { view: view.into(), outcome }).get()
    }

    /// Features that became their default, and those that a request held itself.
    pub fn defaults_and_kept(&self) -> (u64, u64) {
        (self.defaults.get(), self.kept.get())
    }
}
