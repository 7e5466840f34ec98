//! What a gateway counts while the operator judges a revision: by variant, since a point in time
//! that the operator sets, and over the newest interval.
//!
//! A request adds to atomic counters and nothing else. Windows come from marks, copies of the
//! counters that [`Meter::mark`] keeps: what came since a mark is the difference.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_crds::latency::{BUCKETS, Latencies, bucket};
use hearth_crds::routing::{
    CANARY, Figures, Measure, Measured, Outcomes, SHADOW, STABLE, VariantFigures,
};
use hearth_crds::user_count::{self, UserCount};
use tokio::time::Instant;

use crate::metrics::Outcome;

/// What is counted apart.
const NAMES: [&str; 3] = [STABLE, CANARY, SHADOW];
/// Marks of one interval.
const MARKS_PER_INTERVAL: u32 = 4;

/// The counters of one measurement.
#[derive(Debug)]
pub struct Meter {
    measure: Measure,
    variants: [Counters; NAMES.len()],
    marks: Mutex<VecDeque<Mark>>,
}

#[derive(Debug)]
struct Counters {
    assigned: AtomicU64,
    failed: AtomicU64,
    /// Requests that ended, by the time that they took.
    latencies: [AtomicU64; BUCKETS],
    reported: AtomicU64,
    succeeded: AtomicU64,
    /// Bitmap of users.
    users: Box<[AtomicU64]>,
}

/// Counters as they were.
#[derive(Debug)]
struct Mark {
    at: Instant,
    variants: [Counts; NAMES.len()],
}

#[derive(Debug)]
struct Counts {
    failed: u64,
    latencies: [u64; BUCKETS],
}

