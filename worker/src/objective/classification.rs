//! The right class of a text or a picture.

use tch::{Kind, Reduction, Tensor};

use super::{Place, Tally, Teacher};
use crate::data::{Batch, Fetched, collate, collate_pixels};
use crate::model::parts::output::divergence;
use crate::model::{Dropout, Model, ModelError};

/// Settings of a classifier's loss.
#[derive(Clone, Debug, Default)]
pub struct Classification {
    /// What a sample of each class counts; 1 without.
    pub class_weights: Option<Vec<f64>>,
    /// Share of each target that is spread over all classes.
    pub label_smoothing: f64,
    /// A classifier to learn from besides.
    pub teacher: Option<Teacher>,
}

impl Classification {
    /// What a sample of a class counts.
    pub(super) fn weight(&self, class: i64) -> f64 {
        let Some(weights) = &self.class_weights else { return 1.0 };
        usize::try_from(class).ok().and_then(|class| weights.get(class)).copied().unwrap_or(1.0)
    }

    pub(super) fn loss_sum(
        &self,
        model: &Model,
        batch: &Fetched,
        place: Place,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let (input, targets) = input(batch, place)?;
        let logits = input.logits(model, dropout)?;
        let weights = self.class_weights.as_ref().map(|weights| {
            Tensor::f_from_slice(weights)?.f_to_kind(Kind::Float)?.f_to_device(logits.device())
        });
        let weights = weights.transpose()?;
        let (sum, smoothing) = (Reduction::Sum, self.label_smoothing);
        let hard = logits.f_cross_entropy_loss(&targets, weights.as_ref(), sum, -100, smoothing)?;
        let Some(teacher) = &self.teacher else { return Ok(hard) };
        let other = teacher.classes(&input)?;
        let apart = divergence(&logits, &other, teacher.temperature)?;
        // A row counts as much here as there.
        let apart = match &weights {
            Some(weights) => apart.f_mul(&weights.f_index_select(0, &targets)?)?,
            None => apart,
        };
        let soft = apart.f_sum(Kind::Float)?.f_mul_scalar(teacher.alpha)?;
        Ok(hard.f_mul_scalar(1.0 - teacher.alpha)?.f_add(&soft)?)
    }
}

/// Counts a batch by its plain loss.
pub(super) fn count(
    model: &Model,
    batch: &Fetched,
    place: Place,
    tally: &mut Tally,
) -> Result<(), ModelError> {
    let (input, targets) = input(batch, place)?;
    let logits = input.logits(model, Dropout::Off)?;
    let loss = logits.f_cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0)?;
    let answers: Vec<i64> = Vec::try_from(&chosen(&logits, place.threshold)?)?;
    let truths = batch.sequences().map(|sequence| sequence.class);
    tally.add_classes(f64::try_from(&loss)?, truths.zip(answers));
    Ok(())
}

/// The class that is the answer to each row, i64 `[B]`.
pub(super) fn answers(model: &Model, batch: &Fetched, place: Place) -> Result<Tensor, ModelError> {
    let (input, _) = input(batch, place)?;
    chosen(&input.logits(model, Dropout::Off)?, place.threshold)
}

/// Of logits f32 `[B, C]` the likeliest class, i64 `[B]`; of two the one that the threshold says, as
/// [`crate::export::decision::decided`] has it.
fn chosen(logits: &Tensor, threshold: Option<f64>) -> Result<Tensor, ModelError> {
    let Some(threshold) = threshold.filter(|_| logits.size()[1] == 2) else {
        return Ok(logits.f_argmax(1, false)?);
    };
    let second = logits.f_softmax(1, Kind::Float)?.f_select(1, 1)?.f_to_kind(Kind::Double)?;
    Ok(second.f_ge(threshold)?.f_to_kind(Kind::Int64)?)
}

/// Probabilities of the classes of each row, f32 `[B, C]`.
pub fn probabilities(model: &Model, batch: &Fetched, place: Place) -> Result<Tensor, ModelError> {
    let (input, _) = input(batch, place)?;
    Ok(input.logits(model, Dropout::Off)?.f_softmax(-1, Kind::Float)?)
}

/// What a classifier is shown.
pub(super) enum Input {
    Texts(Batch),
    /// f32 `[B, C, H, W]`.
    Pixels(Tensor),
}

impl Input {
    /// f32 `[B, C]`.
    pub(super) fn logits(&self, model: &Model, dropout: Dropout) -> Result<Tensor, ModelError> {
        let logits = match self {
            Self::Texts(rows) => model.logits(rows, dropout)?,
            Self::Pixels(pixels) => model.classify_pixels(pixels, dropout)?,
        };
        Ok(logits.f_to_kind(Kind::Float)?)
    }
}

/// A batch and its classes `[B]`.
fn input(batch: &Fetched, place: Place) -> Result<(Input, Tensor), ModelError> {
    let truths: Vec<i64> = batch.sequences().map(|sequence| sequence.class).collect();
    let targets = Tensor::f_from_slice(&truths)?.f_to_device(place.device)?;
    let input = match collate_pixels(batch, place.device)? {
        Some(pixels) => Input::Pixels(pixels),
        None => Input::Texts(collate(&batch.ids(), place.pad, place.device)?),
    };
    Ok((input, targets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::decision::decided;

    #[test]
    fn a_threshold_chooses_as_servers_do() {
        let rows = [[2.0f32, -1.0], [0.0, 0.01], [-3.0, 1.0], [0.1, 0.0]];
        let logits = Tensor::from_slice2(&rows);
        let softmax = logits.softmax(1, Kind::Float);
        // The last is a probability that is met exactly.
        let met = softmax.double_value(&[3, 1]);
        for threshold in [None, Some(0.04), Some(0.5), Some(0.99), Some(met)] {
            let given = Vec::<i64>::try_from(&chosen(&logits, threshold).unwrap()).unwrap();
            for (row, given) in (0_i64..).zip(given) {
                let scores = Vec::<f32>::try_from(&softmax.get(row)).unwrap();
                let given = usize::try_from(given).unwrap();
                assert_eq!(given, decided(&scores, threshold), "{row} {threshold:?}");
            }
        }
        let three = Tensor::from_slice2(&[[0.0f32, 5.0, 1.0]]);
        assert_eq!(chosen(&three, Some(0.001)).unwrap().int64_value(&[0]), 1);
    }
}
