//! Hashes of sequences of units.

use twox_hash::XxHash3_64;

use super::units::{Units, units};

/// An odd number with bits all over: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hash of each sequence of `N` units of a text, in order; of the whole text, where it has fewer,
/// and nothing where it has none. Made of the units' XXH3 hashes, so that they are the same on all
/// machines.
pub(super) struct Shingles<'a, const N: usize> {
    units: Units<'a>,
    window: [u64; N],
    filled: usize,
}

impl<'a, const N: usize> Shingles<'a, N> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { units: units(text), window: [0; N], filled: 0 }
    }
}

impl<const N: usize> Iterator for Shingles<'_, N> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        for unit in self.units.by_ref() {
            self.window.rotate_left(1);
            self.window[N - 1] = XxHash3_64::oneshot(unit.as_bytes());
            self.filled += 1;
            if self.filled >= N {
                return Some(mix(&self.window));
            }
        }
        let few = self.filled;
        self.filled = 0;
        (1..N).contains(&few).then(|| mix(&self.window[N - few..]))
    }
}

/// One hash of several, in which their order counts.
fn mix(hashes: &[u64]) -> u64 {
    let mixed = hashes
        .iter()
        .fold(0_u64, |mixed, hash| (mixed.rotate_left(23) ^ hash).wrapping_mul(MULTIPLIER));
    (mixed ^ (mixed >> 32)).wrapping_mul(MULTIPLIER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shingles(text: &str) -> Vec<u64> {
        Shingles::<3>::of(text).collect()
    }

    #[test]
    fn each_sequence_has_a_hash() {
        assert!(shingles("").is_empty());
        assert_eq!(shingles("a b").len(), 1);
        assert_eq!(shingles("a b c").len(), 1);
        assert_eq!(shingles("a b c d").len(), 2);
        assert_eq!(shingles("a b c d")[1], shingles("b c d")[0]);
        assert_ne!(shingles("a b c"), shingles("c b a"));
        assert_ne!(shingles("a b"), shingles("b a"));
    }

    #[test]
    fn hashes_are_those_that_were_written_before() {
        assert_eq!(shingles("one two three"), [488_549_909_746_115_143]);
    }
}
