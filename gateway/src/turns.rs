//! Which variant's turn it is: random, but in the right shares over few requests, too.

use std::sync::atomic::{AtomicU64, Ordering};

/// Turns of a round, and the sum of a table's weights.
pub(crate) const ROUND: u64 = 100;
/// Coprime to [`ROUND`], so that steps of so many visit each number of a round once; and far from its ends, so that
/// no variant's turns come in a row.
const STEPS: [u64; 10] = [27, 29, 37, 39, 41, 59, 61, 63, 71, 73];

/// Numbers below [`ROUND`]. All of them come up in each round, from a start and in steps that are its own: what a client
/// repeats does not meet the same variant for long.
#[derive(Debug)]
pub(crate) struct Turns {
    seed: u64,
    taken: AtomicU64,
}

impl Turns {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, taken: AtomicU64::new(0) }
    }

    /// The next number.
    pub(crate) fn take(&self) -> u32 {
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let (round, place) = (turn / ROUND, turn % ROUND);
        let drawn = mixed(self.seed.wrapping_add(round));
        let step = STEPS[usize::try_from(drawn % STEPS.len() as u64).unwrap_or(0)];
        let number = ((drawn >> 32) + place * step) % ROUND;
        u32::try_from(number).unwrap_or(0)
    }
}

/// Spreads `number` over all bits (SplitMix64: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
/// generators", figure 17).
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_numbers_come_up_in_each_round_and_rounds_differ() {
        let turns = Turns::new(7);
        let rounds: Vec<Vec<u32>> =
            (0..50).map(|_| (0..ROUND).map(|_| turns.take()).collect()).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        }
        let mut different = rounds.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 45, "{} of 50 rounds differ", different.len());
    }

    #[test]
    fn of_clients_that_take_turns_each_gets_the_same_shares() {
        // 20,000 requests of each client, which the rounds are too few to share out exactly.
        for (seed, clients) in [(1, 2), (2, 4), (3, 5), (4, 10)] {
            let turns = Turns::new(seed);
            let mut below = vec![[0_u32; 2]; clients];
            for request in 0..20_000 * clients {
                let number = turns.take();
                let [ten, half] = &mut below[request % clients];
                *ten += u32::from(number < 10);
                *half += u32::from(number < 50);
            }
            for [ten, half] in below {
                let apart = |found: u32, share: f64| (f64::from(found) / 20_000.0 - share).abs();
                assert!(apart(ten, 0.1) < 0.015, "{clients} clients: {ten}");
                assert!(apart(half, 0.5) < 0.03, "{clients} clients: {half}");
            }
        }
    }

    #[test]
    fn no_variant_has_many_turns_in_a_row() {
        let turns = Turns::new(3);
        let (mut longest, mut run) = (0, 0);
        for _ in 0..100 * ROUND {
            run = if turns.take() < 50 { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        assert!(longest <= 8, "{longest}");
    }
}
