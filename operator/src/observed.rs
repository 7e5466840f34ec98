//! Views of live Jobs and pods: what decisions need, and nothing else.

use crate::children::{ANNOTATION_HASH, ANNOTATION_HTTP_ROUTE, ANNOTATION_SPEC_HASH, Live};
use crate::kept::{COMPLETION_INDEX, Metadata};
use crate::seen::{Container, Seen};
use hearth_crds::names;
use hearth_crds::worker_config::WorkerResult;
use k8s_openapi::api::core::v1::ContainerState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// How long a result may come after the Job's end: Jobs and pods are watched separately, and one
/// watch may be dead for a minute before that is noticed.
pub const RESULT_PATIENCE: SignedDuration = SignedDuration::from_secs(90);

/// A live `batch/v1` Job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobView {
    /// UID.
    pub uid: String,
    /// `spec.suspend`.
    pub suspended: bool,
    /// `spec.completions`: pods that it should have.
    pub pods: i32,
    /// Hash of the TrainingJob's spec that it was started with.
    pub spec_hash: Option<String>,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Since when it runs, or runs again.
    pub started: Option<Timestamp>,
    /// Pods that have not ended.
    pub active: i32,
    /// How it ended, if it did.
    pub ended: Option<JobEnd>,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Every index succeeded.
    Complete {
        /// Since when.
        at: Option<Timestamp>,
    },
    /// It was given up.
    Failed {
        /// The Job controller's reason, such as `PodFailurePolicy` or `BackoffLimitExceeded`.
        reason: String,
        /// Its message.
        message: String,
        /// Since when.
        at: Option<Timestamp>,
    },
}

impl JobEnd {
    /// Since when.
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::Complete { at } | Self::Failed { at, .. } => *at,
        }
    }
}

impl JobView {
    /// The view of a Job.
    pub fn of(job: &Seen) -> Self {
        let ended = job.status.conditions.iter().filter(|c| c.holds()).find_map(|c| {
            let at = c.last_transition_time;
            match c.type_.as_str() {
                "Complete" => Some(JobEnd::Complete { at }),
                "Failed" => Some(JobEnd::Failed {
                    reason: c.reason.clone(),
                    message: c.message.clone(),
                    at,
                }),
                _ => None,
            }
        });
        Self {
            uid: job.metadata.uid.to_string(),
            suspended: job.spec.suspend.unwrap_or(false),
            pods: job.spec.completions.unwrap_or(1),
            spec_hash: job.metadata.annotations.get(ANNOTATION_SPEC_HASH).map(str::to_owned),
            created: job.metadata.created,
            started: job.status.start_time,
            active: job.status.active.unwrap_or(0),
            ended,
        }
    }
}

/// A live pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// UID of the Job or ReplicaSet that made it.
    pub owner: String,
    /// Completion index in an Indexed Job.
    pub index: Option<u32>,
    /// Phase.
    pub phase: Phase,
    /// Its address, once it has one.
    pub ip: Option<String>,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// The scheduler's message, where it found no place.
    pub unschedulable: Option<String>,
    /// Why the container does not start: reason and message.
    pub waiting: Option<(String, String)>,
    /// How the container ended.
    pub exit: Option<Exit>,
    /// When it should have been gone, if it is being deleted.
    pub deadline: Option<Timestamp>,
    /// Since when its container runs.
    pub running_since: Option<Timestamp>,
    /// When it was made.
    pub created: Option<Timestamp>,
}

/// Phase of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    #[default]
    Pending,
    /// Started.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// The node does not answer.
    Unknown,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Exit code.
    pub code: i32,
    /// Kubernetes' reason, such as `OOMKilled`.
    pub reason: String,
    /// Termination message, or the end of the log.
    pub message: String,
    /// When.
    pub at: Option<Timestamp>,
}

impl Exit {
    /// The worker's own result, where it left one.
    pub fn result(&self) -> Option<WorkerResult> {
        serde_json::from_str(&self.message).ok()
    }
}

impl PodView {
    /// The view of a pod of one container. While something runs before it, that is looked at.
    pub fn of(pod: &Seen) -> Self {
        let status = &pod.status;
        let first = status.init_container_statuses.iter().find(|first| !has_done(first));
        let container = first.or(status.container_statuses.first());
        let state = container.and_then(|c| c.state.as_ref());
        let last = container.and_then(|c| c.last_state.as_ref());
        Self {
            name: pod.metadata.name.to_string(),
            uid: pod.metadata.uid.to_string(),
            owner: controller(pod).unwrap_or_default().to_owned(),
            index: pod
                .metadata
                .annotations
                .get(COMPLETION_INDEX)
                .and_then(|text| text.parse().ok()),
            phase: match status.phase.as_deref() {
                Some("Running") => Phase::Running,
                Some("Succeeded") => Phase::Succeeded,
                Some("Failed") => Phase::Failed,
                Some("Unknown") => Phase::Unknown,
                _ => Phase::Pending,
            },
            ip: status.pod_ip.clone(),
            node: pod.spec.node_name.clone(),
            unschedulable: status
                .condition("PodScheduled")
                .filter(|c| c.status == "False" && !c.message.is_empty())
                .map(|c| c.message.clone()),
            waiting: state.and_then(|s| s.waiting.as_ref()).map(|waiting| {
                let text = |part: &Option<String>| part.clone().unwrap_or_default();
                steady(text(&waiting.reason), text(&waiting.message))
            }),
            exit: state.and_then(exit_of).or_else(|| last.and_then(exit_of)),
            deadline: pod.metadata.deleted,
            running_since: state
                .and_then(|s| s.running.as_ref())
                .and_then(|running| running.started_at.as_ref())
                .map(|time| time.0),
            created: pod.metadata.created,
        }
    }

