//! A histogram of times that gateways count and the operator reads quantiles from.
//!
//! Buckets grow by a factor of 2^(1/8), so a quantile is within 9 % of the truth, and histograms
//! of several gateways add up exactly.

use serde::{Deserialize, Serialize};

/// Upper bound of the first bucket: 0.125 ms.
const FIRST_SECONDS: f64 = 0.000_125;
/// Buckets of one doubling.
const PER_OCTAVE: f64 = 8.0;
/// Number of buckets; the last one holds all from 262 s on.
pub const BUCKETS: usize = 8 * 21 + 1;

/// The bucket of a time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a conversion from f64 stops at the integer's bounds"
)]
pub fn bucket(seconds: f64) -> usize {
    let place = ((seconds / FIRST_SECONDS).log2() * PER_OCTAVE).ceil();
    // NaN and what is negative become 0.
    (place.max(0.0) as usize).min(BUCKETS - 1)
}

/// Longest time of a bucket, in seconds.
pub fn upper_bound(bucket: usize) -> f64 {
    FIRST_SECONDS * (bucket as f64 / PER_OCTAVE).exp2()
}

/// Counts by bucket; empty buckets are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latencies(Vec<(u16, u64)>);

impl Latencies {
    /// From the counts of all buckets, in order.
    pub fn of(counts: impl IntoIterator<Item = u64>) -> Self {
        let numbered = (0..).zip(counts);
        Self(numbered.filter(|(_, count)| *count > 0).collect())
    }

    /// These and those.
    pub fn add(&mut self, other: &Self) {
        for &(bucket, count) in &other.0 {
            match self.0.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
                Ok(place) => self.0[place].1 += count,
                Err(place) => self.0.insert(place, (bucket, count)),
            }
        }
    }

    /// The time that this share of requests took at most, drawn evenly within its bucket; `None`
    /// where there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.0.iter().map(|(_, count)| count).sum();
        let rank = share * all as f64;
        let mut below = 0;
        for &(bucket, count) in &self.0 {
            if (below + count) as f64 >= rank {
                let upper = upper_bound(usize::from(bucket));
                let lower = bucket.checked_sub(1).map_or(0.0, |b| upper_bound(usize::from(b)));
                let within = ((rank - below as f64) / count as f64).clamp(0.0, 1.0);
                return Some(lower + (upper - lower) * within);
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[f64]) -> Latencies {
        let mut counts = [0; BUCKETS];
        for &seconds in times {
            counts[bucket(seconds)] += 1;
        }
        Latencies::of(counts)
    }

    #[test]
    fn a_time_lies_in_its_bucket() {
        for seconds in [0.000_2, 0.001, 0.0137, 0.2, 1.0, 59.9, 200.0] {
            let place = bucket(seconds);
            assert!(seconds <= upper_bound(place), "{seconds}");
            assert!(seconds > upper_bound(place - 1), "{seconds}");
        }
        for (odd, want) in [(-1.0, 0), (f64::NAN, 0), (0.0, 0), (1e9, BUCKETS - 1)] {
            assert_eq!(bucket(odd), want, "{odd}");
        }
    }

    #[test]
    fn quantiles_are_within_nine_percent_of_the_truth() {
        let times: Vec<f64> = (1..=1000).map(|n| f64::from(n) / 1000.0).collect();
        let (first, second) = (of(&times[..300]), of(&times[300..]));
        let mut both = first;
        both.add(&second);
        for share in [0.01, 0.5, 0.95, 0.99, 1.0] {
            let found = both.quantile(share).unwrap();
            assert!(found >= share / 1.091 && found <= share * 1.091, "{share}: {found}");
        }
        assert_eq!(both, of(&times));
        assert_eq!(Latencies::default().quantile(0.95), None);
    }
}
