//! Whether an object is done, from its conditions. Pure.

use hearth_crds::condition::{self, model_deployment as md, training_job as tj};
use hearth_crds::{ModelDeployment, TrainingJob};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::render::{self, Snapshot};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Keep following.
    GoesOn,
    /// Done, with a closing line.
    Done(String),
    /// Failed, with the reason.
    Failed(String),
}

/// An object that can be followed.
pub(super) trait Followed {
    /// Its conditions.
    fn conditions(&self) -> &[Condition];
    /// Whether it is done.
    fn verdict(&self) -> Verdict;
    /// How far training is, for what trains.
    fn training(&self) -> Option<Snapshot>;
    /// The state in a word.
    fn state(&self) -> String;
}

impl Followed for TrainingJob {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| status.conditions.as_slice())
    }

    fn verdict(&self) -> Verdict {
        let conditions = self.conditions();
        if let Some(ended) = holds(conditions, tj::FAILED).or(holds(conditions, tj::STOPPED)) {
            return Verdict::Failed(told(ended));
        }
        if holds(conditions, tj::SUCCEEDED).is_some() {
            return Verdict::Done(self.success());
        }
        // A job's spec cannot be edited, so a refusal of it is final.
        let refused = condition::get(conditions, tj::ACCEPTED).filter(|c| {
            c.status == "False" && matches!(c.reason.as_str(), "Invalid" | "Unsupported")
        });
        refused.map_or(Verdict::GoesOn, |refused| Verdict::Failed(told(refused)))
    }

    fn training(&self) -> Option<Snapshot> {
        self.status.as_ref().map(Snapshot::from)
    }

    fn state(&self) -> String {
        self.training().unwrap_or_default().state
    }
}

/// A job's closing line.
trait Success {
    fn success(&self) -> String;
}

impl Success for TrainingJob {
    fn success(&self) -> String {
        let status = self.status.clone().unwrap_or_default();
        let progress = status.progress.unwrap_or_default();
        let mut parts = vec![format!("succeeded: {} steps", progress.step)];
        let metrics = render::metrics(&progress);
        if !metrics.is_empty() {
            parts.push(metrics);
        }
        if status.restarts > 0 {
            parts.push(format!("restarts {}", status.restarts));
        }
        if let Some(model) = status.model {
            parts.push(format!("model {}", model.uri));
        }
        parts.join("  ")
    }
}

impl Followed for ModelDeployment {
    fn conditions(&self) -> &[Condition] {
        self.status.as_ref().map_or(&[], |status| status.conditions.as_slice())
    }

    fn verdict(&self) -> Verdict {
        // What was found out about an older spec says nothing about this one.
        let observed = self.status.as_ref().and_then(|status| status.observed_generation);
        if observed < self.metadata.generation {
            return Verdict::GoesOn;
        }
        let conditions = self.conditions();
        if let Some(degraded) = holds(conditions, md::DEGRADED) {
            return Verdict::Failed(told(degraded));
        }
        let done =
            holds(conditions, md::READY).is_some() && holds(conditions, md::PROGRESSING).is_none();
        if !done {
            return Verdict::GoesOn;
        }
        let status = self.status.clone().unwrap_or_default();
        let mut parts = vec!["ready".to_owned()];
        if let Some(stable) = status.stable {
            parts.push(format!("revision {}", stable.revision));
            let report = stable.compression.unwrap_or_default();
            if let (Some(before), Some(after)) = (report.metric_before, report.metric_after) {
                parts.push(format!("gate {before:.4} -> {after:.4}"));
            }
        }
        parts.extend(status.address.map(|address| format!("at {address}")));
        Verdict::Done(parts.join("  "))
    }

    fn training(&self) -> Option<Snapshot> {
        None
    }

    fn state(&self) -> String {
        let state = self.status.as_ref().and_then(|status| status.state.as_deref());
        state.unwrap_or("Pending").to_lowercase()
    }
}

fn holds<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    condition::get(conditions, type_).filter(|condition| condition.status == "True")
}

fn told(condition: &Condition) -> String {
    format!("{}: {}", condition.reason, condition.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(conditions: &Value) -> TrainingJob {
        serde_json::from_value(json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "spam"},
            "spec": {"task": "SequenceClassification", "model": {"source": "pvc://m/x"},
                     "data": {"train": {"source": "pvc://d/x"}}, "output": {"destination": "pvc://m/y"}},
            "status": {"conditions": conditions, "restarts": 1,
                       "progress": {"step": 450, "totalSteps": 450, "evalLoss": 0.1, "f1": 0.98},
                       "model": {"uri": "pvc://m/y/model", "digest": "blake3:1"}}
        }))
        .unwrap()
    }

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "the sentence",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn jobs_end_by_their_conditions() {
        let closing =
            "succeeded: 450 steps  loss 0.1000  f1 0.9800  restarts 1  model pvc://m/y/model";
        for (conditions, want) in [
            (json!([]), Verdict::GoesOn),
            (json!([condition("Running", "True", "Training")]), Verdict::GoesOn),
            (json!([condition("Accepted", "False", "MissingClaim")]), Verdict::GoesOn),
            (
                json!([condition("Accepted", "False", "Invalid")]),
                Verdict::Failed("Invalid: the sentence".into()),
            ),
            (json!([condition("Succeeded", "True", "Completed")]), Verdict::Done(closing.into())),
            (
                json!([condition("Failed", "True", "BadData")]),
                Verdict::Failed("BadData: the sentence".into()),
            ),
            (
                json!([condition("Stopped", "True", "Requested")]),
                Verdict::Failed("Requested: the sentence".into()),
            ),
        ] {
            assert_eq!(job(&conditions).verdict(), want, "{conditions}");
        }
    }

    #[test]
    fn deployments_are_done_when_ready_and_at_rest() {
        let ready = condition("Ready", "True", "Serving");
        let resting = condition("Progressing", "False", "Complete");
        let moving = condition("Progressing", "True", "Starting");
        let refused = condition("Degraded", "True", "GateFailed");
        let done =
            Verdict::Done("ready  revision r2  gate 0.9800 -> 0.9790  at http://spam".into());
        for (observed, conditions, want) in [
            (2, json!([ready, resting]), done),
            (1, json!([ready, resting]), Verdict::GoesOn),
            (2, json!([ready, moving]), Verdict::GoesOn),
            (
                2,
                json!([ready, resting, refused]),
                Verdict::Failed("GateFailed: the sentence".into()),
            ),
            (2, json!([]), Verdict::GoesOn),
        ] {
            let deployment: ModelDeployment = serde_json::from_value(json!({
                "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment",
                "metadata": {"name": "spam", "generation": 2},
                "spec": {"model": {"source": "pvc://m/y/model"}},
                "status": {"observedGeneration": observed, "conditions": conditions,
                           "address": "http://spam",
                           "stable": {"revision": "r2", "compression":
                                      {"metricBefore": 0.98, "metricAfter": 0.979}}}
            }))
            .unwrap();
            assert_eq!(deployment.verdict(), want, "{observed} {conditions}");
        }
    }
}
