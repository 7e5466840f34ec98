//! Which of many hashes are within a distance of one that came before: multi-index hashing
//! (Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012).
//!
//! A hash is cut into four bands of 16 bits. Where two hashes differ in at most d bits, some band
//! differs in few (pigeonhole): with d = 4a + b, 0 ≤ b < 4, one of the first b + 1 bands in at most
//! a, or one of the others in at most a - 1 (proposition 2 there). So all values of a band within
//! that radius are looked up, and the hashes that have them compared whole. For d = 16 that is
//! 4,608 values, for d = 8 it is 188, for d ≤ 3 d + 1. While there are fewer hashes than that is
//! worth, each is compared with all.

use super::hash::distance;

/// Bands of a hash.
const BANDS: usize = 4;
/// Values that a band may have.
const VALUES: usize = 1 << 16;

/// Hashes that are compared one after another in the time that looking a value up takes.
const SCANNED: usize = 256;

/// Hashes that stayed. Each takes 56 to 112 bytes, and the index 6 MiB besides.
#[derive(Clone, Debug)]
pub struct NearHashes {
    distance: u32,
    /// By number.
    hashes: Vec<u64>,
    /// Below so many hashes, all are compared.
    scan_below: usize,
    /// By band and its value.
    buckets: Vec<Vec<Bucket>>,
    /// By band: what a value may differ by, `None` where the band need not be looked at.
    radii: [Option<u32>; BANDS],
}

/// The hashes that have a value in a band, in the order in which they came. They lie side by side,
/// since looking them up waits for memory: in chains, it takes several times as long.
type Bucket = Vec<Entry>;

/// A hash and its number, in 12 bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    halves: [u32; 2],
    number: u32,
}

impl Entry {
    fn hash(self) -> u64 {
        u64::from(self.halves[0]) << 32 | u64::from(self.halves[1])
    }
}

impl NearHashes {
    /// For hashes that say the same where at most `distance` of their 64 bits differ.
    pub fn new(distance: u32) -> Self {
        let bands = BANDS as u32;
        let radii = std::array::from_fn(|band| {
            let first = (band as u32) <= distance % bands;
            if first { Some(distance / bands) } else { (distance / bands).checked_sub(1) }
        });
        let buckets = vec![vec![Bucket::new(); VALUES]; BANDS];
        let mut values = 0;
        for radius in radii.into_iter().flatten() {
            each_within(0, radius, &mut |_| values += 1);
        }
        Self { distance, hashes: Vec::new(), scan_below: values * SCANNED, buckets, radii }
    }

    /// Hashes that stayed so far.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether none stayed.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Whether a hash stays: none that stayed before is within the distance. The number of the
    /// first that is, otherwise; numbers are those of hashes that stayed, from 0.
    ///
    /// Hashes are given in the order of their pictures, so that the first of some that are alike
    /// stays, whatever there is to either side.
    ///
    /// # Panics
    ///
    /// Where 2^32 hashes stayed: they take more than 192 GiB.
    pub fn stay(&mut self, hash: u64) -> Result<(), usize> {
        let scans = self.hashes.len() < self.scan_below;
        let first = if scans { self.scan(hash) } else { self.look_up(hash) };
        if let Some(first) = first {
            return Err(first);
        }
        let number =
            u32::try_from(self.hashes.len()).expect("fewer than 2^32 hashes fit in memory");
        let entry = Entry { halves: [(hash >> 32) as u32, hash as u32], number };
        for (buckets, value) in self.buckets.iter_mut().zip(bands(hash)) {
            buckets[usize::from(value)].push(entry);
        }
        self.hashes.push(hash);
        Ok(())
    }

    fn scan(&self, hash: u64) -> Option<usize> {
        self.hashes.iter().position(|other| distance(hash, *other) <= self.distance)
    }

    fn look_up(&self, hash: u64) -> Option<usize> {
        let mut first = None;
        for (band, value) in bands(hash).into_iter().enumerate() {
            let Some(radius) = self.radii[band] else { continue };
            each_within(value, radius, &mut |value| {
                let bucket = &self.buckets[band][usize::from(value)];
                let near =
                    bucket.iter().find(|entry| distance(hash, entry.hash()) <= self.distance);
                if let Some(entry) = near {
                    first = Some(first.map_or(entry.number, |first: u32| first.min(entry.number)));
                }
            });
        }
        first.map(|first| first as usize)
    }
}

