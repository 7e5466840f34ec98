//! What a model learns: the loss of a batch, and what an evaluation counts.

pub mod confusion;
pub mod tally;

use nccl_rs::autograd::autocast;
use tch::{Device, Kind, Reduction, Tensor};

pub use tally::Tally;

use crate::data::{
    Fetched, Labels, Samples, collate, collate_causal, collate_packed, collate_pixels,
};
use crate::model::{Dropout, Head, Model, ModelError, Pass};

/// What training brings down.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// Cross-entropy of the right class.
    Classification(Classification),
    /// Cross-entropy of the next token, where it is to be predicted.
    NextToken,
}

/// Settings of a classifier's loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classification {
    /// What a sample of each class counts; 1 without.
    pub class_weights: Option<Vec<f64>>,
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f64,
}

/// Where batches go, and what fills rows up.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Id that fills rows up.
    pub pad: u32,
    /// The model's device.
    pub device: Device,
    /// Put the sequences of a batch one behind the other into one row, instead of filling up.
    pub packed: bool,
    /// Compute in bfloat16 where that is safe (autocast).
    pub bf16: bool,
}

impl Place {
    /// Rows filled up with `pad`, float32.
    pub fn new(pad: u32, device: Device) -> Self {
        Self { pad, device, packed: false, bf16: false }
    }

    /// Runs a forward pass in this place's precision.
    pub fn compute<T>(
        &self,
        forward: impl FnOnce() -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        if self.bf16 { autocast(self.device, Kind::BFloat16, forward)? } else { forward() }
    }
}

impl Objective {
    /// What a model with this head learns by itself.
    pub fn of(head: &Head) -> Self {
        match head {
            Head::Classifier(_) => Self::Classification(Classification::default()),
            Head::CausalLm => Self::NextToken,
        }
    }

    /// What a sample counts in the mean: its tokens to predict, or its class's weight.
    pub fn weight(&self, samples: &Samples, sample: u32) -> f64 {
        match self {
            Self::NextToken => samples.target_tokens(sample) as f64,
            Self::Classification(Classification { class_weights: Some(weights), .. }) => {
                let class = usize::try_from(samples.class(sample)).unwrap_or(usize::MAX);
                weights.get(class).copied().unwrap_or(1.0)
            }
            Self::Classification(_) => 1.0,
        }
    }

    /// Sum of the weighted losses of a batch, a scalar in f32 with its gradient.
    pub fn loss_sum(
        &self,
        model: &Model,
        batch: &Fetched,
        place: Place,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        match self {
            Self::Classification(settings) => {
                let (logits, targets) = classes(model, batch, place, dropout)?;
                settings.loss_sum(&logits, &targets)
            }
            Self::NextToken => {
                let (logits, targets) = next_tokens(model, batch, place, dropout)?;
                cross_entropy_sum(&logits, &targets)
            }
        }
    }

    /// Nothing counted yet, for a model of these classes.
    pub fn empty_tally(&self, labels: &Labels) -> Tally {
        match self {
            Self::Classification(_) => Tally::classes(labels.len()),
            Self::NextToken => Tally::tokens(),
        }
    }

    /// Counts a batch. The loss is the plain one: without class weights and smoothing.
    pub fn count(
        &self,
        model: &Model,
        batch: &Fetched,
        place: Place,
        tally: &mut Tally,
    ) -> Result<(), ModelError> {
        let (logits, targets) = match self {
            Self::Classification(_) => classes(model, batch, place, Dropout::Off)?,
            Self::NextToken => next_tokens(model, batch, place, Dropout::Off)?,
        };
        let loss_sum = f64::try_from(&cross_entropy_sum(&logits, &targets)?)?;
        let answers = logits.f_argmax(1, false)?;
        if *self == Self::NextToken {
            let hits = answers.f_eq_tensor(&targets)?.f_sum(Kind::Int64)?;
            tally.add_tokens(
                loss_sum,
                targets.numel() as u64,
                i64::try_from(&hits)?.unsigned_abs(),
            );
        } else {
            let answers: Vec<i64> = Vec::try_from(&answers)?;
            let truths = batch.sequences().map(|sequence| sequence.class);
            tally.add_classes(loss_sum, truths.zip(answers));
        }
        Ok(())
    }
}

impl Classification {
    fn loss_sum(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor, ModelError> {
        let weights = self.class_weights.as_ref().map(|weights| {
            Tensor::f_from_slice(weights)?.f_to_kind(Kind::Float)?.f_to_device(logits.device())
        });
        let weights = weights.transpose()?;
        let sum = Reduction::Sum;
        Ok(logits.f_cross_entropy_loss(
            targets,
            weights.as_ref(),
            sum,
            -100,
            self.label_smoothing,
        )?)
    }
}

/// Logits f32 `[B, C]` and classes `[B]`.
fn classes(
    model: &Model,
    batch: &Fetched,
    place: Place,
    dropout: Dropout,
) -> Result<(Tensor, Tensor), ModelError> {
    let truths: Vec<i64> = batch.sequences().map(|sequence| sequence.class).collect();
    let targets = Tensor::f_from_slice(&truths)?.f_to_device(place.device)?;
    let logits = if let Some(pixels) = collate_pixels(batch, place.device)? {
        model.classify_pixels(&pixels, dropout)?
    } else {
        model.logits(&collate(&batch.ids(), place.pad, place.device)?, dropout)?
    };
    Ok((logits.f_to_kind(Kind::Float)?, targets))
}

/// Logits f32 `[N, V]` where a token is to be predicted, and these tokens `[N]`.
fn next_tokens(
    model: &Model,
    batch: &Fetched,
    place: Place,
    dropout: Dropout,
) -> Result<(Tensor, Tensor), ModelError> {
    let mut rows = if place.packed {
        collate_packed(batch, place.device)?
    } else {
        collate_causal(batch, place.pad, place.device)?
    };
    let mut pass = if let Some(lengths) = rows.lengths.take() {
        Pass::packed(model.network(), lengths, place.device, dropout)?
    } else {
        let tokens = rows.input_ids.size()[1];
        Pass::decoder(model.network(), tokens, place.device, dropout)?
    };
    pass.select = Some(rows.select);
    let logits = model.forward(&rows.input_ids, &pass)?.f_to_kind(Kind::Float)?;
    Ok((logits, rows.targets))
}

/// Sum over rows of the cross-entropy of `logits [N, C]` against `[N]`.
fn cross_entropy_sum(logits: &Tensor, targets: &Tensor) -> Result<Tensor, ModelError> {
    Ok(logits.f_cross_entropy_loss::<Tensor>(targets, None, Reduction::Sum, -100, 0.0)?)
}
