//! What Prometheus reads of texts that are made.

use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The figures of an engine.
#[derive(Debug)]
pub struct GenerationMetrics {
    first_token_seconds: Histogram,
    token_seconds: Histogram,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generated_tokens: Counter,
    pass_tokens: Histogram,
    running: Gauge,
    waiting: Gauge,
    tokens_in_flight: Gauge,
    cache_used: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl GenerationMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 16));
        let metrics = Self {
            first_token_seconds: seconds(),
            token_seconds: seconds(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            pass_tokens: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            running: Gauge::default(),
            waiting: Gauge::default(),
            tokens_in_flight: Gauge::default(),
            cache_used: Gauge::default(),
        };
        let of = &metrics;
        registry.register(
            "time_to_first_token_seconds",
            "From a text's arrival to its first token",
            of.first_token_seconds.clone(),
        );
        registry.register(
            "time_per_output_token_seconds",
            "From one token of a text to the next",
            of.token_seconds.clone(),
        );
        registry.register("prompt_tokens", "Tokens of prompts", of.prompt_tokens.clone());
        registry.register(
            "cached_tokens",
            "Tokens of prompts that were remembered from other texts",
            of.cached_tokens.clone(),
        );
        registry.register("generated_tokens", "Tokens chosen", of.generated_tokens.clone());
        registry.register("pass_tokens", "Tokens computed together", of.pass_tokens.clone());
        registry.register("running_texts", "Texts that are made", of.running.clone());
        registry.register("queue_depth", "Texts that wait", of.waiting.clone());
        registry.register(
            "tokens_in_flight",
            "Tokens of texts that are made or wait, those made so far included",
            of.tokens_in_flight.clone(),
        );
        registry.register(
            "cache_used_ratio",
            "Share of the room for keys and values that running texts use",
            of.cache_used.clone(),
        );
        metrics
    }

    /// A pass computes so many tokens.
    pub fn pass(&self, tokens: usize) {
        self.pass_tokens.observe(tokens as f64);
    }

    /// The gauge of tokens in flight.
    pub fn tokens_in_flight(&self) -> Gauge {
        self.tokens_in_flight.clone()
    }

    /// So many texts run and wait, and have so many tokens.
    pub fn state(&self, running: usize, waiting: usize, tokens: usize, cache_used: f64) {
        self.tokens_in_flight.set(i64::try_from(tokens).unwrap_or(i64::MAX));
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.cache_used.set(cache_used);
    }

    /// A token is chosen of a text that arrived then, and had its last token then. Its first token
    /// comes after a prompt of `prompt` tokens, of which `cached` were remembered.
    pub fn token(&self, arrived: Instant, last: Option<Instant>, prompt: usize, cached: usize) {
        self.generated_tokens.inc();
        if let Some(last) = last {
            self.token_seconds.observe(last.elapsed().as_secs_f64());
            return;
        }
        self.first_token_seconds.observe(arrived.elapsed().as_secs_f64());
        self.prompt_tokens.inc_by(prompt as u64);
        self.cached_tokens.inc_by(cached as u64);
    }
}
