//! How many different users there were, in a fixed amount of memory: linear counting (Whang et
//! al. 1990). Counts of several gateways unite without counting anyone twice.

use serde::{Deserialize, Serialize};

/// Words of the bitmap: 65,536 bits.
pub const WORDS: usize = 1024;
const BITS: f64 = (WORDS * 64) as f64;

/// Word and bit of a user, from a hash whose bits are all as good as random.
pub fn place(hash: u64) -> (usize, u64) {
    let bit = (hash >> 48) as usize;
    (bit / 64, 1 << (bit % 64))
}

/// A bitmap of users. Empty where none was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserCount(Vec<u64>);

impl UserCount {
    /// From the words of a bitmap.
    pub fn of(words: impl IntoIterator<Item = u64>) -> Self {
        let words: Vec<_> = words.into_iter().take(WORDS).collect();
        Self(if words.iter().all(|word| *word == 0) { Vec::new() } else { words })
    }

    /// Whether no user was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These and those users.
    pub fn unite(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len().min(WORDS), 0);
        }
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// The number of users: to 0.4 % up to 100,000 and 1.4 % at 400,000 (one standard deviation).
    /// Where every bit is set, all that is known is that there were 700,000 and more.
    pub fn estimate(&self) -> f64 {
        let set: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        let empty = (BITS - f64::from(set)).max(1.0);
        -BITS * (empty / BITS).ln()
    }

    /// One standard deviation of [`Self::estimate`].
    pub fn deviation(&self) -> f64 {
        let load = self.estimate() / BITS;
        (BITS * (load.exp() - load - 1.0)).max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::user_hash;

    fn counted(users: std::ops::Range<u32>) -> UserCount {
        let mut words = vec![0; WORDS];
        for user in users {
            let (word, bit) = place(user_hash("salt", format!("user-{user}").as_bytes()));
            words[word] |= bit;
        }
        UserCount::of(words)
    }

    #[test]
    fn users_are_counted_once_whichever_gateway_saw_them() {
        for users in [0, 1, 100, 10_000, 100_000, 400_000] {
            let half = users / 2;
            let mut all = counted(0..half + users / 4);
            all.unite(&counted(half..users));
            let (found, deviation) = (all.estimate(), all.deviation());
            assert!(
                (found - f64::from(users)).abs() <= 4.0 * deviation + 1.0,
                "{users}: {found} +- {deviation}"
            );
            assert!(deviation <= 0.015 * f64::from(users), "{users}: {deviation}");
        }
    }
}
