//! How a job ended: from the Job's conditions and what the workers left in
//! their termination messages.

use hearth_crds::worker_config::{ExitCode, WorkerResult};
use k8s_openapi::jiff::Timestamp;

use crate::observed::{JobEnd, JobView, PodView, RESULT_PATIENCE};

/// A Job's reason for having run too long.
const DEADLINE: &str = "DeadlineExceeded";
const OUT_OF_TIME: &str = "The job ran longer than activeDeadlineSeconds. Its checkpoints stay: create it anew with a longer deadline, more workers or fewer steps";

/// How a job stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It has not ended.
    Open,
    /// It has ended, and worker 0's last words are still to come.
    ResultOnItsWay,
    /// There is a model. The result is absent where worker 0's pod is gone.
    Succeeded(Option<Box<WorkerResult>>),
    /// There is none.
    Failed {
        /// CamelCase.
        reason: String,
        /// A sentence: what, where, what to do.
        message: String,
        /// Worker 0's result, where there is one.
        result: Option<Box<WorkerResult>>,
    },
}

/// How the job stands. `polled` is the result that agent 0 gave over HTTP, in
/// case that its pod is gone.
pub fn outcome(
    job: &JobView,
    pods: &[PodView],
    polled: Option<&WorkerResult>,
    now: Timestamp,
) -> Outcome {
    let Some(end) = &job.ended else {
        return Outcome::Open;
    };
    let told = newest_result(pods, matches!(end, JobEnd::Complete { .. }));
    let result = told.or_else(|| polled.cloned()).map(Box::new);
    let old = end.at().is_none_or(|at| now.duration_since(at) >= RESULT_PATIENCE);
    match end {
        JobEnd::Complete { .. } => match result {
            Some(result) => Outcome::Succeeded(Some(result)),
            None if old => Outcome::Succeeded(None),
            None => Outcome::ResultOnItsWay,
        },
        JobEnd::Failed { reason, .. } if reason == DEADLINE => {
            Outcome::Failed { reason: reason.clone(), message: OUT_OF_TIME.to_owned(), result }
        }
        JobEnd::Failed { reason, message, .. } => match (result, last_exit(pods)) {
            (Some(result), _) => Outcome::Failed {
                reason: result.reason.clone(),
                message: result.message.clone(),
                result: Some(result),
            },
            (None, None) if !old => Outcome::ResultOnItsWay,
            (None, exit) => Outcome::Failed {
                reason: or(reason, "JobFailed"),
                message: sentence(message, exit.as_ref()),
                result: None,
            },
        },
    }
}

/// The result that counts: worker 0's, or on failure that of whichever worker
/// found a permanent error; the newest of several pods.
fn newest_result(pods: &[PodView], succeeded: bool) -> Option<WorkerResult> {
    let mut results: Vec<_> = pods
        .iter()
        .filter_map(|pod| {
            let exit = pod.exit.as_ref()?;
            let result = exit.result().filter(|result| result.succeeded == succeeded)?;
            let permanent = ExitCode::is_permanent(exit.code);
            (succeeded || permanent || pod.index == Some(0))
                .then_some(((permanent, pod.index == Some(0), exit.at), result))
        })
        .filter(|((_, first, _), _)| *first || !succeeded)
        .collect();
    results.sort_by_key(|(rank, _)| *rank);
    results.pop().map(|(_, result)| result)
}

/// How the container that ended last ended.
fn last_exit(pods: &[PodView]) -> Option<(String, crate::observed::Exit)> {
    pods.iter()
        .filter_map(|pod| Some((pod.name.clone(), pod.exit.clone()?)))
        .filter(|(_, exit)| exit.code != 0)
        .max_by_key(|(_, exit)| exit.at)
}

fn sentence(message: &str, exit: Option<&(String, crate::observed::Exit)>) -> String {
    let Some((pod, exit)) = exit else {
        return format!("{message}. The workers left no word of why.");
    };
    let how = match exit.reason.as_str() {
        "OOMKilled" => {
            "it ran out of memory: raise workers.resources.limits.memory or lower perDeviceTrainBatchSize"
                .to_owned()
        }
        _ if exit.message.is_empty() => "it left no word of why".to_owned(),
        _ => format!("the end of its log is: {}", tail(&exit.message)),
    };
    format!("{message}. Pod {pod} ended with exit code {}; {how}", exit.code)
}

