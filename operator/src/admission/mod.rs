//! Admission without Kueue: which TrainingJobs have devices, and which wait.
//!
//! In: what the watches have seen. Out: a decision a job, which its reconcile carries out by
//! `suspend` of the child Job. What a job holds is read from the cluster ([`gather`]); all
//! that is kept here are the decisions of a moment ago, so that a Job that the watches do
//! not show yet counts as started. Jobs that ask for no device, in namespaces without a
//! ResourceQuota, are not this room's business.

pub mod amounts;
mod back_fill;
pub mod gather;
pub mod policy;
pub mod pool;
pub mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::cache::Caches;
use crate::training_job::validate::ValidJob;
use policy::{Decision, Uid, decide};

/// What a job's reconcile is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// Nobody but itself decides.
    #[default]
    Free,
    /// It has not been considered yet.
    Undecided,
    /// Decided.
    Decided(Decision),
}

/// The decisions of a moment ago.
#[derive(Default)]
pub struct Admission {
    /// Time that a job may run before it yields; absent where all are admitted.
    pub min_runtime: Option<SignedDuration>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    of: BTreeMap<Uid, Decision>,
    /// Admitted, and not yet seen to run.
    granted: BTreeSet<Uid>,
}

/// Jobs that are told something new, and when to decide again though nothing happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// UIDs.
    pub jobs: BTreeSet<Uid>,
    /// When.
    pub look_again: Option<Timestamp>,
}

impl Admission {
    /// Admission with this minimum of time; none where every job is admitted.
    pub fn new(min_runtime: Option<SignedDuration>) -> Self {
        Self { min_runtime, ..Self::default() }
    }

    /// What a job is told.
    pub fn grant(&self, caches: &Caches, job: &ValidJob) -> Grant {
        let theirs = job.queue.is_some();
        if self.min_runtime.is_none() || theirs {
            return Grant::Free;
        }
        if !gather::counts(caches, &job.namespace, &job.spec.workers) {
            return Grant::Free;
        }
        self.decision(&job.uid).map_or(Grant::Undecided, Grant::Decided)
    }

    /// What was last decided of a job.
    pub fn decision(&self, uid: &str) -> Option<Decision> {
        self.state().of.get(uid).cloned()
    }

    /// Decides on all jobs anew.
    pub fn decide(&self, caches: &Caches, now: Timestamp) -> News {
        let Some(min_runtime) = self.min_runtime else { return News::default() };
        let mut state = self.state();
        let (view, granted) = gather::view(caches, &state.granted, min_runtime);
        let decisions = decide(&view, now);
        let admitted =
            |claim: &&policy::Claim| matches!(decisions.of.get(&claim.uid), Some(Decision::Admit));
        let fresh = view.waiting.iter().filter(admitted).map(|claim| claim.uid.clone());
        state.granted = granted.into_iter().chain(fresh).collect();
        let old = std::mem::replace(&mut state.of, decisions.of);
        let news = |(uid, decision): &(&Uid, &Decision)| old.get(*uid) != Some(*decision);
        let jobs = state.of.iter().filter(news).map(|(uid, _)| uid.clone()).collect();
        News { jobs, look_again: decisions.look_again }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Valid after any panic: both parts are written whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
