//! Tells a rank that hangs from one that works, by how long it is silent.
//!
//! In: a rank's events with the time they were read. Out: a limit. A
//! collective that waits for a lost peer looks like a hang of every rank, so
//! the limit follows the steps that this job really makes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::{Phase, RankEvent};

/// Steps over which the median is taken.
const WINDOW: usize = 32;
/// A rank may be silent for this many times its median step.
const STEPS_OF_SILENCE: u32 = 10;
/// The first step allocates, connects and warms up: it may take this many
/// times [`Limits::training`].
const FIRST_STEP_FACTOR: u32 = 4;

/// How long ranks may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Least limit while steps are made or the model is evaluated.
    pub training: Duration,
    /// While data, a model or a checkpoint is read or written.
    pub loading: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { training: Duration::from_secs(30), loading: Duration::from_mins(10) }
    }
}

/// Follows one rank.
#[derive(Clone, Debug)]
pub struct Watchdog {
    limits: Limits,
    heard: Duration,
    phase: Phase,
    step: i64,
    step_seconds: VecDeque<f64>,
}

impl Watchdog {
    /// Starts to follow a rank that was started `now`.
    pub fn new(limits: Limits, now: Duration) -> Self {
        Self { limits, heard: now, phase: Phase::Loading, step: 0, step_seconds: VecDeque::new() }
    }

    /// Takes note of an event. Any event is a sign of life.
    pub fn hear(&mut self, event: &RankEvent, now: Duration) {
        self.heard = now;
        match event {
            RankEvent::Phase { phase, step } => {
                self.phase = *phase;
                self.step = *step;
            }
            RankEvent::Step(report) => {
                self.phase = Phase::Training;
                self.step = report.step;
                if self.step_seconds.len() == WINDOW {
                    self.step_seconds.pop_front();
                }
                self.step_seconds.push_back(report.seconds);
            }
            RankEvent::Resumed { step, .. } => self.step = *step,
            _ => {}
        }
    }

    /// Newest step reported.
    pub fn step(&self) -> i64 {
        self.step
    }

    /// What the rank said it does.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Since the newest event.
    pub fn silent(&self, now: Duration) -> Duration {
        now.saturating_sub(self.heard)
    }

    /// Silence after which the rank counts as hung.
    pub fn limit(&self) -> Duration {
        match self.phase {
            Phase::Loading | Phase::Saving | Phase::Exporting => self.limits.loading,
            Phase::Training | Phase::Evaluating => match self.median_step() {
                Some(median) => self.limits.training.max(median * STEPS_OF_SILENCE),
                None => self.limits.training * FIRST_STEP_FACTOR,
            },
        }
    }

    fn median_step(&self) -> Option<Duration> {
        let mut seconds: Vec<f64> = self.step_seconds.iter().copied().collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2)?;
        Duration::try_from_secs_f64(*median).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::StepReport;

    const LIMITS: Limits =
        Limits { training: Duration::from_secs(30), loading: Duration::from_mins(10) };

    fn step(step: i64, seconds: f64) -> RankEvent {
        RankEvent::Step(StepReport { step, seconds, ..StepReport::default() })
    }

    fn phase(phase: Phase) -> RankEvent {
        RankEvent::Phase { phase, step: 0 }
    }

    #[test]
    fn the_limit_follows_what_the_rank_does() {
        for (name, events, want_seconds) in [
            ("a rank that just started loads", vec![], 600),
            ("the first step may take longer", vec![phase(Phase::Training)], 120),
            ("short steps keep the least limit", vec![step(1, 0.2), step(2, 0.2)], 30),
            ("long steps raise it", vec![step(1, 5.0), step(2, 7.0), step(3, 5.0)], 50),
            ("one slow step does not", vec![step(1, 1.0), step(2, 300.0), step(3, 1.0)], 30),
            ("saving may take long", vec![step(1, 0.1), phase(Phase::Saving)], 600),
            ("evaluating may not", vec![step(1, 0.1), phase(Phase::Evaluating)], 30),
            ("a step ends the evaluation", vec![phase(Phase::Exporting), step(1, 0.1)], 30),
        ] {
            let mut watchdog = Watchdog::new(LIMITS, Duration::ZERO);
            for event in &events {
                watchdog.hear(event, Duration::ZERO);
            }
            assert_eq!(watchdog.limit(), Duration::from_secs(want_seconds), "{name}");
        }
    }

    #[test]
    fn only_the_newest_steps_count() {
        let mut watchdog = Watchdog::new(LIMITS, Duration::ZERO);
        for number in 0..40 {
            watchdog.hear(&step(number, 100.0), Duration::ZERO);
        }
        assert_eq!(watchdog.limit(), Duration::from_secs(1000));
        for number in 40..80 {
            watchdog.hear(&step(number, 1.0), Duration::ZERO);
        }
        assert_eq!(watchdog.limit(), Duration::from_secs(30));
    }

    #[test]
    fn every_event_is_a_sign_of_life() {
        let mut watchdog = Watchdog::new(LIMITS, Duration::from_secs(1));
        assert_eq!(watchdog.silent(Duration::from_secs(5)), Duration::from_secs(4));
        let note = RankEvent::Note { reason: "BadRows".into(), message: String::new() };
        watchdog.hear(&note, Duration::from_secs(5));
        assert_eq!(watchdog.silent(Duration::from_secs(5)), Duration::ZERO);
    }

    #[test]
    fn a_step_time_that_is_no_number_is_no_limit() {
        let mut watchdog = Watchdog::new(LIMITS, Duration::ZERO);
        watchdog.hear(&step(1, f64::NAN), Duration::ZERO);
        assert_eq!(watchdog.limit(), Duration::from_mins(2));
    }
}