/// The last 600 characters.
fn tail(text: &str) -> String {
    let skip = text.chars().count().saturating_sub(600);
    text.chars().skip(skip).collect::<String>().trim().to_owned()
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default.to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Exit, Phase};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn result(succeeded: bool, reason: &str) -> WorkerResult {
        WorkerResult {
            succeeded,
            reason: reason.into(),
            message: format!("{reason} happened"),
            exit_code: 0,
            restarts: 0,
            progress: None,
            evaluations: Vec::new(),
            checkpoint: None,
            model: None,
            compression: None,
            notes: Vec::new(),
            data: None,
        }
    }

    fn pod(index: u32, code: i32, ended: i64, message: &str) -> PodView {
        PodView {
            name: format!("p{index}"),
            index: Some(index),
            phase: if code == 0 { Phase::Succeeded } else { Phase::Failed },
            exit: Some(Exit {
                code,
                reason: "Error".into(),
                message: message.into(),
                at: Some(at(ended)),
            }),
            ..PodView::default()
        }
    }

    fn told(succeeded: bool, reason: &str) -> String {
        result(succeeded, reason).to_termination_message()
    }

    #[test]
    fn outcomes() {
        let complete = Some(JobEnd::Complete { at: Some(at(100)) });
        let failed = Some(JobEnd::Failed {
            reason: "PodFailurePolicy".into(),
            message: "Container worker failed".into(),
            at: Some(at(100)),
        });
        let spoke = |o: &Outcome| match o {
            Outcome::Open => "open".to_owned(),
            Outcome::ResultOnItsWay => "wait".to_owned(),
            Outcome::Succeeded(result) => {
                format!("ok {}", result.as_ref().map_or("lost", |r| r.reason.as_str()))
            }
            Outcome::Failed { reason, message, .. } => format!("failed {reason}: {message}"),
        };
        let done = told(true, "Completed");
        for (case, end, pods, now, want) in [
            ("running", None, vec![], 101, "open"),
            ("complete", complete.clone(), vec![pod(0, 0, 99, &done)], 101, "ok Completed"),
            ("only worker 1 seen", complete.clone(), vec![pod(1, 0, 99, &done)], 101, "wait"),
            ("pod gone", complete, vec![], 191, "ok lost"),
            (
                "bad data found by worker 1",
                failed.clone(),
                vec![
                    pod(0, 1, 99, &told(false, "AgentLost")),
                    pod(1, 65, 98, &told(false, "BadData")),
                ],
                101,
                "failed BadData: BadData happened",
            ),
            (
                "a retried failure is not the last word",
                failed.clone(),
                vec![
                    pod(0, 1, 50, &told(false, "Old")),
                    pod(0, 70, 99, &told(false, "RestartsExhausted")),
                ],
                101,
                "failed RestartsExhausted: RestartsExhausted happened",
            ),
            ("nothing seen yet", failed.clone(), vec![], 101, "wait"),
            (
                "too slow, whatever the workers say",
                Some(JobEnd::Failed {
                    reason: "DeadlineExceeded".into(),
                    message: "Job was active longer than specified deadline".into(),
                    at: Some(at(100)),
                }),
                vec![pod(0, 143, 99, &told(false, "Terminated"))],
                101,
                "failed DeadlineExceeded: The job ran longer than activeDeadlineSeconds. Its checkpoints stay: create it anew with a longer deadline, more workers or fewer steps",
            ),
            (
                "no words at all",
                failed,
                vec![pod(0, 137, 99, "thread panicked")],
                101,
                "failed PodFailurePolicy: Container worker failed. Pod p0 ended with exit code 137; the end of its log is: thread panicked",
            ),
        ] {
            let job = JobView { ended: end, ..JobView::default() };
            assert_eq!(spoke(&outcome(&job, &pods, None, at(now))), want, "{case}");
        }
    }

    #[test]
    fn a_polled_result_stands_in_for_a_lost_pod() {
        let job =
            JobView { ended: Some(JobEnd::Complete { at: Some(at(100)) }), ..JobView::default() };
        let polled = result(true, "Completed");
        let found = outcome(&job, &[], Some(&polled), at(101));
        assert_eq!(found, Outcome::Succeeded(Some(Box::new(polled))));
    }
}
