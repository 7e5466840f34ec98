//! A job whose number of workers changes while it runs. Pure.

use k8s_openapi::jiff::Timestamp;

use super::stage::{Stage, starting};
use crate::agent_client::AgentAnswer;
use crate::training_job::gather::Observed;
use crate::training_job::validate::ValidJob;

/// How many pods the child Job should have. Pods go only once no rank runs on them, so that
/// the ranks of the larger gang save first.
pub(crate) fn pods(valid: &ValidJob, seen: &Observed) -> i32 {
    let wanted = valid.spec.workers.replicas;
    let there = seen.job.as_ref().map_or(wanted, |job| job.pods);
    let is_held = match &seen.agent {
        AgentAnswer::Status(status) => status.present_replicas > wanted.unsigned_abs(),
        AgentAnswer::Silent(_) => true,
        AgentAnswer::NotAsked => false,
    };
    if there > wanted && is_held { there } else { wanted }
}

/// How many agents there should be, where agent 0 wants another number of them.
pub(crate) fn news_of_size(valid: &ValidJob, stage: &Stage) -> Option<u32> {
    let wanted = valid.spec.workers.replicas.unsigned_abs();
    match stage {
        Stage::Running(status)
            if status.result.is_none() && ![0, wanted].contains(&status.replicas) =>
        {
            Some(wanted)
        }
        _ => None,
    }
}

/// What a gang that trains, and should be larger, waits for.
pub(crate) fn awaited(
    valid: &ValidJob,
    seen: &Observed,
    stage: &Stage,
    now: Timestamp,
) -> Option<String> {
    let Stage::Running(status) = stage else { return None };
    let wanted = valid.spec.workers.replicas.unsigned_abs();
    if !(1..wanted).contains(&status.present_replicas) {
        return None;
    }
    match starting(valid, seen, now) {
        Stage::Starting { message, .. } => Some(message),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hearth_crds::worker_config::WorkerStatus;

    use super::*;
    use crate::observed::JobView;
    use crate::source_rules::Backend;
    use crate::training_job::validate::{self, tests::sample};

    fn wants(replicas: i32) -> ValidJob {
        let job = sample(|job| job["spec"]["workers"]["replicas"] = replicas.into());
        validate::job(&job, &Backend::Cluster).unwrap()
    }

    fn has(pods: i32, agent: AgentAnswer) -> Observed {
        let job = Some(JobView { pods, ..JobView::default() });
        Observed { job, agent, ..Observed::default() }
    }

    fn says(present: u32, replicas: u32) -> WorkerStatus {
        WorkerStatus { present_replicas: present, replicas, ..WorkerStatus::default() }
    }

    #[test]
    fn pods_come_at_once_and_go_when_no_rank_runs_on_them() {
        let status = |present| AgentAnswer::Status(Box::new(says(present, 2)));
        let silent = || AgentAnswer::Silent("no route".into());
        for (there, wanted, agent, pods_then) in [
            (2, 3, status(2), 3),
            (2, 3, silent(), 3),
            (3, 1, status(3), 3),
            (3, 1, status(2), 3),
            (3, 1, status(1), 1),
            (3, 1, status(0), 1),
            (3, 1, silent(), 3),
            (3, 1, AgentAnswer::NotAsked, 1),
            (2, 2, status(2), 2),
        ] {
            let (valid, seen) = (wants(wanted), has(there, agent));
            assert_eq!(pods(&valid, &seen), pods_then, "{seen:?}, {wanted} wanted");
        }
        assert_eq!(pods(&wants(4), &Observed::default()), 4);
    }

    #[test]
    fn agent_0_is_told_what_it_does_not_know() {
        let running = |replicas| Stage::Running(Box::new(says(2, replicas)));
        assert_eq!(news_of_size(&wants(3), &running(2)), Some(3));
        assert_eq!(news_of_size(&wants(3), &running(3)), None);
        assert_eq!(news_of_size(&wants(3), &Stage::Suspended), None);
    }

    #[test]
    fn a_gang_that_should_be_larger_waits_for_the_others() {
        let (valid, seen) = (wants(3), has(3, AgentAnswer::NotAsked));
        let awaited = |present| {
            awaited(
                &valid,
                &seen,
                &Stage::Running(Box::new(says(present, 3))),
                Timestamp::UNIX_EPOCH,
            )
        };
        assert!(awaited(2).unwrap().contains("of 3 worker"), "{:?}", awaited(2));
        assert_eq!((awaited(3), awaited(0)), (None, None));
    }
}
