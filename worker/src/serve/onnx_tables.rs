//! A model of tables in ONNX Runtime, as [`super::onnx`] has classifiers: it is read, written as ONNX in
//! memory, and computed there once both were seen to agree. Explanations stay with what read it:
//! networks' need gradients, trees' their paths.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hearth_tabular::{Model, NetworkConfig, Recipe, Scorer, TabularError};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor as OrtTensor;
use tch::Tensor;

use super::onnx::{Place, check, session};
use crate::error::Error;
use crate::model::ModelError;
use crate::tabular::neural::AT_ONCE;
use crate::tabular::onnx::{self, Exported};

/// Reads the directory of a model of tables, and has ONNX Runtime compute it, if it gives the same
/// scores as the model.
pub fn load(directory: &Path, place: &Place) -> Result<Model, Error> {
    let Exported { model, file, samples } = onnx::read(directory)?;
    let scorer = OnnxScorer::new(&model, session(&file, place)?);
    drop(file);
    scorer.agree(&model, &samples)?;
    Ok(model.scored_by(Box::new(scorer)))
}

/// A model that ONNX Runtime computes.
#[derive(Debug)]
struct OnnxScorer {
    session: Mutex<Session>,
    /// Features of a row.
    features: usize,
    /// How a network is given rows; trees take them as they are.
    network: Option<NetworkConfig>,
}

impl OnnxScorer {
    fn new(model: &Model, session: Session) -> Self {
        let network = match &model.parts().recipe {
            Recipe::Trees(_) => None,
            Recipe::Network(config) => Some(config.clone()),
        };
        let features = model.parts().features.features.len().max(1);
        Self { session: Mutex::new(session), features, network }
    }

    /// Compares the scores of rows, all together, and of the first alone.
    fn agree(&self, model: &Model, samples: &[f64]) -> Result<(), Error> {
        let learned = |score| self.network.as_ref().map_or(score, |network| network.scaled(score));
        for rows in [samples, &samples[..self.features]] {
            let [given, wanted] = [self.scores(rows)?, model.raw_scores(rows)?].map(|scores| {
                let scores: Vec<f64> = scores.into_iter().map(learned).collect();
                Tensor::f_from_slice(&scores).map_err(ModelError::from)
            });
            check(&given?, &wanted?)?;
        }
        Ok(())
    }

    /// Scores of some rows.
    fn run(&self, values: &[f64]) -> Result<Vec<f64>, ort::Error> {
        let rows = values.len() / self.features;
        let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(3);
        if let Some(network) = &self.network {
            let codes = network.encode(values);
            let (numbers, categories) = (network.numbers(), network.categories().len());
            if numbers > 0 {
                let shape = [rows, numbers];
                inputs.push(("numbers", OrtTensor::from_array((shape, codes.numbers))?.into()));
                inputs.push(("missing", OrtTensor::from_array((shape, codes.missing))?.into()));
            }
            if categories > 0 {
                let shape = [rows, categories];
                let codes = OrtTensor::from_array((shape, codes.categories))?;
                inputs.push(("categories", codes.into()));
            }
        } else {
            let given = OrtTensor::from_array(([rows, self.features], values.to_vec()))?;
            inputs.push(("features", given.into()));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(inputs)?;
        let (_, scores) = outputs["scores"].try_extract_tensor::<f32>()?;
        let unscaled = |score: &f32| {
            let score = f64::from(*score);
            self.network.as_ref().map_or(score, |network| network.unscaled(score))
        };
        Ok(scores.iter().map(unscaled).collect())
    }
}

impl Scorer for OnnxScorer {
    fn scores(&self, given: &[f64]) -> Result<Vec<f64>, TabularError> {
        let mut all = Vec::new();
        for part in given.chunks(self.features * AT_ONCE) {
            let scores = self.run(part);
            let failed = |error: ort::Error| TabularError::Scorer(format!("ONNX Runtime: {error}"));
            all.extend(scores.map_err(failed)?);
        }
        Ok(all)
    }
}
