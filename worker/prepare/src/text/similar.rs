//! Texts that say nearly the same: MinHash (Broder 1997) over sequences of words, and bands of its
//! signatures (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3).
//!
//! A text is compared by its sequences of five words; where Chinese, Japanese, Thai, Lao, Burmese
//! or Khmer is written, which have no spaces, by its sequences of five characters. A text of fewer
//! is compared by what it has.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use twox_hash::XxHash3_64;

use super::shingle::Shingles;

/// Values of a signature. The estimate's standard deviation is at most 0.5 / sqrt(128) = 0.044.
const VALUES: usize = 128;
/// Words of a sequence.
const SEQUENCE: usize = 5;
/// Sequences that are hashed together.
const BLOCK: usize = 32;
/// Weight of texts that are alike and share no band, against those that are not and do. The latter
/// cost a comparison of signatures, the former a duplicate in the data.
const MISSED: f64 = 0.95;
/// Steps of the integrals.
const STEPS: u32 = 200;

/// Makes signatures of texts. Threads may share one.
#[derive(Clone, Debug)]
pub struct MinHash {
    threshold: f64,
    multipliers: [u64; VALUES],
    addends: [u64; VALUES],
    bands: usize,
    rows: usize,
}

impl MinHash {
    /// For texts of which `threshold`, from 0 to 1, is the least similarity that counts. The same
    /// `seed` gives the same signatures, on all machines.
    pub fn new(threshold: f64, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let multipliers = std::array::from_fn(|_| random.next_u64());
        let addends = std::array::from_fn(|_| random.next_u64());
        let (bands, rows) = best_bands(threshold);
        Self { threshold, multipliers, addends, bands, rows }
    }

    /// Values of a signature.
    #[expect(clippy::len_without_is_empty, reason = "no signature is empty")]
    pub fn len(&self) -> usize {
        VALUES
    }

    /// The signature of a cleaned text is put into `signature`, of `len` values.
    ///
    /// Each value is the least that a hash function has over the text's sequences. The functions
    /// are (a x + b) mod 2^64 / 2^32 of 32 bits x of a sequence's hash (Dietzfelbinger 1996,
    /// strongly universal). A text without words has the greatest number everywhere.
    pub fn sign(&self, text: &str, signature: &mut [u32]) {
        let mut xs: Vec<u32> = Shingles::<SEQUENCE>::of(text).map(upper_half).collect();
        // Whole blocks: a sequence that is there twice changes no minimum.
        let last = xs.last().copied();
        xs.extend(last.into_iter().cycle().take(xs.len().next_multiple_of(BLOCK) - xs.len()));
        let functions = self.multipliers.iter().zip(&self.addends);
        for (value, (multiplier, addend)) in signature.iter_mut().zip(functions) {
            *value = least(&xs, *multiplier, *addend);
        }
    }

    /// A key for each band: texts that share one at the same place may say the same.
    pub fn bands(&self, signature: &[u32]) -> Vec<u64> {
        let bands = signature.chunks_exact(self.rows).take(self.bands);
        bands.map(key).collect()
    }

    /// Whether two signatures are of texts that say the same: the share of equal values, which
    /// estimates the Jaccard similarity without bias, is at least the threshold.
    pub fn alike(&self, one: &[u32], other: &[u32]) -> bool {
        similarity(one, other) >= self.threshold
    }
}

/// The least value of a function over whole blocks of `xs`.
fn least(xs: &[u32], multiplier: u64, addend: u64) -> u32 {
    const SIGN: u32 = 1 << 31;
    // Vectors of plain x86-64 compare signed numbers only, so the order is moved to those.
    let addend = addend.wrapping_add(u64::from(SIGN) << 32);
    // Products of 32 bits, which vectors of plain x86-64 have.
    let (high, low) = (multiplier >> 32, multiplier & u64::from(u32::MAX));
    let mut least = [i32::MAX; BLOCK];
    for block in xs.as_chunks::<BLOCK>().0 {
        for (least, x) in least.iter_mut().zip(block) {
            let x = u64::from(*x);
            let value = (low * x).wrapping_add((high * x) << 32).wrapping_add(addend);
            *least = upper_half(value).cast_signed().min(*least);
        }
    }
    let least = least.into_iter().min().unwrap_or(i32::MAX);
    least.cast_unsigned() ^ SIGN
}

