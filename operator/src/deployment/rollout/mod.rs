//! How a new revision takes over from the one that serves: steps, what ends them, and what sends
//! it back.
//!
//! All that is known of a rollout stands on the routing table ([`Record`], an annotation), in the
//! spec, and in what gateways count, so an operator that starts anew goes on where the old one was.

mod compare;
mod judge;
mod order;

use hearth_crds::model_deployment::{
    Analysis, ExperimentStatus, ExperimentVerdict, OnVerdict, Rollout, RolloutStrategy,
};
use hearth_crds::names;
use hearth_crds::routing::{CANARY, Measure, Measured, SHADOW, VariantFigures};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

pub use compare::compare;
use judge::{Finding, judge};
pub use order::Order;

/// Length of a gateway's window where nothing is judged by it.
const PLAIN_INTERVAL_SECONDS: u32 = 10;

/// What stands on the routing table about rollouts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The rollout that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Progress>,
    /// The newest revision that was sent back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
}

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The revision on its way.
    pub revision: String,
    /// Hash of the spec's rollout: other steps are begun anew.
    pub program: String,
    /// The step, from 0.
    pub step: usize,
    /// When it began.
    pub since: Timestamp,
    /// What the comparison of users found, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<ExperimentStatus>,
}

/// A revision that was sent back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// The revision.
    pub revision: String,
    /// Hash of the spec's rollout: where that is changed, the revision is tried again.
    pub program: String,
    /// Why.
    pub reason: Reason,
    /// A sentence.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// Why a revision is sent back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// More requests failed than `maxErrorRate` allows.
    TooManyErrors,
    /// Answers took longer than `maxP95Milliseconds` allows.
    TooSlow,
    /// Users fared no better with it.
    NotBetter,
    /// A person said so.
    SentBack,
}

impl Reason {
    /// The reason in conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooManyErrors => "TooManyErrors",
            Self::TooSlow => "TooSlow",
            Self::NotBetter => "NotBetter",
            Self::SentBack => "SentBack",
        }
    }
}

/// One step, with all that the spec left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Percent of the traffic.
    pub weight: u32,
    /// Percent of requests that are copied.
    pub shadow: Option<u32>,
    /// Header that names users, where they are split.
    pub user_header: Option<String>,
    /// How long it lasts at least; `None`: until a person goes on.
    pub hold: Option<SignedDuration>,
}

impl Step {
    /// The variant that is judged: the copies, where there are some.
    pub fn variant(&self) -> &'static str {
        if self.shadow.is_some() { SHADOW } else { CANARY }
    }
}

/// The steps that a spec asks for; none where the new revision takes over at once.
pub fn steps(rollout: &Rollout) -> Vec<Step> {
    let seconds = |seconds: i32| SignedDuration::from_secs(seconds.into());
    let plain = |weight, hold| Step { weight, shadow: None, user_header: None, hold };
    match rollout.strategy {
        RolloutStrategy::BlueGreen => {
            let proof = |analysis: &Analysis| {
                plain(100, Some(seconds(analysis.interval_seconds.saturating_mul(2))))
            };
            rollout.analysis.iter().map(proof).collect()
        }
        RolloutStrategy::Canary => {
            let steps = rollout.steps.iter().flatten().map(|step| Step {
                shadow: step.shadow_percent.map(i32::unsigned_abs),
                ..plain(step.weight.unsigned_abs(), step.hold_seconds.map(seconds))
            });
            steps.collect()
        }
        RolloutStrategy::ABTest => {
            let split = rollout.experiment.iter().map(|experiment| Step {
                user_header: Some(experiment.user_header.clone()),
                ..plain(experiment.weight.unsigned_abs(), None)
            });
            split.collect()
        }
    }
}

/// A hash of a spec's rollout.
pub fn program(rollout: &Rollout) -> String {
    names::digest(rollout)
}

/// The measurement of a step: another step, another one.
pub fn measure(progress: &Progress, rollout: &Rollout) -> Measure {
    let Progress { revision, step, since, .. } = progress;
    Measure {
        id: format!("{revision}/{step}/{}", since.as_second()),
        interval_seconds: interval_seconds(rollout),
    }
}

/// Length of the window that a rollout is judged by.
pub fn interval_seconds(rollout: &Rollout) -> u32 {
    let analysis = rollout.analysis.as_ref();
    analysis.map_or(PLAIN_INTERVAL_SECONDS, |analysis| analysis.interval_seconds.unsigned_abs())
}

