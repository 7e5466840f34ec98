//! Evaluates a model on samples.

use std::time::Instant;

use crate::data::{Fetched, Samples};
use crate::error::Error;
use crate::event::EvalMetrics;
use crate::model::Model;
use crate::objective::{Objective, Place, Tally};

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions {
    /// Samples in one forward pass.
    pub batch_size: usize,
    /// Where batches go.
    pub place: Place,
    /// This process's share: every `shares`-th batch from `share` on.
    pub share: usize,
    /// Processes that evaluate together.
    pub shares: usize,
}

/// Evaluates one process's share of `samples`. Batches are of like length;
/// `after_batch` is called after each.
pub fn tally(
    model: &Model,
    objective: &Objective,
    samples: &Samples,
    options: &EvalOptions,
    after_batch: &mut dyn FnMut(),
) -> Result<Tally, Error> {
    let mut order: Vec<u32> = (0..samples.len()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(samples.length(*index)), *index));
    let mut fetched = Fetched::default();
    let mut tally = objective.empty_tally(model.labels());
    let own = order.chunks(options.batch_size).skip(options.share).step_by(options.shares);
    for indices in own {
        samples.fetch(indices, &mut fetched)?;
        let place = options.place;
        tch::no_grad(|| place.compute(|| objective.count(model, &fetched, place, &mut tally)))?;
        after_batch();
    }
    Ok(tally)
}

/// Evaluates all of `samples` in this process.
pub fn evaluate(
    model: &Model,
    samples: &Samples,
    batch_size: usize,
    place: Place,
) -> Result<EvalMetrics, Error> {
    let started = Instant::now();
    let options = EvalOptions { batch_size, place, share: 0, shares: 1 };
    let tally = tally(model, &Objective::of(&model.head), samples, &options, &mut || ())?;
    Ok(tally.metrics(model.labels(), started.elapsed().as_secs_f64()))
}
