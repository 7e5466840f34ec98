//! The state and the conditions at each stage. Pure.

use hearth_crds::condition::{self, Finding, Truth, finding, training_job as types};
use hearth_crds::training_job::TrainingJobStatus;
use hearth_crds::worker_config::{WorkerNote, WorkerState, WorkerStatus};

use super::figures::full_stop;
use crate::observed::{Phase, PodView};
use crate::training_job::policy::{Outcome, Stage};
use crate::training_job::validate::ValidJob;

/// State and conditions at this stage. Messages hold nothing that changes from
/// step to step: figures have their own fields.
pub(super) fn findings_of(
    job: &ValidJob,
    pods: &[PodView],
    stage: &Stage,
    after: &TrainingJobStatus,
    awaited: Option<&str>,
) -> (Option<&'static str>, Vec<Finding>) {
    let admitted = || {
        let message = "The job may run.".to_owned();
        finding(types::ADMITTED, Truth::True, "Admitted", message)
    };
    let held = |reason, message: String| finding(types::ADMITTED, Truth::False, reason, message);
    let running = |truth, reason, message| finding(types::RUNNING, truth, reason, message);
    match stage {
        Stage::SpecChanged => (None, vec![accepted(
            Truth::False,
            "SpecChanged",
            "workers (but for workers.replicas) and restartPolicy cannot change once the job has started, and it goes on as it was: change them back, or create another TrainingJob".into(),
        )]),
        Stage::MissingClaims(claims) => (Some("Pending"), vec![valid(), held(
            "MissingClaim",
            format!(
                "namespace {} has no PersistentVolumeClaim {}: create it, and the job starts by itself",
                job.namespace,
                claims.join(", ")
            ),
        )]),
        Stage::Suspended => (Some("Suspended"), vec![
            valid(),
            held("Suspended", "spec.suspend is true: set it to false to go on".into()),
            running(Truth::False, "Suspended", "The job is suspended.".into()),
        ]),
        Stage::Preparing(how) => (Some("Preparing"), vec![
            valid(),
            running(Truth::False, "Preparing", full_stop(how)),
        ]),
        Stage::Queued(why) => (Some("Pending"), vec![
            valid(),
            held("Queued", why.clone()),
            running(Truth::False, "Queued", "The job has not been let in.".into()),
        ]),
        Stage::Yielding(to) => (Some("Pending"), vec![
            valid(),
            held("Preempted", format!("saves a checkpoint and makes room for {to}; goes on from there when there is room again")),
            running(Truth::False, "Preempted", "The job makes room for another.".into()),
        ]),
        Stage::Stopping => (None, vec![
            valid(),
            running(Truth::False, "Stopping", "Workers save a checkpoint and go.".into()),
        ]),
        Stage::Stopped => (Some("Stopped"), stopped(job)),
        Stage::Starting { reason, message } => {
            let word = if *reason == "Unschedulable" { "Pending" } else { "Starting" };
            (Some(word), vec![
                valid(),
                admitted(),
                running(Truth::False, reason, message.clone()),
            ])
        }
        Stage::Silent(why) => (None, vec![
            valid(),
            admitted(),
            running(
                Truth::Unknown,
                "WorkerSilent",
                format!("all workers run, but worker 0 does not say how it is: {why}"),
            ),
        ]),
        Stage::Running(status) => {
            let (word, mut found) = running_findings(status, after, awaited);
            found.extend(diagnosis(&status.notes, pods).or_else(|| recovery(after)));
            (word, found)
        }
        // An operator that begins to look only now, and has told nothing of this start.
        Stage::Between if !is_admitted(after) && !pods.iter().any(PodView::is_over) => {
            let said = "all workers run, and worker 0 has not answered yet".into();
            let found = running(Truth::False, "Starting", said);
            (Some("Starting"), vec![valid(), admitted(), found])
        }
        Stage::Between | Stage::Ended(Outcome::Open | Outcome::ResultOnItsWay) => {
            (None, vec![valid()])
        }
        Stage::Ended(Outcome::Succeeded(result)) => {
            let uri = after.model.as_ref().map_or("", |model| model.uri.as_str());
            let message = match result {
                Some(result) => full_stop(&result.message),
                None => format!("The model is at {uri}; its digest was lost with worker 0's pod."),
            };
            (Some("Succeeded"), vec![
                valid(),
                admitted(),
                running(Truth::False, "Completed", "The job has ended.".into()),
                finding(types::SUCCEEDED, Truth::True, "Completed", message),
            ])
        }
        Stage::Ended(Outcome::Failed { reason, message, .. }) => (Some("Failed"), vec![
            valid(),
            admitted(),
            running(Truth::False, "Failed", "The job has ended.".into()),
            Finding { reason: reason_of(reason), ..finding(
                types::FAILED,
                Truth::True,
                "Failed",
                message.clone(),
            ) },
        ]),
    }
}