impl Counters {
    fn new() -> Self {
        Self {
            assigned: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latencies: [const { AtomicU64::new(0) }; BUCKETS],
            reported: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            users: (0..user_count::WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn counts(&self) -> Counts {
        // A request counts as failed before it counts as ended: no more can have failed than ended
        // where the latter is read first.
        let latencies = std::array::from_fn(|place| self.latencies[place].load(Relaxed));
        Counts { failed: self.failed.load(Relaxed), latencies }
    }
}

impl Counts {
    /// What came between `before` and this.
    fn since(&self, before: Option<&Self>) -> Figures {
        let then = |place: usize| before.map_or(0, |before| before.latencies[place]);
        let new = |place: usize| self.latencies[place].saturating_sub(then(place));
        let requests = (0..BUCKETS).map(new).sum();
        let failed = self.failed.saturating_sub(before.map_or(0, |before| before.failed));
        let latencies = Latencies::of((0..BUCKETS).map(new));
        Figures { requests, failed: failed.min(requests), latencies }
    }
}

impl Meter {
    /// Nothing counted yet.
    pub fn new(measure: Measure) -> Arc<Self> {
        Arc::new(Self {
            measure,
            variants: std::array::from_fn(|_| Counters::new()),
            marks: Mutex::default(),
        })
    }

    /// What it counts by.
    pub fn measure(&self) -> &Measure {
        &self.measure
    }

    /// A request was sent to this variant; `None` for one that is not counted.
    pub(crate) fn assigned(self: &Arc<Self>, variant: &str) -> Option<Reading> {
        let place = place(variant)?;
        self.variants[place].assigned.fetch_add(1, Relaxed);
        Some(Reading { meter: Arc::clone(self), place })
    }

    /// A user with this hash was sent to this variant.
    pub(crate) fn user(&self, variant: &str, hash: u64) {
        let Some(place) = place(variant) else { return };
        let (word, bit) = user_count::place(hash);
        self.variants[place].users[word].fetch_or(bit, Relaxed);
    }

    /// A client said what came of a user of this variant.
    pub(crate) fn outcome(&self, variant: &str, success: bool) {
        let Some(place) = place(variant) else { return };
        let counters = &self.variants[place];
        counters.succeeded.fetch_add(success.into(), Relaxed);
        counters.reported.fetch_add(1, Relaxed);
    }

    /// Remembers the counters, for windows that begin now; a few times an interval, however
    /// often it is called.
    pub fn mark(&self, now: Instant) {
        let interval = Duration::from_secs(self.measure.interval_seconds.into());
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = marks.back().map(|mark| now.duration_since(mark.at));
        if newest.is_some_and(|age| age < interval / MARKS_PER_INTERVAL) {
            return;
        }
        let variants = std::array::from_fn(|place| self.variants[place].counts());
        marks.push_back(Mark { at: now, variants });
        // The newest of those that are old enough begins the window.
        while marks.get(1).is_some_and(|next| now.duration_since(next.at) >= interval) {
            marks.pop_front();
        }
    }

    /// All that was counted.
    pub fn read(&self) -> Measured {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = marks.front();
        let variants = NAMES.iter().enumerate().map(|(place, name)| {
            let counters = &self.variants[place];
            let counts = counters.counts();
            VariantFigures {
                name: (*name).to_owned(),
                assigned: counters.assigned.load(Relaxed),
                total: counts.since(None),
                window: counts.since(begin.map(|mark| &mark.variants[place])),
                outcomes: Outcomes {
                    reported: counters.reported.load(Relaxed),
                    succeeded: counters.succeeded.load(Relaxed),
                },
                users: UserCount::of(counters.users.iter().map(|word| word.load(Relaxed))),
            }
        });
        let (id, variants) = (self.measure.id.clone(), variants.collect());
        Measured { id, variants, ..Measured::default() }
    }
}

/// Where a variant is counted, if it is.
fn place(variant: &str) -> Option<usize> {
    NAMES.iter().position(|name| *name == variant)
}

/// A request's place in the counters.
#[derive(Debug)]
pub(crate) struct Reading {
    meter: Arc<Meter>,
    place: usize,
}

impl Reading {
    /// The request ended. One that its client gave up took at least this long.
    pub(crate) fn ended(&self, outcome: Outcome, seconds: f64) {
        let counters = &self.meter.variants[self.place];
        if matches!(outcome, Outcome::Status(5..) | Outcome::Broken) {
            counters.failed.fetch_add(1, Relaxed);
        }
        counters.latencies[bucket(seconds)].fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Arc<Meter> {
        Meter::new(Measure { id: "m".into(), interval_seconds: 8 })
    }

    fn canary(meter: &Meter) -> VariantFigures {
        meter.read().variants.remove(1)
    }

    #[test]
    fn requests_are_counted_by_variant_and_outcome() {
        let meter = meter();
        for (variant, outcome) in [
            (CANARY, Outcome::Status(2)),
            (CANARY, Outcome::Status(4)),
            (CANARY, Outcome::Status(5)),
            (CANARY, Outcome::Broken),
            (CANARY, Outcome::Canceled),
            (STABLE, Outcome::Status(2)),
        ] {
            meter.assigned(variant).unwrap().ended(outcome, 0.1);
        }
        let open = meter.assigned(CANARY);
        meter.outcome(CANARY, true);
        meter.outcome(CANARY, false);
        let figures = canary(&meter);
        assert_eq!((figures.assigned, figures.total.requests, figures.total.failed), (6, 5, 2));
        assert_eq!(figures.outcomes, Outcomes { reported: 2, succeeded: 1 });
        let p95 = figures.total.latencies.quantile(0.95).unwrap();
        assert!((0.1..0.11).contains(&p95), "{p95}");
        assert!(meter.assigned("v7").is_none());
        drop(open);
    }

    #[test]
    fn a_window_holds_one_to_two_intervals_of_the_newest_requests() {
        let meter = meter();
        let begin = Instant::now();
        for second in 0..60_u64 {
            let now = begin + Duration::from_secs(second);
            if second % 2 == 0 {
                meter.mark(now);
            }
            meter.assigned(CANARY).unwrap().ended(Outcome::Status(2), 0.01);
            let window = canary(&meter).window.requests;
            if second < 8 {
                assert_eq!(window, second + 1);
            } else {
                assert!((8..=16).contains(&window), "second {second}: {window}");
            }
        }
        assert_eq!(canary(&meter).total.requests, 60);
        let marks = meter.marks.lock().unwrap().len();
        assert!(marks <= 6, "{marks} marks are kept");
    }
}
