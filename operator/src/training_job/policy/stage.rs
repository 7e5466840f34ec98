//! Where a job stands.

use std::time::Duration;

use hearth_crds::worker_config::{WorkerState, WorkerStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::outcome::{Outcome, outcome};
use super::preparing::preparing;
use crate::admission::Grant;
use crate::admission::policy::Decision;
use crate::agent_client::AgentAnswer;
use crate::observed::{JobView, Phase, PodView};
use crate::training_job::gather::Observed;
use crate::training_job::validate::ValidJob;

/// How long a worker may run before its silence is worth a word.
const SILENCE: SignedDuration = SignedDuration::from_secs(30);
/// How long a Job may be without its pods, once its controller has looked at it, before that is
/// worth a word.
const WITHOUT_PODS: SignedDuration = SignedDuration::from_secs(5);
/// How long a Job may wait for its controller. Among thousands of new Jobs, minutes are usual.
const WITHOUT_CONTROLLER: SignedDuration = SignedDuration::from_mins(10);

/// Where a job stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// The spec is not the one that the running job was started with.
    SpecChanged,
    /// Claims are missing.
    MissingClaims(Vec<String>),
    /// `suspend` is true.
    Suspended,
    /// Its rows are being prepared: how far that is.
    Preparing(String),
    /// Kueue, or admission, has not let it start; what it waits for.
    Queued(String),
    /// Admission took its place away; for whom.
    Yielding(String),
    /// `stop` is set, and pods are still there.
    Stopping,
    /// `stop` is set, and nothing runs.
    Stopped,
    /// Pods are on their way.
    Starting {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// Worker 0 answers.
    Running(Box<WorkerStatus>),
    /// Pods run, and worker 0 does not answer: why not.
    Silent(String),
    /// What is true of it is about to be seen: workers have done their part and end,
    /// or worker 0 has not answered for a moment.
    Between,
    /// The Job has ended.
    Ended(Outcome),
}

/// Where the job stands.
pub fn stage(valid: &ValidJob, seen: &Observed, now: Timestamp) -> Stage {
    let Some(job) = &seen.job else {
        return if valid.spec.stop.is_some() {
            if live_or_ending(seen) { Stage::Stopping } else { Stage::Stopped }
        } else if !seen.missing_claims.is_empty() {
            Stage::MissingClaims(seen.missing_claims.clone())
        } else if valid.spec.suspend {
            Stage::Suspended
        } else if let Some(stage) = preparing(valid, seen, now) {
            stage
        } else if let Some(stage) = held(seen) {
            stage
        } else {
            starting(valid, seen, now)
        };
    };
    let polled = match &seen.agent {
        AgentAnswer::Status(status) => status.result.as_ref(),
        AgentAnswer::NotAsked | AgentAnswer::Silent(_) => None,
    };
    match outcome(job, &seen.pods, polled, now) {
        Outcome::Open => {}
        ended => return Stage::Ended(ended),
    }
    if valid.spec.stop.is_some() {
        return Stage::Stopping;
    }
    if job.spec_hash.as_deref() != Some(valid.spec_hash().as_str()) {
        return Stage::SpecChanged;
    }
    match &valid.queue {
        Some(queue) if job.suspended => {
            return Stage::Queued(format!("waits for Kueue's queue {queue}"));
        }
        None if valid.spec.suspend => return Stage::Suspended,
        _ => {}
    }
    if let Some(stage) = held(seen) {
        return stage;
    }
    match &seen.agent {
        AgentAnswer::Status(status) => Stage::Running(status.clone()),
        AgentAnswer::Silent(why) if all_run_since(valid, seen, now, SILENCE) => {
            Stage::Silent(why.clone())
        }
        AgentAnswer::Silent(_) if all_run_since(valid, seen, now, SignedDuration::ZERO) => {
            Stage::Between
        }
        AgentAnswer::Silent(_) | AgentAnswer::NotAsked if seen.pods.iter().any(is_done) => {
            Stage::Between
        }
        AgentAnswer::Silent(_) | AgentAnswer::NotAsked => starting(valid, seen, now),
    }
}

/// Where admission holds the job back. One that it has not looked at yet stays as it is.
pub(crate) fn held(seen: &Observed) -> Option<Stage> {
    match &seen.grant {
        Grant::Free | Grant::Decided(Decision::Admit) => None,
        Grant::Decided(Decision::Wait(why)) => Some(Stage::Queued(why.clone())),
        Grant::Decided(Decision::Yield(to)) => Some(Stage::Yielding(to.clone())),
        Grant::Undecided if seen.job.as_ref().is_some_and(|job| !job.suspended) => None,
        Grant::Undecided => Some(Stage::Queued("its place in the queue is being decided".into())),
    }
}

/// Whether the ranks make progress.
pub(crate) fn trains(status: &WorkerStatus) -> bool {
    match status.state {
        WorkerState::Training | WorkerState::Evaluating | WorkerState::Exporting => true,
        WorkerState::Starting
        | WorkerState::Restarting
        | WorkerState::Resizing
        | WorkerState::Succeeded
        | WorkerState::Failed => false,
    }
}

fn is_done(pod: &PodView) -> bool {
    pod.exit.as_ref().is_some_and(|exit| exit.code == 0)
}

fn live_or_ending(seen: &Observed) -> bool {
    seen.pods.iter().chain(&seen.prepare_pods).any(|pod| !pod.is_over())
}

fn live_pods(seen: &Observed) -> impl Iterator<Item = &PodView> {
    seen.pods.iter().filter(|pod| !pod.is_over() && pod.deadline.is_none())
}

fn all_run_since(valid: &ValidJob, seen: &Observed, now: Timestamp, least: SignedDuration) -> bool {
    let long = |pod: &&PodView| {
        pod.phase == Phase::Running
            && pod.running_since.is_some_and(|since| now.duration_since(since) >= least)
    };
    live_pods(seen).filter(long).count() >= replicas(valid)
}

pub(crate) fn replicas(valid: &ValidJob) -> usize {
    usize::try_from(valid.spec.workers.replicas).unwrap_or(0)
}

/// What the pods are waiting for; the first thing that a person can change.
pub(super) fn starting(valid: &ValidJob, seen: &Observed, now: Timestamp) -> Stage {
    let wanted = replicas(valid);
    let stuck = |pod: &PodView| {
        let (reason, message) = pod.waiting.clone()?;
        // These two are a pod's ordinary beginning.
        let ordinary = ["ContainerCreating", "PodInitializing"].contains(&reason.as_str());
        (!ordinary).then(|| format!("pod {} waits: {reason}: {message}", pod.name))
    };
    if let Some((pod, why)) =
        live_pods(seen).find_map(|pod| Some((pod, pod.unschedulable.as_ref()?)))
    {
        let message = format!("no node takes pod {}: {why}", pod.name);
        return Stage::Starting { reason: "Unschedulable", message };
    }
    if let Some(message) = live_pods(seen).find_map(stuck) {
        return Stage::Starting { reason: "ContainerWaiting", message };
    }
    let there = live_pods(seen).count();
    let running = live_pods(seen).filter(|pod| pod.phase == Phase::Running).count();
    let lack = seen.job.as_ref().filter(|_| there < wanted).and_then(|job| lack(job, wanted, now));
    let message = match lack {
        Some(Lack::Pods) => format!(
            "{there} of {wanted} worker pods are there; `kubectl describe job {}` tells of any that are refused",
            valid.child_name()
        ),
        Some(Lack::Controller) => format!(
            "nothing has looked at Job {} for {} minutes: is kube-controller-manager up, and how far behind is it?",
            valid.child_name(),
            WITHOUT_CONTROLLER.as_mins()
        ),
        None => format!("{running} of {wanted} workers run"),
    };
    Stage::Starting { reason: "Starting", message }
}

/// Why a Job lacks pods, where that is worth a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lack {
    /// Its controller did not make them.
    Pods,
    /// Its controller has not looked at it.
    Controller,
}

