//! Random numbers that follow from a seed and a trial's number alone.

use std::f64::consts::TAU;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// Draws of one trial.
#[derive(Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// Of trial `number` of a search.
    pub fn new(seed: u64, number: u32) -> Self {
        let mut source = ChaCha8Rng::seed_from_u64(seed);
        source.set_stream(number.into());
        Self(source)
    }

    /// 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 to 1, without 1.
    pub fn share(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Of the normal distribution (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let (radius, turn) = (1.0 - self.share(), self.share());
        (-2.0 * radius.ln()).sqrt() * (TAU * turn).cos()
    }

    /// An index, by weights that add up to 1.
    ///
    /// Invariant: there are weights.
    pub fn pick(&mut self, weights: &[f64]) -> usize {
        let mut left = self.share();
        for (index, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return index;
            }
        }
        weights.len() - 1
    }
}
