//! Evaluates a model on samples.

use std::time::Instant;

use tch::Device;

use crate::data::{Fetched, Samples};
use crate::error::Error;
use crate::event::EvalMetrics;
use crate::model::{Model, ModelError};
use crate::objective::{Objective, Place, Tally, log_probs, probabilities};

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
    /// Whether each forward pass takes all of them: then one without a batch of its own makes
    /// one that does not count.
    pub in_lockstep: bool,
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
    let order = by_length(samples);
    let mut fetched = Fetched::default();
    let mut tally = objective.empty_tally(model.labels());
    let batches: Vec<&[u32]> = order.chunks(options.batch_size).collect();
    for round in batches.chunks(options.shares) {
        let own = round.get(options.share);
        if own.is_none() && !options.in_lockstep {
            break;
        }
        let mut uncounted = objective.empty_tally(model.labels());
        let tally = if own.is_some() { &mut tally } else { &mut uncounted };
        samples.fetch(own.unwrap_or(&round[0]), &mut fetched)?;
        let place = options.place;
        match tch::no_grad(|| place.compute(|| objective.count(model, &fetched, place, tally))) {
            // A rank that has the last stage counts.
            Ok(()) | Err(ModelError::Elsewhere) => {}
            Err(error) => return Err(error.into()),
        }
        after_batch();
    }
    Ok(tally)
}

/// Log-probability of each sequence of `samples`, in order, that this process's share holds; NaN of
/// the others.
pub fn reference(
    model: &Model,
    samples: &Samples,
    options: &EvalOptions,
    after_batch: &mut dyn FnMut(),
) -> Result<Vec<f32>, Error> {
    let (each, place) = (samples.per_sample() as usize, options.place);
    let mut found = vec![f32::NAN; samples.len() as usize * each];
    let mut fetched = Fetched::default();
    let order = by_length(samples);
    for indices in order.chunks(options.batch_size).skip(options.share).step_by(options.shares) {
        samples.fetch(indices, &mut fetched)?;
        let values = tch::no_grad(|| place.compute(|| log_probs(model, &fetched, place)))?;
        let values: Vec<f32> = Vec::try_from(&values)?;
        for (index, values) in indices.iter().zip(values.chunks(each)) {
            let first = *index as usize * each;
            found[first..first + each].copy_from_slice(values);
        }
        after_batch();
    }
    Ok(found)
}

/// Probabilities of all classes that a classifier gives each of `samples`, in order.
pub fn scores(
    model: &Model,
    samples: &Samples,
    options: &EvalOptions,
    after_batch: &mut dyn FnMut(),
) -> Result<Vec<Vec<f32>>, Error> {
    let mut found = vec![Vec::new(); samples.len() as usize];
    let mut fetched = Fetched::default();
    for indices in by_length(samples).chunks(options.batch_size) {
        samples.fetch(indices, &mut fetched)?;
        let (place, of) = (options.place, &fetched);
        let values = tch::no_grad(|| place.compute(|| probabilities(model, of, place)))?;
        let values = Vec::<Vec<f32>>::try_from(&values.f_to(Device::Cpu)?)?;
        for (index, values) in indices.iter().zip(values) {
            found[*index as usize] = values;
        }
        after_batch();
    }
    Ok(found)
}

/// All samples, the longest first.
fn by_length(samples: &Samples) -> Vec<u32> {
    let mut order: Vec<u32> = (0..samples.len()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(samples.length(*index)), *index));
    order
}

/// Evaluates all of `samples` in this process.
pub fn evaluate(
    model: &Model,
    samples: &Samples,
    batch_size: usize,
    place: Place,
) -> Result<EvalMetrics, Error> {
    let started = Instant::now();
    let options = EvalOptions { batch_size, place, share: 0, shares: 1, in_lockstep: false };
    let tally = tally(model, &Objective::of(&model.head), samples, &options, &mut || ())?;
    Ok(tally.metrics(model.labels(), started.elapsed().as_secs_f64()))
}
