//! Evaluates a classifier: loss, accuracy, F1.

use std::time::Instant;

use tch::{Device, Kind, Reduction, Tensor};

use super::metrics::Confusion;
use crate::data::{Fetched, Labels, Samples, collate};
use crate::error::Error;
use crate::event::EvalMetrics;
use crate::model::{Dropout, Model, ModelError};

/// How to evaluate.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions {
    /// Samples in one forward pass.
    pub batch_size: usize,
    /// Id that fills rows up.
    pub pad: u32,
    /// Where the model is.
    pub device: Device,
    /// This process's share: every `shares`-th batch from `share` on.
    pub share: usize,
    /// Processes that evaluate together.
    pub shares: usize,
}

/// Sums over samples, to be added over ranks.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    /// Sum of cross-entropies, in nats.
    pub loss_sum: f64,
    /// Answers.
    pub confusion: Confusion,
}

/// Evaluates one process's share of `samples`. Batches are of like length;
/// `after_batch` is called after each.
pub fn tally(
    model: &Model,
    samples: &Samples,
    options: &EvalOptions,
    after_batch: &mut dyn FnMut(),
) -> Result<Tally, Error> {
    let mut order: Vec<u32> = (0..samples.len()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(samples.length(*index)), *index));
    let mut fetched = Fetched::default();
    let mut tally = Tally { loss_sum: 0.0, confusion: Confusion::new(model.labels().len()) };
    let own = order.chunks(options.batch_size).skip(options.share).step_by(options.shares);
    for indices in own {
        samples.fetch(indices, &mut fetched)?;
        tch::no_grad(|| add_batch(model, &fetched, options, &mut tally))?;
        after_batch();
    }
    Ok(tally)
}

fn add_batch(
    model: &Model,
    batch: &Fetched,
    options: &EvalOptions,
    tally: &mut Tally,
) -> Result<(), ModelError> {
    let truths: Vec<i64> = batch.sequences().map(|sequence| sequence.class).collect();
    let batch = collate(&batch.ids(), options.pad, options.device)?;
    let logits = model.logits(&batch, Dropout::Off)?.f_to_kind(Kind::Float)?;
    let targets = Tensor::f_from_slice(&truths)?.f_to_device(options.device)?;
    let loss = cross_entropy_sum(&logits, &targets)?;
    tally.loss_sum += f64::try_from(&loss)?;
    let answers: Vec<i64> = Vec::try_from(&logits.f_argmax(1, false)?)?;
    for (truth, answer) in truths.iter().zip(&answers) {
        let class = |id: i64| usize::try_from(id).unwrap_or(0);
        tally.confusion.add(class(*truth), class(*answer));
    }
    Ok(())
}

/// Sum over rows of the cross-entropy of `logits [B, C]` against `[B]`.
pub(super) fn cross_entropy_sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor, ModelError> {
    Ok(logits.f_cross_entropy_loss::<Tensor>(targets, None, Reduction::Sum, -100, 0.0)?)
}

impl Tally {
    /// As a vector that can be added element by element.
    pub fn to_sums(&self) -> Vec<f64> {
        let counts = self.confusion.counts().iter().map(|count| *count as f64);
        std::iter::once(self.loss_sum).chain(counts).collect()
    }

    /// Back from [`Self::to_sums`]; `None` where the length is not that of
    /// `classes` classes.
    pub fn from_sums(classes: usize, sums: &[f64]) -> Option<Self> {
        let (loss_sum, counts) = sums.split_first()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "sums of counts, exact up to 2^53"
        )]
        let counts = counts.iter().map(|count| *count as u64).collect();
        let confusion = Confusion::from_counts(classes, counts)?;
        Some(Self { loss_sum: *loss_sum, confusion })
    }

    /// The figures that people read.
    pub fn metrics(&self, labels: &Labels, seconds: f64) -> EvalMetrics {
        let confusion = &self.confusion;
        let samples = confusion.total();
        let by_class = labels.names().iter().enumerate();
        EvalMetrics {
            loss: self.loss_sum / samples.max(1) as f64,
            accuracy: confusion.accuracy(),
            f1: confusion.f1_headline(),
            f1_macro: confusion.f1_macro(),
            samples,
            f1_by_class: by_class.map(|(id, name)| (name.clone(), confusion.f1(id))).collect(),
            seconds,
        }
    }
}

/// Evaluates all of `samples` in this process.
pub fn evaluate(
    model: &Model,
    samples: &Samples,
    batch_size: usize,
    pad: u32,
    device: Device,
) -> Result<EvalMetrics, Error> {
    let started = Instant::now();
    let options = EvalOptions { batch_size, pad, device, share: 0, shares: 1 };
    let tally = tally(model, samples, &options, &mut || ())?;
    Ok(tally.metrics(model.labels(), started.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_over_ranks() {
        let mut first = Tally { loss_sum: 1.5, confusion: Confusion::new(2) };
        first.confusion.add(1, 1);
        let mut second = Tally { loss_sum: 0.5, confusion: Confusion::new(2) };
        second.confusion.add(0, 1);
        let sums: Vec<f64> =
            first.to_sums().iter().zip(second.to_sums()).map(|(a, b)| a + b).collect();
        let both = Tally::from_sums(2, &sums).unwrap();
        let metrics = both.metrics(&Labels::new(vec!["n".into(), "p".into()]), 0.0);
        assert_eq!((metrics.samples, metrics.loss, metrics.accuracy), (2, 1.0, 0.5));
        assert_eq!(Tally::from_sums(3, &sums), None);
    }
}
