//! What a compressed model does as the original does, and how fast either is.

use std::time::Instant;

use crate::data::{Fetched, Samples};
use crate::error::Error;
use crate::model::{Head, Model};
use crate::objective::{Place, answers};

/// Rows whose answers are timed.
const TIMED: u32 = 21;

/// Two models beside each other on the same rows, and where each computes.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// The original.
    pub before: (&'a Model, Place),
    /// The compressed one.
    pub after: (&'a Model, Place),
}

/// Median seconds of one row's forward pass.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Of the original.
    pub before: f64,
    /// Of the compressed model.
    pub after: f64,
}

impl Pair<'_> {
    /// Share of answers that are the same: of rows, or of a language model's tokens.
    pub fn agreement(&self, samples: &Samples, batch: usize) -> Result<f64, Error> {
        // A language model's answers are as wide as its vocabulary before they are chosen.
        let batch = if self.before.0.head == Head::CausalLm { 1 } else { batch };
        let all: Vec<u32> = (0..samples.len()).collect();
        let (mut same, mut asked) = (0, 0);
        let mut fetched = Fetched::default();
        for rows in all.chunks(batch.max(1)) {
            samples.fetch(rows, &mut fetched)?;
            let [before, after] = [self.before, self.after]
                .map(|(model, place)| tch::no_grad(|| answers(model, &fetched, place)));
            let (before, after) = (before?, after?);
            same += i64::try_from(&before.f_eq_tensor(&after)?.f_sum(tch::Kind::Int64)?)?;
            asked += i64::try_from(before.numel()).unwrap_or(i64::MAX);
        }
        Ok(same as f64 / (asked as f64).max(1.0))
    }

    /// Both models in turn, a row at a time, so that what else the machine does slows both.
    pub fn latency(&self, samples: &Samples) -> Result<Latency, Error> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut fetched = Fetched::default();
        for row in 0..samples.len().min(TIMED) {
            samples.fetch(&[row], &mut fetched)?;
            for ((model, place), times) in [(self.before, &mut before), (self.after, &mut after)] {
                let began = Instant::now();
                let _ = tch::no_grad(|| answers(model, &fetched, place))?;
                times.push(began.elapsed().as_secs_f64());
            }
        }
        Ok(Latency { before: median(before), after: median(after) })
    }
}

/// 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
