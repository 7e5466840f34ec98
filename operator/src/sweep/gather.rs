//! Reads what a sweep's decisions need: its trials, from the store.

use super::trial::{self, State, Trial};
use super::validate::ValidSweep;
use crate::children::{ChildId, Kind, LiveChildren};
use crate::context::Context;

/// Combinations between two jobs that may be refused, without which what was just written is found.
const REFUSED_IN_A_ROW: usize = 64;

/// What was observed of a sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its trials by number; numbers without a job are missing.
    pub trials: Vec<Trial>,
    /// Trials were written that the watch has not shown yet.
    pub catching_up: bool,
    /// Objects that stand under the names of the next trials.
    pub taken: LiveChildren,
}

/// Observes a sweep. Costs no request.
pub fn observe(cx: &Context, valid: &ValidSweep) -> Observed {
    let jobs = cx.caches.trials_of(&valid.namespace, &valid.uid);
    let trials = trial::read(valid, jobs.iter().filter_map(|job| job.0.as_ref().ok()));
    let next = trials.last().map_or(0, |trial| trial.number + 1);
    let ahead = usize::try_from(valid.spec.trials.parallel).unwrap_or(0) + REFUSED_IN_A_ROW;
    let mut taken = LiveChildren::new();
    let first_rungs = (next..next + ahead).map(|number| (number, 0));
    let next_rungs = trials
        .iter()
        .filter(|trial| valid.ladder.is_some() && !trial.reached.is_empty())
        .filter(|trial| trial.state != State::Running)
        .map(|trial| (trial.number, trial.reached.len()));
    for (number, rung) in first_rungs.chain(next_rungs) {
        let id = ChildId { kind: Kind::TrainingJob, name: valid.job_name(number, rung) };
        taken.extend(cx.child(&valid.namespace, &id).map(|live| (id, live)));
    }
    let catching_up = taken.values().any(|live| live.owner == valid.uid);
    Observed { trials, catching_up, taken }
}