fn upper_half(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn key(rows: &[u32]) -> u64 {
    let mut bytes = [0; VALUES * 4];
    for (place, row) in bytes.chunks_exact_mut(4).zip(rows) {
        place.copy_from_slice(&row.to_le_bytes());
    }
    XxHash3_64::oneshot(&bytes[..rows.len() * 4])
}

fn similarity(one: &[u32], other: &[u32]) -> f64 {
    let equal = one.iter().zip(other).filter(|(one, other)| one == other).count();
    equal as f64 / VALUES as f64
}

/// Bands, and rows of each, for which the weighed sum of two integrals is least: of the probability
/// that two texts share a band, up to the threshold, and that they share none, from there on.
fn best_bands(threshold: f64) -> (usize, usize) {
    let choices =
        (1..=VALUES).flat_map(|bands| (1..=VALUES / bands).map(move |rows| (bands, rows)));
    let cost = |(bands, rows): (usize, usize)| {
        let shared = |similarity| share_a_band(similarity, bands, rows);
        (1.0 - MISSED) * integral(0.0, threshold, shared)
            + MISSED * integral(threshold, 1.0, |similarity| 1.0 - shared(similarity))
    };
    let costs = choices.map(|choice| (cost(choice), choice));
    costs.min_by(|one, other| one.0.total_cmp(&other.0)).map_or((1, VALUES), |(_, choice)| choice)
}

/// Probability that texts of a similarity share one band or more.
fn share_a_band(similarity: f64, bands: usize, rows: usize) -> f64 {
    1.0 - (1.0 - similarity.powf(rows as f64)).powf(bands as f64)
}

/// By the midpoint rule.
fn integral(from: f64, to: f64, of: impl Fn(f64) -> f64) -> f64 {
    let step = (to - from) / f64::from(STEPS);
    (0..STEPS).map(|i| of(from + (f64::from(i) + 0.5) * step) * step).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn sign(hash: &MinHash, text: &str) -> Vec<u32> {
        let mut signature = vec![0; hash.len()];
        hash.sign(text, &mut signature);
        signature
    }

    /// Two texts with the similarity of their sets of sequences: words are all different, and the
    /// second has other words from `common` on.
    fn pair(number: usize, words: usize, common: usize) -> (String, String, f64) {
        let word = |text: &str, i: usize| format!("w{number}{text}{i}");
        let one: Vec<String> = (0..words).map(|i| word("a", i)).collect();
        let other = (0..words).map(|i| word(if i < common { "a" } else { "b" }, i));
        let (one, other) = (one.join(" "), other.collect::<Vec<_>>().join(" "));
        let sets: [HashSet<u64>; 2] =
            [&one, &other].map(|text| Shingles::<SEQUENCE>::of(text).collect());
        let both = sets[0].intersection(&sets[1]).count();
        let any = sets[0].union(&sets[1]).count();
        let jaccard = both as f64 / any as f64;
        (one, other, jaccard)
    }

    #[test]
    fn the_estimate_is_within_its_error() {
        let hash = MinHash::new(0.8, 7);
        let mut errors = Vec::new();
        for number in 0..200 {
            let (one, other, jaccard) = pair(number, 104, 4 + number / 2);
            let estimate = similarity(&sign(&hash, &one), &sign(&hash, &other));
            let deviation = (jaccard * (1.0 - jaccard) / VALUES as f64).sqrt();
            // Of 200 normal variables, one is beyond 4.5 deviations once in 700 times.
            assert!((estimate - jaccard).abs() <= 4.5 * deviation + 1e-9, "{jaccard} {estimate}");
            errors.push(estimate - jaccard);
        }
        // The mean of 200 errors is within 4 of its deviations of 0: no bias.
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(mean.abs() < 4.0 * 0.044 / 200_f64.sqrt(), "{mean}");
    }

    #[test]
    fn texts_that_are_alike_share_a_band() {
        const PAIRS: usize = 500;
        for (threshold, common) in [(0.5, 71), (0.7, 87), (0.8, 93), (0.8, 96), (0.9, 100)] {
            let hash = MinHash::new(threshold, 3);
            let (_, _, jaccard) = pair(0, 104, common);
            assert!(jaccard >= threshold, "{jaccard}");
            let shared = (0..PAIRS).filter(|number| {
                let (one, other, _) = pair(*number, 104, common);
                let bands = [one, other].map(|text| hash.bands(&sign(&hash, &text)));
                bands[0].iter().zip(&bands[1]).any(|(one, other)| one == other)
            });
            let recall = shared.count() as f64 / PAIRS as f64;
            let expected = share_a_band(jaccard, hash.bands, hash.rows);
            let deviation = (expected * (1.0 - expected) / PAIRS as f64).sqrt();
            assert!(recall >= expected - 4.0 * deviation, "{threshold}: {recall} of {expected}");
            assert!(expected > 0.9, "{threshold}: {expected}");
        }
    }

    #[test]
    fn unlike_texts_share_no_band_and_are_not_alike() {
        let hash = MinHash::new(0.8, 0);
        let (one, other, _) = pair(1, 104, 20);
        let (one, other) = (sign(&hash, &one), sign(&hash, &other));
        assert!(!hash.alike(&one, &other));
        let (one, other) = (hash.bands(&one), hash.bands(&other));
        assert!(one.iter().zip(&other).all(|(one, other)| one != other));
    }

    #[test]
    fn texts_of_few_words_are_compared_by_them() {
        let hash = MinHash::new(0.8, 0);
        let alike = |one: &str, other: &str| hash.alike(&sign(&hash, one), &sign(&hash, other));
        assert!(alike("two words", "two  words"));
        assert!(!alike("two words", "words two"));
        assert!(alike("", " "));
        assert!(!alike("", "word"));
        let chinese = "人工智能是研究使用计算机来模拟人的某些思维过程和智能行为的学科，主要包括计算机实现智能的原理";
        assert!(alike(chinese, &format!("{chinese}。")));
        assert!(!alike(chinese, "你好"));
    }

    #[test]
    fn bands_are_those_of_the_least_cost() {
        for (threshold, want) in [(0.5, (26, 3)), (0.7, (21, 6)), (0.8, (16, 8)), (0.9, (9, 14))] {
            assert_eq!(best_bands(threshold), want, "{threshold}");
        }
    }

    #[test]
    fn signatures_are_those_that_were_written_before() {
        let hash = MinHash::new(0.8, 42);
        assert_eq!(
            sign(&hash, "the same on all machines, always")[..3],
            [2_469_171_117, 2_881_689_115, 2_358_903_988]
        );
        assert_ne!(sign(&MinHash::new(0.8, 43), "a"), sign(&hash, "a"));
    }
}
