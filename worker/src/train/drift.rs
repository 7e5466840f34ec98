//! What servers compare requests with: how inputs of training rows are spread, and what the weights to
//! export say of rows that were held out.
//!
//! What inputs are like was measured when they were read, so no text is tokenized and no picture decoded
//! for that; it is read of 10,000 rows at most. Answers cost forward passes: those of 2,000 rows at most,
//! on the leading rank.

use super::session::Session;
use crate::data::facts::Facts;
use crate::data::order::{generator, shuffle};
use crate::data::{DataError, Samples};
use crate::error::Error;
use crate::event::Phase;
use crate::export::decision::decided;
use crate::export::drift::{Answered, RowsOf, RowsSide};
use crate::export::{Decision, DriftReference};
use crate::model::Head;

/// Most training rows whose inputs are told.
const MOST_INPUTS: usize = 10_000;
/// Most rows that are answered: of so many, chance moves an index of ten bins by 0.005.
const MOST_ANSWERS: usize = 2_000;

impl Session<'_> {
    /// Of a classifier, whose answers `decision` may decide.
    pub(super) fn drift_reference(
        &mut self,
        decision: Option<&Decision>,
    ) -> Result<Option<DriftReference>, Error> {
        if !matches!(self.trainer.model.head, Head::Classifier(_)) {
            return Ok(None);
        }
        self.enter(Phase::Evaluating);
        let seed = self.config.seed;
        let (sampled, inputs_of) = drawn((&self.data.train, RowsSide::Train), MOST_INPUTS, seed);
        let inputs = facts(&sampled)?;
        let (judged, outputs_of) = match &self.data.eval {
            Some(eval) => drawn((eval, RowsSide::Eval), MOST_ANSWERS, seed),
            None => drawn((&self.data.train, RowsSide::Train), MOST_ANSWERS, seed),
        };
        let threshold = decision.map(|decision| decision.threshold.value);
        let answers = self.scores(&judged)?;
        let answers: Vec<Answered> =
            answers.iter().map(|scores| Answered::of(scores, decided(scores, threshold))).collect();
        let labels = self.trainer.model.labels().names().len();
        let names = self.encoder.facts();
        let inputs = (names, &inputs[..], inputs_of);
        Ok(Some(DriftReference::new(inputs, (&answers, labels, outputs_of))))
    }
}

/// Some rows of a side, drawn by `seed`: `most` at most, in their order.
fn drawn((samples, side): (&Samples, RowsSide), most: usize, seed: i64) -> (Samples, RowsOf) {
    let of = samples.len();
    let mut rows: Vec<u32> = (0..of).collect();
    if rows.len() > most {
        shuffle(&mut rows, &mut generator(seed, "drift", 0));
        rows.truncate(most);
        rows.sort_unstable();
    }
    let drawn = samples.subset(&rows);
    let rows = drawn.len();
    (drawn, RowsOf { side, rows, of })
}

fn facts(samples: &Samples) -> Result<Vec<Facts>, DataError> {
    (0..samples.len()).map(|row| samples.facts(row)).collect()
}
