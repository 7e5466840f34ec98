//! Whether a job's rows are prepared, which comes before all else.

use k8s_openapi::jiff::Timestamp;

use super::outcome::{Outcome, outcome};
use super::stage::Stage;
use crate::observed::{JobEnd, Phase, blocked};
use crate::training_job::gather::Observed;
use crate::training_job::validate::ValidJob;

/// Whether workers may start: rows are prepared, or need not be. A job that has workers' Job has
/// gone on from there.
pub(crate) fn is_prepared(valid: &ValidJob, seen: &Observed) -> bool {
    let complete = |end: &JobEnd| matches!(end, JobEnd::Complete { .. });
    valid.prepared.is_none()
        || seen.job.is_some()
        || seen.prepare.as_ref().and_then(|job| job.ended.as_ref()).is_some_and(complete)
}

/// While nothing is known of the pod.
const NOT_YET: &str = "the pod that prepares the rows is about to start";

/// Where preparation stands, as long as it goes on.
pub(super) fn preparing(valid: &ValidJob, seen: &Observed, now: Timestamp) -> Option<Stage> {
    if is_prepared(valid, seen) {
        return None;
    }
    let about = |message: String| Some(Stage::Preparing(message));
    let Some(job) = &seen.prepare else { return about(NOT_YET.into()) };
    match outcome(job, &seen.prepare_pods, None, now) {
        Outcome::Open => {}
        ended => return Some(Stage::Ended(ended)),
    }
    if job.spec_hash.as_deref() != Some(valid.spec_hash().as_str()) {
        return Some(Stage::SpecChanged);
    }
    let running = || {
        let pod = seen.prepare_pods.iter().find(|pod| pod.phase == Phase::Running)?;
        Some(format!("pod {} reads, cleans and writes rows; its log says how far it is", pod.name))
    };
    let message = blocked(&seen.prepare_pods).or_else(running);
    about(message.unwrap_or_else(|| NOT_YET.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{JobView, PodView};
    use crate::training_job::Backend;
    use crate::training_job::policy::stage;
    use crate::training_job::validate::{self, tests::sample};
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn valid() -> ValidJob {
        let job = sample(|j| j["spec"]["data"]["preparation"] = json!({}));
        validate::job(&job, &Backend::Cluster).unwrap()
    }

    fn job(ended: Option<JobEnd>) -> JobView {
        JobView { spec_hash: Some(valid().spec_hash()), ended, ..JobView::default() }
    }

    fn seen(prepare: Option<JobView>) -> Observed {
        let grant = crate::admission::Grant::Free;
        Observed { prepare, grant, ..Observed::default() }
    }

    #[test]
    fn workers_start_once_rows_are_prepared() {
        let valid = valid();
        let running = PodView { name: "p".into(), phase: Phase::Running, ..PodView::default() };
        let of = |seen: &Observed| stage(&valid, seen, at(100));
        assert!(matches!(of(&seen(None)), Stage::Preparing(_)));
        let under_way = Observed { prepare_pods: vec![running], ..seen(Some(job(None))) };
        let Stage::Preparing(told) = of(&under_way) else { panic!("{:?}", of(&under_way)) };
        assert!(told.contains("pod p reads"), "{told}");
        let done = seen(Some(job(Some(JobEnd::Complete { at: Some(at(5)) }))));
        assert!(matches!(of(&done), Stage::Starting { .. }), "{:?}", of(&done));

        let failed = JobEnd::Failed {
            reason: "PodFailurePolicy".into(),
            message: "exit code 65".into(),
            at: Some(at(5)),
        };
        let refused = seen(Some(job(Some(failed))));
        assert!(matches!(of(&refused), Stage::Ended(Outcome::Failed { .. })));
        let other = JobView { spec_hash: Some("other".into()), ..job(None) };
        assert_eq!(of(&seen(Some(other))), Stage::SpecChanged);
    }

    #[test]
    fn a_job_with_workers_is_past_preparation() {
        let valid = valid();
        let gone = Observed { job: Some(job(None)), ..seen(None) };
        assert!(is_prepared(&valid, &gone));
        let none = validate::job(&sample(|_| {}), &Backend::Cluster).unwrap();
        assert!(is_prepared(&none, &seen(None)));
    }
}