    /// Whether it has ended, well or badly.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }
}

/// What keeps one of the pods from starting; the first thing that a person can change.
pub fn blocked(pods: &[PodView]) -> Option<String> {
    let live = || pods.iter().filter(|pod| !pod.is_over() && pod.deadline.is_none());
    let unplaced = live().find_map(|pod| Some((pod, pod.unschedulable.as_ref()?)));
    if let Some((pod, why)) = unplaced {
        return Some(format!("no node takes pod {}: {why}", pod.name));
    }
    live().find_map(|pod| {
        let (reason, message) = pod.waiting.as_ref()?;
        let ordinary = ["ContainerCreating", "PodInitializing"].contains(&reason.as_str());
        let last = pod.exit.as_ref().map(|exit| match exit.result() {
            Some(result) => format!("; its last words: {}", result.message),
            None => format!("; its last exit code: {}", exit.code),
        });
        let last = last.unwrap_or_default();
        (!ordinary).then(|| format!("pod {} waits: {reason}: {message}{last}", pod.name))
    })
}

/// A kubelet that cannot pull an image alternates between two reasons, which
/// would be a write each time: both become one.
fn steady(reason: String, message: String) -> (String, String) {
    if reason != "ErrImagePull" && reason != "ImagePullBackOff" {
        return (reason, message);
    }
    let cause = message.split_once("ErrImagePull: ").map_or(message.as_str(), |(_, cause)| cause);
    ("ErrImagePull".to_owned(), cause.to_owned())
}

fn has_done(container: &Container) -> bool {
    let over = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    over.is_some_and(|over| over.exit_code == 0)
}

fn exit_of(state: &ContainerState) -> Option<Exit> {
    let over = state.terminated.as_ref()?;
    Some(Exit {
        code: over.exit_code,
        reason: over.reason.clone().unwrap_or_default(),
        message: over.message.clone().unwrap_or_default(),
        at: over.finished_at.as_ref().map(|time| time.0),
    })
}

/// What matters about a live child.
pub fn live(object: &Seen) -> Live {
    Live {
        data: object.data.clone(),
        suspended: object.spec.suspend.unwrap_or(false),
        pods: object.spec.completions.or(object.spec.replicas),
        ..live_metadata(&object.metadata)
    }
}

/// What an object's metadata says of it.
pub fn live_metadata(metadata: &Metadata) -> Live {
    Live {
        uid: metadata.uid.to_string(),
        owner: metadata.owner.as_deref().unwrap_or_default().to_owned(),
        hash: metadata.annotations.get(ANNOTATION_HASH).unwrap_or_default().to_owned(),
        revision: metadata.labels.get(names::LABEL_REVISION).map(str::to_owned),
        has_route: metadata.annotations.get(ANNOTATION_HTTP_ROUTE).is_some(),
        deleting: metadata.deleted.is_some(),
        version: metadata.version,
        ..Live::default()
    }
}

/// UID of the owner that controls an object.
pub fn controller(object: &Seen) -> Option<&str> {
    object.metadata.owner.as_deref()
}

/// UID of the controlling owner.
pub fn owner(metadata: &ObjectMeta) -> Option<&str> {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// Resource version as a number, by which two views of one object are ordered
/// (Kubernetes has promised since 1.35 that they can be; KEP-5504). 0 where unknown.
pub fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod whose server waits for what runs before it.
    fn pod(first: &Value) -> PodView {
        let pod = json!({"metadata": {"name": "p"}, "status": {
            "phase": "Pending",
            "initContainerStatuses": [{"name": "cache", "state": first["state"],
                "lastState": first["lastState"]}],
            "containerStatuses": [{"name": "server",
                "state": {"waiting": {"reason": "PodInitializing"}}}]}});
        PodView::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_runs_before_the_container_is_looked_at_until_it_has_done() {
        let ended = |code: i32| json!({"terminated": {"exitCode": code, "message": "why"}});
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
        let again = pod(&json!({"state": waits, "lastState": ended(1)}));
        assert_eq!(again.waiting, Some(("CrashLoopBackOff".into(), "back-off".into())));
        assert_eq!(again.exit.unwrap().message, "why");
        let done = pod(&json!({"state": ended(0), "lastState": ended(1)}));
        assert_eq!(done.waiting, Some(("PodInitializing".into(), String::new())));
        assert_eq!(done.exit, None);
    }
}
