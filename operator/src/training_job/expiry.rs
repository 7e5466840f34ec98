//! The end of a job that has ended: `ttlSecondsAfterFinished`.

use hearth_crds::TrainingJob;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::controller::Action;

use crate::apply;
use crate::children::{ChildId, Kind};
use crate::context::Context;
use crate::error::ReconcileError;

/// Deletes the job once its time is over; its objects go with it.
pub async fn expire(cx: &Context, job: &TrainingJob) -> Result<Action, ReconcileError> {
    match time_left(job, cx.clock.now()) {
        None => Ok(Action::await_change()),
        Some(left) if left.is_positive() => Ok(Action::requeue(left.unsigned_abs())),
        Some(_) => {
            let id = ChildId { kind: Kind::TrainingJob, name: job.name_any() };
            let namespace = job.namespace().unwrap_or_default();
            apply::delete(cx, &namespace, &id, job.uid().unwrap_or_default()).await?;
            Ok(Action::await_change())
        }
    }
}

/// Time until an ended job is deleted; none where it stays, or goes already.
fn time_left(job: &TrainingJob, now: Timestamp) -> Option<SignedDuration> {
    let seconds = job.spec.ttl_seconds_after_finished?;
    let ended: Timestamp = job.status.as_ref()?.completion_time.as_ref()?.parse().ok()?;
    let lives = job.metadata.deletion_timestamp.is_none();
    lives.then(|| SignedDuration::from_secs(seconds.into()) - now.duration_since(ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training_job::validate::tests::sample;

    #[test]
    fn only_an_ended_job_with_a_time_to_live_goes() {
        let left = |ttl: serde_json::Value, ended: serde_json::Value| {
            let job = sample(|j| {
                j["spec"]["ttlSecondsAfterFinished"] = ttl;
                j["status"] = serde_json::json!({"completionTime": ended});
            });
            let now = Timestamp::from_second(160).unwrap();
            time_left(&job, now).map(|left| left.as_secs())
        };
        let ended = || "1970-01-01T00:01:40Z".into();
        assert_eq!(left(90.into(), ended()), Some(30));
        assert_eq!(left(0.into(), ended()), Some(-60));
        assert_eq!(left(serde_json::Value::Null, ended()), None);
        assert_eq!(left(90.into(), serde_json::Value::Null), None);
    }
}
