//! A network of tables in ONNX Runtime, as [`super::onnx`] has classifiers: libtorch reads it, it is
//! written as ONNX in memory, and computed there once both were seen to agree. Explanations stay with
//! libtorch, as they need gradients.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hearth_tabular::{Codes, Encoding, Model, Network, NetworkConfig, Recipe, TabularError};
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor as OrtTensor;
use tch::Tensor;

use super::onnx::{Place, check, session};
use crate::config::setting;
use crate::error::Error;
use crate::model::ModelError;
use crate::tabular::neural::{TableNetwork, load_by};

/// Reads the directory of a network of tables, and has ONNX Runtime compute it, if it gives the same
/// scores as libtorch.
pub fn load(directory: &Path, place: &Place) -> Result<Model, Error> {
    let mut failed = None;
    let model = load_by(directory, |own| match OnnxNetwork::new(own, place) {
        Ok(network) => Ok(Box::new(network)),
        Err(error) => {
            let said = error.to_string();
            failed = Some(error);
            Err(said)
        }
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    let model = model?;
    match model.parts().recipe {
        Recipe::Network(_) => Ok(model),
        Recipe::Trees(_) => Err(setting(
            "serving.runtime",
            "LightGBM computes trees; leave it out, or have a network learn the rows",
        )
        .into()),
    }
}

/// A network that ONNX Runtime computes.
struct OnnxNetwork {
    own: TableNetwork,
    session: Mutex<Session>,
}

impl fmt::Debug for OnnxNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnnxNetwork").field(&self.own).finish()
    }
}

impl OnnxNetwork {
    fn new(own: TableNetwork, place: &Place) -> Result<Self, ModelError> {
        let file = own.onnx().map_err(|error| ModelError::Onnx(error.to_string()))?;
        let session = Mutex::new(session(&file, place)?);
        drop(file);
        let network = Self { own, session };
        network.agree()?;
        Ok(network)
    }

    /// Compares the scores of a few rows, all together, and of the first alone.
    fn agree(&self) -> Result<(), ModelError> {
        let config = self.own.config();
        let rows = samples(config);
        let told = |error: TabularError| ModelError::Onnx(error.to_string());
        for rows in [&rows[..], &rows[..config.columns.len()]] {
            let scores = |network: &dyn Network| -> Result<Tensor, ModelError> {
                let scores = network.scores(rows).map_err(told)?;
                let learned = |score: f64| {
                    config.target.map_or(score, |scale| (score - scale.mean) / scale.deviation)
                };
                let scores: Vec<f64> = scores.into_iter().map(learned).collect();
                Ok(Tensor::f_from_slice(&scores)?)
            };
            check(&scores(self)?, &scores(&self.own)?)?;
        }
        Ok(())
    }

    fn run(&self, codes: Codes, rows: usize) -> Result<Vec<f64>, ort::Error> {
        let config = self.own.config();
        let (numbers, categories) = (config.numbers(), config.categories().len());
        let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(3);
        if numbers > 0 {
            let shape = [rows, numbers];
            inputs.push(("numbers", OrtTensor::from_array((shape, codes.numbers))?.into()));
            inputs.push(("missing", OrtTensor::from_array((shape, codes.missing))?.into()));
        }
        if categories > 0 {
            let shape = [rows, categories];
            inputs.push(("categories", OrtTensor::from_array((shape, codes.categories))?.into()));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = session.run(inputs)?;
        let (_, scores) = outputs["scores"].try_extract_tensor::<f32>()?;
        Ok(scores.iter().map(|score| self.own.unscaled(f64::from(*score))).collect())
    }
}

impl Network for OnnxNetwork {
    fn scores(&self, given: &[f64]) -> Result<Vec<f64>, TabularError> {
        let mut all = Vec::new();
        for (part, rows) in self.own.parts(given) {
            let scores = self.run(self.own.config().encode(part), rows);
            all.extend(scores.map_err(|error| TabularError::Network {
                doing: "predict",
                detail: error.to_string(),
            })?);
        }
        Ok(all)
    }

    fn contributions(&self, given: &[f64], classes: &[usize]) -> Result<Vec<f64>, TabularError> {
        self.own.contributions(given, classes)
    }

    fn weights(&self) -> Result<Vec<u8>, TabularError> {
        self.own.weights()
    }
}

/// Rows of values, `[4, features]`: medians and what is most frequent, the least, the most, and nothing
/// known.
fn samples(config: &NetworkConfig) -> Vec<f64> {
    let code = |code: usize| code as f64;
    let of = |column: &Encoding| match column {
        Encoding::Number { quantiles, .. } => {
            let at = |place: usize| quantiles.get(place).copied().unwrap_or(f64::NAN);
            let last = quantiles.len().saturating_sub(1);
            [at(last / 2), at(0), at(last), f64::NAN]
        }
        Encoding::Category { values, most_frequent } => {
            [code(*most_frequent), 0.0, code(values.saturating_sub(1)), f64::NAN]
        }
    };
    let columns: Vec<[f64; 4]> = config.columns.iter().map(of).collect();
    (0..4).flat_map(|row| columns.iter().map(move |column| column[row])).collect()
}