fn bands(hash: u64) -> [u16; BANDS] {
    std::array::from_fn(|band| (hash >> (16 * band)) as u16)
}

/// Calls `then` with each value that differs from `value` in at most `radius` bits, once.
fn each_within(value: u16, radius: u32, then: &mut impl FnMut(u16)) {
    for differing in 0..=radius.min(16) {
        let mut mask: u32 = (1 << differing) - 1;
        while mask < 1 << 16 {
            then(value ^ mask as u16);
            if mask == 0 {
                break;
            }
            // The next number with as many ones (Gosper; Hacker's Delight, 2-1).
            let low = mask & mask.wrapping_neg();
            let carried = mask + low;
            mask = carried | (((mask ^ carried) >> 2) / low);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What stays, by comparing all with all.
    fn by_force(hashes: &[u64], most: u32) -> Vec<Result<(), usize>> {
        let mut kept: Vec<u64> = Vec::new();
        let mut stay = |hash: u64| {
            if let Some(first) = kept.iter().position(|other| distance(hash, *other) <= most) {
                return Err(first);
            }
            kept.push(hash);
            Ok(())
        };
        hashes.iter().map(|hash| stay(*hash)).collect()
    }

    /// Hashes of which many are near to one another.
    fn hashes() -> impl Strategy<Value = Vec<u64>> {
        let flips = prop::collection::vec(0_u32..64, 0..20);
        let one = (0_usize..4, flips);
        (any::<[u64; 4]>(), prop::collection::vec(one, 1..120)).prop_map(|(bases, ones)| {
            let flip = |hash, bit| hash ^ 1_u64 << bit;
            ones.into_iter()
                .map(|(base, flips)| flips.into_iter().fold(bases[base], flip))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn finds_what_comparing_all_finds(hashes in hashes(), most in 0_u32..=16) {
            let near = NearHashes::new(most);
            for scan_below in [0, hashes.len() / 2, usize::MAX] {
                let mut near = NearHashes { scan_below, ..near.clone() };
                let seen: Vec<_> = hashes.iter().map(|hash| near.stay(*hash)).collect();
                prop_assert_eq!(seen, by_force(&hashes, most));
            }
        }
    }

    #[test]
    fn values_within_a_radius_are_counted_once() {
        for (radius, want) in [(0, 1), (1, 17), (2, 137), (4, 2517), (16, 65_536)] {
            let mut seen = BTreeSet::new();
            each_within(0xA5C3, radius, &mut |value| assert!(seen.insert(value)));
            assert_eq!(seen.len(), want, "radius {radius}");
            assert!(seen.iter().all(|value| (value ^ 0xA5C3).count_ones() <= radius));
        }
    }

    #[test]
    fn radii_are_the_least_that_miss_nothing() {
        for (most, want) in [
            (0, [Some(0), None, None, None]),
            (3, [Some(0); 4]),
            (4, [Some(1), Some(0), Some(0), Some(0)]),
            (10, [Some(2), Some(2), Some(2), Some(1)]),
            (16, [Some(4), Some(3), Some(3), Some(3)]),
        ] {
            assert_eq!(NearHashes::new(most).radii, want, "distance {most}");
        }
    }

    #[test]
    #[ignore = "measures: cargo test --release -p hearth-prepare -- --ignored --nocapture near"]
    fn many_hashes_near() {
        use rand_chacha::rand_core::{RngCore, SeedableRng};
        for (most, count) in [(4, 1_000_000), (8, 1_000_000), (12, 200_000), (16, 200_000)] {
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
            let mut near = NearHashes::new(most);
            let start = std::time::Instant::now();
            let gone = (0..count).filter(|_| near.stay(random.next_u64()).is_err()).count();
            println!("distance {most}: {gone} of {count} went in {:?}", start.elapsed());
        }
    }
}
