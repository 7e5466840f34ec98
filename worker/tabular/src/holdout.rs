//! Held-out rows in two halves: one tunes (when training stops, what scores mean, where the threshold
//! is), the other is reported on. What was chosen on rows looks better on them than on new ones.
//!
//! A row's half depends on its number and the seed alone, so that a run that goes on, and a person who
//! checks the report, have the same halves. Halves instead of folds: each fold would need a model of
//! its own, and the one that is served would be none of them.

use crate::table::Table;

/// Whether a row, by its number among the held-out ones, tunes.
pub fn tunes(row: u64, seed: u64) -> bool {
    // SplitMix64's mixing (Steele, Lea & Flood 2014).
    let mut bits = row.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed.rotate_left(32);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (bits ^ (bits >> 31)) & 1 == 1
}

/// The rows that tune, and those to report on.
pub fn split(held_out: &Table, seed: u64) -> (Table, Table) {
    let tunes = |row: usize| tunes(row as u64, seed);
    (held_out.take(tunes), held_out.take(|row| !tunes(row)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_even_and_change_with_the_seed() {
        let half = |seed| (0..10_000).filter(|row| tunes(*row, seed)).count();
        assert!((4_800..5_200).contains(&half(0)), "{}", half(0));
        assert!((4_800..5_200).contains(&half(1)), "{}", half(1));
        let other = (0..10_000).filter(|row| tunes(*row, 0) != tunes(*row, 1)).count();
        assert!((4_000..6_000).contains(&other), "{other}");
    }
}