/// Time until pods that are missing are worth a word, where that is to come within seconds.
pub(crate) fn said_soon(seen: &Observed, now: Timestamp) -> Option<Duration> {
    let left = WITHOUT_PODS - now.duration_since(seen.job.as_ref()?.started?);
    left.is_positive().then(|| left.unsigned_abs())
}

/// What to say of a Job of which fewer than `wanted` pods are seen. Its controller notes a start
/// in the status with which it counts the pods that it made. So one that has not is behind, and
/// where it counted them all, the watch of pods is: neither is news of this Job.
fn lack(job: &JobView, wanted: usize, now: Timestamp) -> Option<Lack> {
    let since = |at: Timestamp| now.duration_since(at);
    match job.started {
        Some(at) if since(at) < WITHOUT_PODS => None,
        Some(_) => (usize::try_from(job.active).unwrap_or(0) < wanted).then_some(Lack::Pods),
        None => job.created.filter(|at| since(*at) >= WITHOUT_CONTROLLER).map(|_| Lack::Controller),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_is_behind_is_no_news_and_pods_that_it_could_not_make_are() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let minutes = |minutes: i64| minutes * 60;
        for (case, started, active, now, want) in [
            ("just made", None, 0, 6, None),
            ("minutes in the controller's queue", None, 0, minutes(9), None),
            ("no controller", None, 0, minutes(10), Some(Lack::Controller)),
            ("pods are being made", Some(100), 0, 104, None),
            ("pods are refused", Some(100), 1, 105, Some(Lack::Pods)),
            ("pods are made, and not seen yet", Some(100), 2, 105, None),
        ] {
            let job = JobView {
                created: Some(at(0)),
                started: started.map(at),
                active,
                ..JobView::default()
            };
            assert_eq!(lack(&job, 2, at(now)), want, "{case}");
        }
    }
}
