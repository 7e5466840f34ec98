//! What Prometheus reads from an agent.

use hearth_crds::worker_config::ResourceUse;
use prometheus_client::encoding::text::{encode_eof, encode_registry as encode_part};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::event::RankEvent;
use crate::monitor::Figure;

/// What a device-second and a joule buy.
#[derive(Debug, Default)]
struct Resources {
    samples_per_device_second: Figure,
    tokens_per_device_second: Figure,
    samples_per_joule: Figure,
    tokens_per_joule: Figure,
}

/// The figures of a training job. Agent 0 alone has them: other agents would
/// count the same tokens again.
#[derive(Debug)]
pub struct TrainingMetrics {
    registry: Registry,
    loss: Figure,
    accuracy: Figure,
    f1: Figure,
    learning_rate: Figure,
    grad_norm: Figure,
    step: Gauge,
    tokens: Counter,
    samples: Counter,
    save_seconds: Histogram,
    stall_seconds: Histogram,
    checkpoint_bytes: Figure,
    restarts: Counter,
    resources: Resources,
}

impl TrainingMetrics {
    /// Nothing known yet, `restarts` as an earlier coordinator left them.
    pub fn new(restarts: u32) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            loss: Figure::default(),
            accuracy: Figure::default(),
            f1: Figure::default(),
            learning_rate: Figure::default(),
            grad_norm: Figure::default(),
            step: Gauge::default(),
            tokens: Counter::default(),
            samples: Counter::default(),
            save_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 18)),
            stall_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            checkpoint_bytes: Figure::default(),
            restarts: Counter::default(),
            resources: Resources::default(),
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
        for (name, help, figure) in [
            (
                "samples_per_device_second",
                "Samples a second and device over the newest steps",
                &self.resources.samples_per_device_second,
            ),
            (
                "tokens_per_device_second",
                "Tokens a second and device over the newest steps",
                &self.resources.tokens_per_device_second,
            ),
            (
                "samples_per_joule",
                "Samples for a joule of the GPUs over the newest steps",
                &self.resources.samples_per_joule,
            ),
            (
                "tokens_per_joule",
                "Tokens for a joule of the GPUs over the newest steps",
                &self.resources.tokens_per_joule,
            ),
        ] {
            training.register(name, help, figure.clone());
        }
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
                metrics.accuracy.iter().for_each(|accuracy| self.accuracy.set(*accuracy));
                if let Some(f1) = metrics.f1 {
                    self.f1.set(f1);
                }
            }
            RankEvent::Checkpoint { seconds, stall_seconds, bytes, .. } => {
                self.save_seconds.observe(*seconds);
                self.stall_seconds.observe(*stall_seconds);
                self.checkpoint_bytes.set(*bytes as f64);
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

    /// Takes what the newest steps made of the devices.
    pub fn take_resources(&self, resources: Option<&ResourceUse>) {
        let Resources {
            samples_per_device_second,
            tokens_per_device_second,
            samples_per_joule,
            tokens_per_joule,
        } = &self.resources;
        samples_per_device_second.set(resources.map(|use_of| use_of.samples_per_device_second));
        tokens_per_device_second.set(resources.map(|use_of| use_of.tokens_per_device_second));
        samples_per_joule.set(resources.and_then(|use_of| use_of.samples_per_joule));
        tokens_per_joule.set(resources.and_then(|use_of| use_of.tokens_per_joule));
    }

    /// What there is to expose.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// Text exposition of one registry; empty where it cannot be written.
pub fn encode_registry(registry: &Registry) -> String {
    encode_all(&[registry])
}

/// Text exposition of some registries that share no name; empty where it
/// cannot be written.
pub fn encode_all(registries: &[&Registry]) -> String {
    let mut text = String::new();
    let written = registries
        .iter()
        .try_for_each(|registry| encode_part(&mut text, registry))
        .and_then(|()| encode_eof(&mut text));
    match written {
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

    fn text(metrics: &TrainingMetrics) -> String {
        encode_registry(metrics.registry())
    }

    #[test]
    fn names_are_those_of_the_design() {
        let metrics = TrainingMetrics::new(2);
        metrics.take(&RankEvent::Step(StepReport { step: 3, tokens: 7, ..StepReport::default() }));
        metrics.take_resources(Some(&ResourceUse {
            tokens_per_device_second: 3.5,
            tokens_per_joule: Some(0.25),
            ..ResourceUse::default()
        }));
        metrics.count_restart();
        let text = text(&metrics);
        for line in [
            "hearth_training_loss 0.0",
            "hearth_training_step 3",
            "hearth_training_tokens_total 7",
            "hearth_training_samples_total 0",
            "hearth_training_restarts_total 3",
            "hearth_training_tokens_per_device_second 3.5",
            "hearth_training_tokens_per_joule 0.25",
            "hearth_checkpoint_save_seconds_count 0",
            "hearth_checkpoint_stall_seconds_count 0",
        ] {
            assert!(text.contains(&format!("\n{line}\n")), "{line} is not in:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let text = text(&TrainingMetrics::new(0));
        for name in ["loss", "accuracy", "f1", "tokens_per_joule", "tokens_per_device_second"] {
            assert!(!text.contains(&format!("hearth_training_{name}")), "{name} is in:\n{text}");
        }
        assert!(!text.contains("hearth_checkpoint_bytes"), "{text}");
    }
}