/// What gateways counted of one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// Every gateway has answered, and counts for this step.
    pub complete: bool,
    /// One entry a variant.
    pub variants: Vec<VariantFigures>,
}

impl Counted {
    /// The sum of what gateways said about the measurement `id`; `None`: one did not answer.
    pub fn sum(answers: &[Option<Measured>], id: &str) -> Self {
        let told = answers.iter().flatten().filter(|measured| measured.id == id);
        let mut variants: Vec<VariantFigures> = Vec::new();
        for figures in told.clone().flat_map(|measured| &measured.variants) {
            match variants.iter_mut().find(|have| have.name == figures.name) {
                Some(have) => have.add(figures),
                None => variants.push(figures.clone()),
            }
        }
        Self { complete: !answers.is_empty() && told.count() == answers.len(), variants }
    }

    /// Of one variant.
    pub fn of(&self, variant: &str) -> Option<&VariantFigures> {
        self.variants.iter().find(|figures| figures.name == variant)
    }
}

/// What becomes of a step.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// It goes on, for this reason.
    Stay {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// The next step begins.
    Advance,
    /// All steps are done, or a person said so.
    Promote,
    /// The revision is sent back.
    Reject {
        /// Why.
        reason: Reason,
        /// A sentence.
        message: String,
    },
}

/// What becomes of the present step. `progress.found` is set where a comparison ends here.
pub fn next(
    rollout: &Rollout,
    progress: &mut Progress,
    counted: &Counted,
    order: Option<&Order>,
    now: Timestamp,
) -> Next {
    let steps = steps(rollout);
    let Some(step) = steps.get(progress.step) else { return Next::Promote };
    match order {
        Some(Order::Rollback) => {
            let message = "`kubectl hearth rollback` sent it back".to_owned();
            return Next::Reject { reason: Reason::SentBack, message };
        }
        Some(Order::Promote) => return Next::Promote,
        _ => {}
    }
    let judged = rollout.analysis.as_ref().map(|analysis| judge(analysis, counted, step.variant()));
    if let Some(Finding::Bad { reason, message }) = judged {
        return Next::Reject { reason, message };
    }
    if let Some(Order::Pause) = order {
        let message = "paused until `kubectl hearth resume`".to_owned();
        return Next::Stay { reason: "Paused", message };
    }
    if let Some(next) = users_compared(rollout, progress, counted) {
        return next;
    }
    let passed = matches!(order, Some(Order::PassStep(last)) if progress.step <= *last);
    let left = step.hold.map(|hold| hold - now.duration_since(progress.since));
    match (left, judged) {
        _ if passed => Next::Advance,
        (None, _) => Next::Stay {
            reason: "WaitingForPromotion",
            message: "waits for `kubectl hearth promote`".into(),
        },
        (Some(left), _) if left > SignedDuration::ZERO => Next::Stay {
            reason: "Holding",
            message: format!("this step lasts until {}", now + left),
        },
        (_, Some(Finding::Open(message))) => Next::Stay { reason: "Measuring", message },
        _ => Next::Advance,
    }
}

/// Where users are compared: the verdict, or what it waits for.
fn users_compared(rollout: &Rollout, progress: &mut Progress, counted: &Counted) -> Option<Next> {
    let experiment = rollout.experiment.as_ref()?;
    if progress.found.is_none() {
        let status = compare(experiment, counted);
        if status.verdict.is_none() {
            let message =
                format!("waits for {} outcomes of each revision", experiment.min_outcomes);
            return Some(Next::Stay { reason: "Comparing", message });
        }
        progress.found = Some(status);
    }
    let verdict = progress.found.as_ref().and_then(|found| found.verdict)?;
    let sentence = match verdict {
        ExperimentVerdict::Better => "the new revision is better",
        ExperimentVerdict::Worse => "the new revision is worse",
        ExperimentVerdict::NoDifference => "no difference was found",
        ExperimentVerdict::SampleRatioMismatch => {
            "users were not split as the weights say, so the outcomes cannot be compared"
        }
    };
    Some(match (experiment.on_verdict, verdict) {
        (OnVerdict::Promote, ExperimentVerdict::Better) => Next::Promote,
        (OnVerdict::Promote, ExperimentVerdict::Worse | ExperimentVerdict::NoDifference) => {
            Next::Reject { reason: Reason::NotBetter, message: sentence.into() }
        }
        _ => Next::Stay {
            reason: "WaitingForPromotion",
            message: format!(
                "{sentence}; waits for `kubectl hearth promote` or `kubectl hearth rollback`"
            ),
        },
    })
}

#[cfg(test)]
mod tests;
