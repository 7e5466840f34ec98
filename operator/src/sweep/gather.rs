//! Reads what a sweep's decisions need: its trials, from the store.

use super::policy::Decision;
use super::trial::{self, Trial};
use super::validate::ValidSweep;
use crate::children::{ChildId, Kind, LiveChildren};
use crate::context::Context;

/// What was observed of a sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its trials by number; numbers without a job are missing.
    pub trials: Vec<Trial>,
    /// Trials were written, or told to stop, and the watch has not shown it yet.
    pub catching_up: bool,
}

/// Observes a sweep. Costs no request.
pub fn observe(cx: &Context, valid: &ValidSweep) -> Observed {
    let catching_up = cx.has_unseen_writes(&valid.namespace, Kind::TrainingJob, &valid.uid);
    let jobs = cx.caches.jobs_of(&valid.namespace, &valid.uid);
    let trials = trial::read(valid, jobs.iter().filter_map(|job| job.0.as_ref().ok()));
    Observed { trials, catching_up }
}

/// Objects that stand under the names of the jobs that a decision is about. Costs no request.
pub fn concerned(cx: &Context, valid: &ValidSweep, decision: &Decision) -> LiveChildren {
    let start = decision.start.iter().filter_map(|job| job.metadata.name.as_ref());
    let stop = decision.stop.iter().map(|(name, _)| name);
    let ids = start.chain(stop).map(|name| job_id(name));
    ids.filter_map(|id| Some((id.clone(), cx.child(&valid.namespace, &id)?))).collect()
}

/// The TrainingJob of this name.
pub fn job_id(name: &str) -> ChildId {
    ChildId { kind: Kind::TrainingJob, name: name.to_owned() }
}
