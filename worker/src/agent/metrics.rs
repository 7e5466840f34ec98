//! What Prometheus reads from an agent.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::event::RankEvent;

/// A gauge of real numbers.
type Real = Gauge<f64, std::sync::atomic::AtomicU64>;

/// The figures of a training job. Agent 0 alone has them: other agents would
/// count the same tokens again.
#[derive(Debug)]
pub struct TrainingMetrics {
    registry: Registry,
    loss: Real,
    accuracy: Real,
    f1: Real,
    learning_rate: Real,
    grad_norm: Real,
    step: Gauge,
    tokens: Counter,
    samples: Counter,
    save_seconds: Histogram,
    stall_seconds: Histogram,
    checkpoint_bytes: Gauge,
    restarts: Counter,
}

impl TrainingMetrics {
    /// All at zero, `restarts` as an earlier coordinator left them.
    pub fn new(restarts: u32) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            loss: Real::default(),
            accuracy: Real::default(),
            f1: Real::default(),
            learning_rate: Real::default(),
            grad_norm: Real::default(),
            step: Gauge::default(),
            tokens: Counter::default(),
            samples: Counter::default(),
            save_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 18)),
            stall_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            checkpoint_bytes: Gauge::default(),
            restarts: Counter::default(),
        };
        metrics.restarts.inc_by(restarts.into());
        metrics.register()
    }

    fn register(mut self) -> Self {
        let training = self.registry.sub_registry_with_prefix("hearth_training");
        training.register("loss", "Training loss of the newest step", self.loss.clone());
        training.register("accuracy", "Accuracy of the newest evaluation", self.accuracy.clone());
        training.register("f1", "F1 of the newest evaluation", self.f1.clone());
        training.register(
            "learning_rate",
            "Learning rate of the newest step",
            self.learning_rate.clone(),
        );
        training.register(
            "grad_norm",
            "L2 norm of the newest gradient before clipping",
            self.grad_norm.clone(),
        );
        training.register("step", "Optimizer steps done", self.step.clone());
        training.register("tokens", "Tokens trained on since agent 0 started", self.tokens.clone());
        training.register(
            "samples",
            "Samples trained on since agent 0 started",
            self.samples.clone(),
        );
        training.register("restarts", "Failures recovered from", self.restarts.clone());
        let checkpoint = self.registry.sub_registry_with_prefix("hearth_checkpoint");
        checkpoint.register(
            "save_seconds",
            "Seconds from the beginning of a checkpoint to its completion",
            self.save_seconds.clone(),
        );
        checkpoint.register(
            "stall_seconds",
            "Seconds that training stood still for a checkpoint",
            self.stall_seconds.clone(),
        );
        checkpoint.register(
            "bytes",
            "Size of the newest checkpoint",
            self.checkpoint_bytes.clone(),
        );
        self
    }

    /// Takes an event of rank 0.
    pub fn take(&self, event: &RankEvent) {
        match event {
            RankEvent::Step(report) => {
                self.loss.set(report.loss);
                self.learning_rate.set(report.learning_rate);
                self.grad_norm.set(report.grad_norm);
                self.step.set(report.step);
                self.tokens.inc_by(report.tokens);
                self.samples.inc_by(report.samples);
            }
            RankEvent::Evaluation { metrics, .. } => {
                self.accuracy.set(metrics.accuracy);
                if let Some(f1) = metrics.f1 {
                    self.f1.set(f1);
                }
            }
            RankEvent::Checkpoint { seconds, stall_seconds, bytes, .. } => {
                self.save_seconds.observe(*seconds);
                self.stall_seconds.observe(*stall_seconds);
                self.checkpoint_bytes.set(i64::try_from(*bytes).unwrap_or(i64::MAX));
            }
            RankEvent::Resumed { step, .. } => {
                self.step.set(*step);
            }
            _ => {}
        }
    }

    /// Counts a failure that training was taken up after.
    pub fn count_restart(&self) {
        self.restarts.inc();
    }

    /// Text exposition.
    pub fn encode(&self) -> String {
        encode_registry(&self.registry)
    }
}

/// Text exposition of `registry`; empty where it cannot be written.
pub fn encode_registry(registry: &Registry) -> String {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => text,
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StepReport;

    #[test]
    fn names_are_those_of_the_design() {
        let metrics = TrainingMetrics::new(2);
        metrics.take(&RankEvent::Step(StepReport { step: 3, tokens: 7, ..StepReport::default() }));
        metrics.count_restart();
        let text = metrics.encode();
        for line in [
            "hearth_training_loss 0.0",
            "hearth_training_step 3",
            "hearth_training_tokens_total 7",
            "hearth_training_samples_total 0",
            "hearth_training_restarts_total 3",
            "hearth_checkpoint_bytes 0",
            "hearth_checkpoint_save_seconds_count 0",
            "hearth_checkpoint_stall_seconds_count 0",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in:\n{text}");
        }
    }
}
