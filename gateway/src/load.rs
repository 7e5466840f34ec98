//! Requests in flight by revision, over time: what the operator scales servers by.
//!
//! Requests add to a counter; samples are taken a few times a second, by whoever calls
//! [`Loads::sample`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_crds::routing::{Load, Scaling};
use tokio::time::Instant;

/// Time that [`Load::recent`] is the mean of.
const RECENT: Duration = Duration::from_secs(10);
/// Parts of the window that keep one peak each.
const PARTS: u32 = 30;

/// Requests of one revision that are in flight.
pub(crate) type InFlightOf = Arc<AtomicU32>;

/// The loads of all revisions that the table names.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    scaling: Option<Scaling>,
    revisions: BTreeMap<String, History>,
}

#[derive(Debug, Default)]
struct History {
    now: InFlightOf,
    /// Percent of requests. What was seen at another weight says nothing of this one.
    weight: u32,
    since: Option<Instant>,
    /// Samples of the last [`RECENT`], oldest first.
    samples: VecDeque<(Instant, u32)>,
    /// Highest means, each of a part of the window, oldest first; the time is the part's beginning.
    peaks: VecDeque<(Instant, f64)>,
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
        for (revision, weight) in revisions {
            let mut history = before.remove(&revision).unwrap_or_default();
            if changed || history.weight != weight {
                history = History { now: history.now, weight, ..History::default() };
            }
            watched.revisions.insert(revision, history);
        }
        let counters = watched.revisions.iter();
        counters.map(|(revision, history)| (revision.clone(), history.now.clone())).collect()
    }

    /// Looks at every counter.
    pub(crate) fn sample(&self, now: Instant) {
        let mut watched = self.lock();
        let Some(scaling) = watched.scaling else { return };
        let window = Duration::from_secs(scaling.window_seconds.into());
        for history in watched.revisions.values_mut() {
            history.sample(now, window);
        }
    }

    /// The loads.
    pub(crate) fn read(&self, now: Instant) -> Vec<Load> {
        let watched = self.lock();
        let Some(scaling) = watched.scaling else { return Vec::new() };
        let loads = watched.revisions.iter().map(|(revision, history)| {
            let age = history.since.map_or(0, |since| now.duration_since(since).as_secs());
            let seconds = u32::try_from(age).unwrap_or(u32::MAX);
            Load {
                revision: revision.clone(),
                recent: history.recent(),
                peak: history.peaks.iter().map(|(_, peak)| *peak).fold(history.recent(), f64::max),
                watched_seconds: seconds.min(scaling.window_seconds),
            }
        });
        loads.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn sample(&mut self, now: Instant, window: Duration) {
        self.since.get_or_insert(now);
        self.samples.push_back((now, self.now.load(Relaxed)));
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) >= RECENT) {
            self.samples.pop_front();
        }
        let recent = self.recent();
        match self.peaks.back_mut() {
            Some((begin, peak)) if now.duration_since(*begin) < window / PARTS => {
                *peak = peak.max(recent);
            }
            _ => self.peaks.push_back((now, recent)),
        }
        // A part goes once all of it is older than the window.
        let part = window + window / PARTS;
        while self.peaks.front().is_some_and(|(begin, _)| now.duration_since(*begin) >= part) {
            self.peaks.pop_front();
        }
    }

    /// Mean of the newest samples.
    fn recent(&self) -> f64 {
        let sum: u32 = self.samples.iter().map(|(_, requests)| requests).sum();
        f64::from(sum) / self.samples.len().max(1) as f64
    }
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
    fn a_load_is_a_mean_and_its_peak_is_remembered_for_the_window() {
        let loads = Loads::default();
        let counters = loads.follow(Some(SCALING), of(&[("r1", 90), ("r2", 10)]));
        let begin = Instant::now();
        let at = |tenth: u64| begin + Duration::from_millis(100 * tenth);
        let mut held: Vec<_> = (0..6).map(|_| Counted::begin(&counters["r1"])).collect();
        let checks =
            [(295, 6.0, 6.0), (350, 3.0, 6.0), (450, 0.0, 6.0), (880, 0.0, 6.0), (1000, 0.0, 0.0)];
        for tenth in (0..=1000).step_by(5) {
            if tenth == 300 {
                held.clear();
            }
            loads.sample(at(tenth));
            if let Some((_, recent, peak)) = checks.iter().find(|(when, ..)| *when == tenth) {
                let read = loads.read(at(tenth));
                assert!((read[0].recent - recent).abs() <= 0.4, "{tenth}: {read:?}");
                assert!((read[0].peak - peak).abs() <= 0.4, "{tenth}: {read:?}");
                assert!(read[1].peak.abs() < f64::EPSILON, "{tenth}: {read:?}");
                assert_eq!(u64::from(read[1].watched_seconds), (tenth / 10).min(60));
            }
        }
    }

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
