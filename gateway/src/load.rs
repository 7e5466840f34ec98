//! Requests in flight by revision, over time: what the operator scales servers by.
//!
//! Requests add to a counter; samples are taken a few times a second, by whoever calls
//! [`Loads::sample`].

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_crds::load::History;
use hearth_crds::routing::{Load, Scaling};
use tokio::time::Instant;

/// Requests of one revision that are in flight.
pub(crate) type InFlightOf = Arc<AtomicU32>;

/// The loads of all revisions that the table names.
#[derive(Debug)]
pub(crate) struct Loads {
    began: Instant,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    scaling: Option<Scaling>,
    revisions: BTreeMap<String, Revision>,
}

#[derive(Debug, Default)]
struct Revision {
    now: InFlightOf,
    /// Percent of requests. What was seen at another weight says nothing of this one.
    weight: u32,
    history: History,
}

impl Default for Loads {
    fn default() -> Self {
        Self { began: Instant::now(), watched: Mutex::default() }
    }
}

impl Loads {
    /// Follows these revisions, by weight, from now on, and forgets others; the counter of each.
    pub(crate) fn follow(
        &self,
        scaling: Option<Scaling>,
        revisions: impl IntoIterator<Item = (String, u32)>,
    ) -> BTreeMap<String, InFlightOf> {
        let mut watched = self.lock();
        let changed = watched.scaling != scaling;
        watched.scaling = scaling;
        let mut before = std::mem::take(&mut watched.revisions);
        for (name, weight) in revisions {
            let mut revision = before.remove(&name).unwrap_or_default();
            if changed || revision.weight != weight {
                revision = Revision { now: revision.now, weight, history: History::default() };
            }
            watched.revisions.insert(name, revision);
        }
        let counters = watched.revisions.iter();
        counters.map(|(name, revision)| (name.clone(), revision.now.clone())).collect()
    }

    /// Looks at every counter.
    pub(crate) fn sample(&self, now: Instant) {
        let mut watched = self.lock();
        let Some(scaling) = watched.scaling else { return };
        for revision in watched.revisions.values_mut() {
            let requests = revision.now.load(Relaxed);
            revision.history.sample(now - self.began, requests, window(scaling));
        }
    }

    /// The loads.
    pub(crate) fn read(&self, now: Instant) -> Vec<Load> {
        let watched = self.lock();
        let Some(scaling) = watched.scaling else { return Vec::new() };
        let loads = watched.revisions.iter().map(|(name, revision)| {
            Load::of(name, &revision.history, now - self.began, window(scaling))
        });
        loads.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn window(scaling: Scaling) -> Duration {
    Duration::from_secs(scaling.window_seconds.into())
}

/// A request that counts while this lives.
#[derive(Debug)]
pub(crate) struct Counted(InFlightOf);

impl Counted {
    pub(crate) fn begin(of: &InFlightOf) -> Self {
        of.fetch_add(1, Relaxed);
        Self(Arc::clone(of))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALING: Scaling = Scaling { window_seconds: 60, hold_seconds: 1 };

    #[test]
    fn a_revision_keeps_its_counter_and_is_watched_anew_at_another_weight() {
        let loads = Loads::default();
        let begin = Instant::now();
        let first = loads.follow(Some(SCALING), of(&[("r1", 100)]));
        let request = Counted::begin(&first["r1"]);
        loads.sample(begin);
        let later = begin + Duration::from_secs(30);
        let second = loads.follow(Some(SCALING), of(&[("r1", 100), ("r2", 0)]));
        loads.sample(later);
        let read = loads.read(later);
        assert_eq!((read[0].watched_seconds, read[1].watched_seconds), (30, 0));
        assert_eq!(second["r1"].load(Relaxed), 1);
        let third = loads.follow(Some(SCALING), of(&[("r1", 50), ("r2", 50)]));
        loads.sample(later);
        assert_eq!(loads.read(later)[0].watched_seconds, 0);
        drop(request);
        assert_eq!(third["r1"].load(Relaxed), 0);
        assert_eq!(loads.follow(None, of(&[("r2", 100)])).len(), 1);
        assert_eq!(loads.read(later), Vec::new());
    }

    fn of(revisions: &[(&str, u32)]) -> Vec<(String, u32)> {
        revisions.iter().map(|(revision, weight)| ((*revision).to_owned(), *weight)).collect()
    }
}
