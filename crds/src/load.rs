//! How much there is to do, over time: what servers are scaled by.
//!
//! Pure: times are durations since a beginning that the caller keeps.

use std::collections::VecDeque;
use std::time::Duration;

/// Time that [`History::recent`] is the mean of.
pub const RECENT: Duration = Duration::from_secs(10);

/// Samples of a number, the newest ones and the peaks of those before.
#[derive(Clone, Debug, Default)]
pub struct History {
    since: Option<Duration>,
    /// Samples of the last [`RECENT`], oldest first.
    samples: VecDeque<(Duration, u32)>,
    /// Highest means, each of [`RECENT`], oldest first; the time is that part's beginning.
    peaks: VecDeque<(Duration, f64)>,
}

impl History {
    /// Adds a sample, and forgets what is older than `window`.
    pub fn sample(&mut self, now: Duration, value: u32, window: Duration) {
        self.since.get_or_insert(now);
        self.samples.push_back((now, value));
        while self.samples.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= RECENT) {
            self.samples.pop_front();
        }
        let recent = self.recent();
        match self.peaks.back_mut() {
            Some((begin, peak)) if now.saturating_sub(*begin) < RECENT => *peak = peak.max(recent),
            _ => self.peaks.push_back((now, recent)),
        }
        while self.peaks.front().is_some_and(|(begin, _)| is_over(*begin, now, window)) {
            self.peaks.pop_front();
        }
    }

    /// Mean of the newest samples.
    pub fn recent(&self) -> f64 {
        let sum: u64 = self.samples.iter().map(|(_, value)| u64::from(*value)).sum();
        sum as f64 / self.samples.len().max(1) as f64
    }

    /// Highest such mean within `window`.
    pub fn peak(&self, now: Duration, window: Duration) -> f64 {
        let within = self.peaks.iter().filter(|(begin, _)| !is_over(*begin, now, window));
        within.map(|(_, peak)| *peak).fold(self.recent(), f64::max)
    }

    /// How long it has been watched, in seconds, up to `window`.
    pub fn watched_seconds(&self, now: Duration, window: Duration) -> u32 {
        let age = self.since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        u32::try_from(age.min(window).as_secs()).unwrap_or(u32::MAX)
    }
}

/// Whether all of a part that began then is older than `window`.
fn is_over(begin: Duration, now: Duration, window: Duration) -> bool {
    now.saturating_sub(begin) >= window + RECENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_a_mean_and_its_peak_is_remembered_for_the_window() {
        let tenths = |tenth: u64| Duration::from_millis(100 * tenth);
        let window = Duration::from_mins(1);
        let mut history = History::default();
        let checks =
            [(295, 6.0, 6.0), (350, 3.0, 6.0), (450, 0.0, 6.0), (880, 0.0, 6.0), (1110, 0.0, 0.0)];
        for tenth in (0..=1110).step_by(5) {
            let now = tenths(tenth);
            history.sample(now, if tenth < 300 { 6 } else { 0 }, window);
            if let Some((_, recent, peak)) = checks.iter().find(|(when, ..)| *when == tenth) {
                assert!((history.recent() - recent).abs() <= 0.4, "{tenth}: {history:?}");
                assert!((history.peak(now, window) - peak).abs() <= 0.4, "{tenth}: {history:?}");
                assert_eq!(u64::from(history.watched_seconds(now, window)), (tenth / 10).min(60));
            }
        }
    }

    #[test]
    fn one_history_tells_of_windows_shorter_than_what_it_keeps() {
        let seconds = Duration::from_secs;
        let mut history = History::default();
        for second in 0..300 {
            history.sample(seconds(second), if second < 20 { 100 } else { 1 }, seconds(600));
        }
        let peak = |window: u64| history.peak(seconds(299), seconds(window));
        assert!((peak(60) - 1.0).abs() < 1e-9 && (peak(600) - 100.0).abs() < 1e-9);
        assert_eq!(history.watched_seconds(seconds(299), seconds(60)), 60);
    }
}