fn is_admitted(status: &TrainingJobStatus) -> bool {
    condition::is_true(&status.conditions, types::ADMITTED)
}

/// Of a job that ended because its spec asks it to.
fn stopped(job: &ValidJob) -> Vec<Finding> {
    let stop = job.spec.stop.clone().unwrap_or_default();
    let message = match stop.message.as_str() {
        "" => "spec.stop asked for it.".to_owned(),
        told => full_stop(told),
    };
    vec![
        valid(),
        finding(types::RUNNING, Truth::False, "Stopped", "The job has ended.".into()),
        finding(types::STOPPED, Truth::True, stop.reason.as_str(), message),
    ]
}

fn running_findings(
    status: &WorkerStatus,
    after: &TrainingJobStatus,
    awaited: Option<&str>,
) -> (Option<&'static str>, Vec<Finding>) {
    let of = |truth, reason, message| {
        let admitted = finding(types::ADMITTED, Truth::True, "Admitted", "The job may run.".into());
        vec![valid(), admitted, finding(types::RUNNING, truth, reason, message)]
    };
    let again = |fallback: &str| match &status.last_failure {
        Some(failure) => format!("{} ({})", failure.message, failure.reason),
        None => fallback.to_owned(),
    };
    match status.state {
        WorkerState::Training | WorkerState::Evaluating | WorkerState::Exporting => {
            let message = match (after.restarts, &status.last_failure) {
                (0, _) | (_, None) => format!("All {} ranks train.", status.ranks.len().max(1)),
                (_, Some(failure)) => format!(
                    "All {} ranks train again, in generation {}, after: {} ({})",
                    status.ranks.len().max(1),
                    status.generation,
                    failure.message,
                    failure.reason
                ),
            };
            let message = match awaited {
                Some(why) => format!(
                    "{message} On {} of {} workers so far: {why}",
                    status.present_replicas, status.replicas
                ),
                None => message,
            };
            (Some("Running"), of(Truth::True, "Training", message))
        }
        WorkerState::Restarting => {
            (Some("Starting"), of(Truth::False, "Restarting", again("ranks start again")))
        }
        WorkerState::Resizing => {
            let message = format!(
                "ranks save a checkpoint, and training goes on from it with replicas: {}",
                status.replicas
            );
            (Some("Starting"), of(Truth::False, "Resizing", message))
        }
        WorkerState::Starting => (
            Some("Starting"),
            of(Truth::False, "Starting", "workers are joining, or ranks are loading".into()),
        ),
        // The Job's own end is what counts, and it follows at once.
        WorkerState::Succeeded | WorkerState::Failed => (None, vec![valid()]),
    }
}

/// The diagnosis that passes by itself.
const STRAGGLER: &str = "Straggler";

/// What workers told that asks for a look at the job's settings or inputs.
const DIAGNOSES: [&str; 13] = [
    "BadRows",
    "BatchHalved",
    "BestCheckpointLost",
    "CheckpointCorrupt",
    "ClassImbalance",
    "ExplodingGradients",
    "LearningRateRange",
    "LearningRateTooHigh",
    "LossFlat",
    "StepSkipped",
    STRAGGLER,
    "VanishingGradients",
    "WaitingForData",
];

/// What workers told that follows from the rows and from what was asked for.
const CHOICES: [&str; 2] = ["ColumnsLeftOut", "ThresholdChosen"];

/// The notes that say what training chose, with their reasons from the closed set.
pub(super) fn choices(notes: &[WorkerNote]) -> impl Iterator<Item = (&'static str, &WorkerNote)> {
    of_set(&CHOICES, notes)
}

