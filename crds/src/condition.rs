//! Conditions: their types, their reasons, and the one rule for changing them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Condition types of a [`TrainingJob`](crate::TrainingJob).
pub mod training_job {
    /// The spec is valid and its parts are understood.
    pub const ACCEPTED: &str = "Accepted";
    /// Resources are granted: the child Job is not suspended.
    pub const ADMITTED: &str = "Admitted";
    /// All ranks of the present generation are training.
    pub const RUNNING: &str = "Running";
    /// The model is exported.
    pub const SUCCEEDED: &str = "Succeeded";
    /// The job ended without a model.
    pub const FAILED: &str = "Failed";
    /// The job ended without a model because `spec.stop` asked it to.
    pub const STOPPED: &str = "Stopped";
    /// What the run's figures say about its settings and inputs, with what to change.
    /// Absent where there is nothing to say; `False` where a straggler has recovered.
    pub const DIAGNOSIS: &str = "Diagnosis";
}

/// Condition types of a [`HyperparamSweep`](crate::HyperparamSweep).
pub mod sweep {
    /// The spec is valid, and so is every job that it can make.
    pub const ACCEPTED: &str = "Accepted";
    /// Trials run, or are about to.
    pub const RUNNING: &str = "Running";
    /// All trials have ended, and one is the best.
    pub const SUCCEEDED: &str = "Succeeded";
    /// Too many trials failed.
    pub const FAILED: &str = "Failed";
}

/// Condition types of a [`ModelDeployment`](crate::ModelDeployment).
pub mod model_deployment {
    /// The address answers with the revision named in `status.stable`.
    pub const READY: &str = "Ready";
    /// A revision is on its way (compression, gate, start of its pods).
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong that needs a person; the message says what to do.
    pub const DEGRADED: &str = "Degraded";
    /// An HTTPRoute leads to the gateways; only with `routing: HTTPRoute`.
    pub const ROUTED: &str = "Routed";
    /// Requests are far from what the model learned from; only with `serving.drift`.
    pub const DRIFTED: &str = "Drifted";
}

/// What a reconcile found out about one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Condition type, for example `Accepted`.
    pub type_: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: Truth,
    /// CamelCase reason from a closed set.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// A finding.
pub fn finding(
    type_: &'static str,
    status: Truth,
    reason: &'static str,
    message: String,
) -> Finding {
    Finding { type_, status, reason, message }
}

/// The three values of a condition's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// `True`
    True,
    /// `False`
    False,
    /// `Unknown`
    Unknown,
}

impl Truth {
    /// The string that the Kubernetes API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Merges findings into the conditions that were there.
///
/// `lastTransitionTime` moves only when the status value changes, as the
/// Kubernetes API conventions ask. Conditions without a finding stay as they
/// are; the order is that of first appearance.
pub fn merge(
    before: &[Condition],
    found: &[Finding],
    generation: i64,
    now: &Time,
) -> Vec<Condition> {
    let mut merged = before.to_vec();
    for finding in found {
        let old = merged.iter_mut().find(|c| c.type_ == finding.type_);
        let since = match &old {
            Some(c) if c.status == finding.status.as_str() => c.last_transition_time.clone(),
            _ => now.clone(),
        };
        let new = Condition {
            type_: finding.type_.to_owned(),
            status: finding.status.as_str().to_owned(),
            reason: finding.reason.to_owned(),
            message: finding.message.clone(),
            observed_generation: Some(generation),
            last_transition_time: since,
        };
        match old {
            Some(c) => *c = new,
            None => merged.push(new),
        }
    }
    merged
}

/// The condition of this type, if it was ever set.
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// The condition of this type, if it is `True`.
pub fn holding<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    get(conditions, type_).filter(|c| c.status == "True")
}

/// Whether the condition of this type is `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    holding(conditions, type_).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    fn accepted(status: Truth) -> Finding {
        Finding { type_: "Accepted", status, reason: "Valid", message: "ok".into() }
    }

    #[test]
    fn transition_time_moves_only_with_the_value() {
        let first = merge(&[], &[accepted(Truth::True)], 1, &at(10));
        let same = merge(&first, &[accepted(Truth::True)], 2, &at(20));
        let flipped = merge(&same, &[accepted(Truth::False)], 3, &at(30));
        assert_eq!(same[0].last_transition_time, at(10));
        assert_eq!(same[0].observed_generation, Some(2));
        assert_eq!(flipped[0].last_transition_time, at(30));
    }

    #[test]
    fn conditions_without_a_finding_stay() {
        let running =
            Finding { type_: "Running", status: Truth::True, reason: "R", message: String::new() };
        let both = merge(&[], &[accepted(Truth::True), running], 1, &at(1));
        let after = merge(&both, &[accepted(Truth::False)], 2, &at(2));
        assert_eq!(after[1], both[1]);
        assert!(!is_true(&after, "Accepted"));
        assert!(is_true(&after, "Running"));
    }
}
