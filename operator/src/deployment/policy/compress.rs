//! How far the compression of a target is, and what came of it.

use hearth_crds::model_deployment::CompressionReport;
use hearth_crds::worker_config::{ExitCode, WorkerResult};
use k8s_openapi::jiff::Timestamp;

use super::blocked;
use crate::deployment::observed::Observed;
use crate::deployment::target::{Artifact, Target};
use crate::observed::{Exit, JobEnd, JobView, Phase, PodView, RESULT_PATIENCE};

/// What should be of the Job that compresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// It should not be there.
    #[default]
    Absent,
    /// It should be there, and computes or has ended.
    Present,
    /// It should be there. Its pods wait for a node, or failed and are tried again: it may be made anew.
    Idle,
}

impl Compression {
    pub(super) fn wanted(seen: &Observed) -> Self {
        let is_open = seen.quantize.as_ref().is_some_and(|job| job.ended.is_none());
        let waits = |pod: &PodView| matches!(pod.phase, Phase::Pending | Phase::Failed);
        if is_open && seen.quantize_pods.iter().all(waits) { Self::Idle } else { Self::Present }
    }

    /// Where it is there already.
    pub(super) fn kept(seen: &Observed) -> Self {
        seen.quantize.as_ref().map_or(Self::Absent, |_| Self::wanted(seen))
    }
}

/// How far the target's compression is.
pub(super) enum Compressed {
    Done(Option<CompressionReport>),
    Open(String),
    Refused { reason: &'static str, message: String },
}

pub(super) fn compressed(target: &Target, seen: &Observed, now: Timestamp) -> Compressed {
    let Some(artifact) = &target.artifact else { return Compressed::Done(None) };
    // Servers of this or another revision were started from it: it is whole.
    let made = seen.servers.values().find(|server| server.artifact.as_ref() == Some(&artifact.id));
    if let Some(server) = made {
        return Compressed::Done(server.compression.clone());
    }
    let Some(job) = &seen.quantize else {
        return Compressed::Open("the compression is about to start".into());
    };
    match &job.ended {
        None => Compressed::Open(compressing(&seen.quantize_pods)),
        Some(end) => {
            let result = newest_result(&seen.quantize_pods);
            let fresh = end.at().is_some_and(|at| now.duration_since(at) < RESULT_PATIENCE);
            match (end, result) {
                // The pod's own watch may be a moment behind the Job's.
                (_, None) if fresh => Compressed::Open("its result is on its way".into()),
                (JobEnd::Complete { .. }, result) => {
                    Compressed::Done(result.and_then(|result| result.compression))
                }
                (JobEnd::Failed { message, .. }, result) => refused(job, message, result, artifact),
            }
        }
    }
}

fn refused(
    job: &JobView,
    message: &str,
    result: Option<WorkerResult>,
    artifact: &Artifact,
) -> Compressed {
    debug_assert!(job.ended.is_some(), "only an ended Job is refused");
    let Some(result) = result else {
        let message = format!("{message}: see `kubectl logs job/{}`", artifact.job);
        return Compressed::Refused { reason: "CompressionFailed", message };
    };
    let gate = result.exit_code == ExitCode::GateFailed as i32;
    let figures = result.compression.as_ref().and_then(|report| {
        let (before, after) = (report.metric_before?, report.metric_after?);
        Some(format!(" (before {before:.4}, after {after:.4})"))
    });
    let message = format!("{}{}", result.message, figures.unwrap_or_default());
    Compressed::Refused { reason: if gate { "GateFailed" } else { "CompressionFailed" }, message }
}

fn newest_result(pods: &[PodView]) -> Option<WorkerResult> {
    let ended = pods.iter().filter_map(|pod| pod.exit.as_ref());
    ended.max_by_key(|exit| exit.at).and_then(Exit::result)
}

fn compressing(pods: &[PodView]) -> String {
    let live = || pods.iter().filter(|pod| !pod.is_over());
    match blocked(pods) {
        Some(why) => why,
        None if live().any(|pod| pod.phase == Phase::Running) => {
            "the model is being compressed and judged".into()
        }
        None => "the compression's pod is starting".into(),
    }
}