/// The notes that are diagnoses, with their reasons from the closed set.
pub(super) fn diagnoses(
    notes: &[WorkerNote],
) -> impl DoubleEndedIterator<Item = (&'static str, &WorkerNote)> {
    of_set(&DIAGNOSES, notes)
}

fn of_set<'a>(
    set: &'static [&'static str],
    notes: &'a [WorkerNote],
) -> impl DoubleEndedIterator<Item = (&'static str, &'a WorkerNote)> {
    let known = |note: &WorkerNote| set.iter().find(|known| **known == note.reason).copied();
    notes.iter().filter_map(move |note| Some((known(note)?, note)))
}

/// The newest gives the reason; the message holds all, newest first.
fn diagnosis(notes: &[WorkerNote], pods: &[PodView]) -> Option<Finding> {
    let (reason, _) = diagnoses(notes).next_back()?;
    let told: Vec<String> = diagnoses(notes)
        .rev()
        .map(|(reason, note)| format!("{reason}: {}", told(note, pods)))
        .collect();
    Some(finding(types::DIAGNOSIS, Truth::True, reason, told.join(" ")))
}

/// Where the newest diagnosis was of a rank that held up the others, and no longer does.
fn recovery(status: &TrainingJobStatus) -> Option<Finding> {
    let told = condition::holding(&status.conditions, types::DIAGNOSIS)?;
    let message = "No rank holds up the others any more.".to_owned();
    (told.reason == STRAGGLER)
        .then(|| finding(types::DIAGNOSIS, Truth::False, "Recovered", message))
}

/// A note in whole sentences, with the pod that it is about.
pub(super) fn told(note: &WorkerNote, pods: &[PodView]) -> String {
    let message = full_stop(&note.message);
    let runs = |pod: &&PodView| pod.phase == Phase::Running && pod.deadline.is_none();
    let mut of_agent = pods.iter().filter(|pod| note.agent.is_some() && pod.index == note.agent);
    match of_agent.find(runs) {
        None => message,
        Some(pod) => {
            let place = pod.node.as_ref().map(|on| format!(", on node {on}")).unwrap_or_default();
            format!("{message} Its pod is {}{place}.", pod.name)
        }
    }
}

pub(super) fn valid() -> Finding {
    accepted(Truth::True, "Valid", "The spec is valid.".into())
}

pub(super) fn accepted(status: Truth, reason: &'static str, message: String) -> Finding {
    finding(types::ACCEPTED, status, reason, message)
}

/// A worker's reason as one of a closed set: what programs may match on.
fn reason_of(told: &str) -> &'static str {
    const KNOWN: [&str; 29] = [
        "AcceleratorUnavailable",
        "AgentLost",
        "BackoffLimitExceeded",
        "BadConfig",
        "BadData",
        "BadModel",
        "CannotCreate",
        "CannotWrite",
        "CheckpointFailed",
        "CommunicationFailed",
        "DeadlineExceeded",
        "InternalError",
        "MissingInput",
        "NotFinite",
        "OtherRun",
        "OutOfMemory",
        "OutputFailed",
        "PeerLost",
        "PodFailurePolicy",
        "RankExited",
        "RankHung",
        "RankKilled",
        "RankNotStarted",
        "ReadFailed",
        "RestartsExhausted",
        "Terminated",
        "TorchFailed",
        "Unavailable",
        "UnsupportedModel",
    ];
    KNOWN.into_iter().find(|known| *known == told).unwrap_or("JobFailed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(reason: &str, message: &str) -> WorkerNote {
        WorkerNote { reason: reason.into(), message: message.into(), step: 3, agent: None }
    }

    #[test]
    fn a_diagnosis_holds_all_that_ask_for_a_look_newest_first() {
        assert_eq!(diagnosis(&[note("NewWeights", "fresh weights are trained")], &[]), None);
        let notes = [
            note("ClassImbalance", "set classWeights"),
            note("MaxLengthCut", "samples are cut"),
            note("LossFlat", "raise learningRate"),
        ];
        let found = diagnosis(&notes, &[]).unwrap();
        assert_eq!((found.type_, found.reason), ("Diagnosis", "LossFlat"));
        assert_eq!(
            found.message,
            "LossFlat: raise learningRate. ClassImbalance: set classWeights."
        );
    }
}
