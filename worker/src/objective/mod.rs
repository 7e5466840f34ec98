//! What a model learns: the loss of a batch, and what an evaluation counts.

mod classification;
pub mod confusion;
mod next_token;
mod preference;
pub mod tally;
mod teacher;

use nccl_rs::autograd::autocast;
use tch::{Device, Kind, Tensor};

pub use classification::{Classification, probabilities};
pub use next_token::NextToken;
pub use preference::{Preference, Reference, log_probs};
pub use tally::Tally;
pub use teacher::Teacher;

use crate::data::{CausalBatch, Fetched, Labels, Samples, collate_causal, collate_packed};
use crate::model::{Dropout, Head, Model, ModelError, Output, Pass};

/// What training brings down.
#[derive(Clone, Debug)]
pub enum Objective {
    /// Cross-entropy of the right class.
    Classification(Classification),
    /// Cross-entropy of the next token, where it is to be predicted.
    NextToken(NextToken),
    /// The better of two answers.
    Preference(Preference),
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
    /// From which probability on a classifier's answer is the second of two classes, and not the
    /// likelier one.
    pub threshold: Option<f64>,
}

impl Place {
    /// Rows filled up with `pad`, float32.
    pub fn new(pad: u32, device: Device) -> Self {
        Self { pad, device, packed: false, bf16: false, threshold: None }
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
            Head::CausalLm => Self::NextToken(NextToken::default()),
        }
    }

    /// What a sample counts in the mean: its tokens to predict, its class's weight, or 1.
    pub fn weight(&self, samples: &Samples, sample: u32) -> f64 {
        match self {
            Self::NextToken(_) => samples.target_tokens(sample) as f64,
            Self::Classification(settings) => settings.weight(samples.class(sample)),
            Self::Preference(_) => 1.0,
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
            Self::Classification(settings) => settings.loss_sum(model, batch, place, dropout),
            Self::NextToken(settings) => settings.loss_sum(model, batch, place, dropout),
            Self::Preference(settings) => settings.loss_sum(model, batch, place),
        }
    }

    /// Nothing counted yet, for a model of these classes.
    pub fn empty_tally(&self, labels: &Labels) -> Tally {
        match self {
            Self::Classification(_) => Tally::classes(labels.len()),
            Self::NextToken(_) => Tally::tokens(),
            Self::Preference(_) => Tally::pairs(),
        }
    }

    /// Counts a batch. The loss is the plain one of the data: without class weights, smoothing and
    /// teacher.
    pub fn count(
        &self,
        model: &Model,
        batch: &Fetched,
        place: Place,
        tally: &mut Tally,
    ) -> Result<(), ModelError> {
        match self {
            Self::Classification(_) => classification::count(model, batch, place, tally),
            Self::NextToken(_) => next_token::count(model, batch, place, tally),
            Self::Preference(settings) => settings.count(model, batch, place, tally),
        }
    }
}

/// What a model answers, i64: of each row the class `[B]`, of each token to predict the likeliest
/// `[N]`.
pub fn answers(model: &Model, batch: &Fetched, place: Place) -> Result<Tensor, ModelError> {
    match model.head {
        Head::Classifier(_) => classification::answers(model, batch, place),
        Head::CausalLm => {
            let rows = causal(batch, place)?;
            let logits = decode(model, &rows, Dropout::Off, Output::Logits)?;
            Ok(logits.f_argmax(-1, false)?)
        }
    }
}

/// A batch for a decoder, packed where the place says so.
fn causal(batch: &Fetched, place: Place) -> Result<CausalBatch, ModelError> {
    Ok(if place.packed {
        collate_packed(batch, place.device)?
    } else {
        collate_causal(batch, place.pad, place.device)?
    })
}

/// A pass of a decoder over `batch` that gives `output` of the tokens to predict.
fn decode(
    model: &Model,
    batch: &CausalBatch,
    dropout: Dropout,
    output: Output,
) -> Result<Tensor, ModelError> {
    let (network, device) = (model.network(), batch.input_ids.device());
    let mut pass = match &batch.lengths {
        Some(lengths) => Pass::packed(network, lengths.clone(), device, dropout)?,
        None => Pass::decoder(network, batch.input_ids.size()[1], device, dropout)?,
    };
    pass.select = Some(batch.select.shallow_clone());
    pass.output = output;
    model.forward(&batch.input_ids, &pass)
}
