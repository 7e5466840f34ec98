//! Networks of tables, which libtorch computes on CPUs.
//!
//! ```text
//! tensors: names and files    net: rows -> raw scores    explain: what moves a raw score
//! train: rows -> a network    checkpoint: where training is
//! ```
//!
//! Invariant: a network's bytes follow from its rows, settings and threads alone, not from how often its
//! training ended and went on. What is drawn is a function of the seed and of where in the run it is
//! drawn, so that no generator has to be kept.

mod checkpoint;
mod explain;
mod net;
mod tensors;
mod train;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hearth_tabular::{Model, Network, NetworkConfig, Scorer, TabularError};
use tch::Tensor;

use crate::error::Error;
use crate::onnx::Graph;

pub(super) use checkpoint::Checkpoint;
pub(super) use net::size;
use net::{Batch, Net, Noise};
pub(crate) use tensors::NetworkError;
use tensors::{Maker, Source, pack, unpack, values};
pub(super) use train::{Asked, Evaluation, Told, learn};

/// Rows that are computed at a time.
pub(crate) const AT_ONCE: usize = 1024;

/// Reads the directory of a model of tables, be it of trees or of a network.
///
/// # Errors
///
/// Those of [`Model::load_with`].
pub fn load(directory: &Path) -> Result<Model, TabularError> {
    load_by(directory, |_| ())
}

/// As [`load`]; `look` sees a network on the way.
pub(super) fn load_by(
    directory: &Path,
    look: impl FnOnce(&TableNetwork),
) -> Result<Model, TabularError> {
    Model::load_with(directory, |config, classes, bytes| {
        let network = TableNetwork::read(config, classes, bytes);
        let network = network.map_err(|error| error.to_string())?;
        look(&network);
        Ok(Box::new(network))
    })
}

/// A network with what it takes of rows.
pub(super) struct TableNetwork {
    config: NetworkConfig,
    /// libtorch's tensors are of one thread at a time; each pass uses several cores.
    net: Mutex<Net>,
}

impl fmt::Debug for TableNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableNetwork").field("shape", &self.config.shape).finish_non_exhaustive()
    }
}

impl TableNetwork {
    /// Of a network whose weights do not change any more.
    fn new(config: NetworkConfig, net: Net) -> Result<Self, NetworkError> {
        for parameter in net.parameters() {
            let _ = parameter.tensor.f_set_requires_grad(false)?;
        }
        Ok(Self { config, net: Mutex::new(net) })
    }

    fn read(config: &NetworkConfig, classes: usize, bytes: &[u8]) -> Result<Self, NetworkError> {
        let (tensors, _) = unpack(bytes, "format")?;
        let net = Net::new(config, classes, Maker::new(Source::Read(tensors)))?;
        Self::new(config.clone(), net)
    }

    /// As an ONNX file; its configuration is among the notes.
    pub(super) fn onnx(&self) -> Result<Vec<u8>, NetworkError> {
        let mut graph = Graph::new(self.config.shape.name());
        self.net.lock().unwrap_or_else(PoisonError::into_inner).describe(&mut graph)?;
        let config = serde_json::json!(self.config).to_string();
        let too_large = || NetworkError::Weights("its ONNX file would be larger than 2 GiB".into());
        graph.into_file(&[("network", &config)]).ok_or_else(too_large)
    }

    fn batch(&self, values: &[f64], rows: usize) -> Result<Batch, NetworkError> {
        Ok(Batch::new(&self.config, &self.config.encode(values), rows)?)
    }

    /// Calls `compute` with some rows at a time, and joins what it gives.
    fn by_parts(
        &self,
        given: &[f64],
        compute: impl Fn(&Net, &Batch, usize) -> Result<Vec<f64>, NetworkError>,
    ) -> Result<Vec<f64>, NetworkError> {
        let net = self.net.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        let width = self.config.columns.len().max(1);
        for (part, of) in given.chunks(width * AT_ONCE).enumerate() {
            let batch = self.batch(of, of.len() / width)?;
            all.extend(compute(&net, &batch, part * AT_ONCE)?);
        }
        Ok(all)
    }
}

impl Scorer for TableNetwork {
    fn scores(&self, given: &[f64]) -> Result<Vec<f64>, TabularError> {
        let scores = tch::no_grad(|| {
            self.by_parts(given, |net, batch, _| {
                let scores = net.score(&net.embed(batch)?, &mut Noise::Off)?;
                let scores = values(&scores)?;
                Ok(scores.into_iter().map(|score| self.config.unscaled(f64::from(score))).collect())
            })
        });
        scores.map_err(failed("predict"))
    }
}

impl Network for TableNetwork {
    fn contributions(&self, given: &[f64], classes: &[usize]) -> Result<Vec<f64>, TabularError> {
        let base = Batch::new(&self.config, &self.config.baseline(), 1);
        let base = base.map_err(|error| failed("explain")(error.into()))?;
        let told = self.by_parts(given, |net, batch, first| {
            let rows = classes.len().min(first + AT_ONCE);
            let explained = explain::gradients(net, (batch, &base), &classes[first..rows])?;
            Ok(explain::told(&explained, &self.config))
        });
        told.map_err(failed("explain"))
    }

    fn weights(&self) -> Result<Vec<u8>, TabularError> {
        let net = self.net.lock().unwrap_or_else(PoisonError::into_inner);
        let named: Vec<(String, Tensor)> = net
            .parameters()
            .iter()
            .map(|parameter| (parameter.name.clone(), parameter.tensor.shallow_clone()))
            .collect();
        pack(&named, ("format", "pt")).map_err(failed("write its weights"))
    }
}

impl From<NetworkError> for Error {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Torch(error) => Self::Torch(error),
            NetworkError::Weights(detail) => Self::Internal(detail),
        }
    }
}

fn failed(doing: &'static str) -> impl Fn(NetworkError) -> TabularError {
    move |error| {
        // libtorch appends a C++ stack trace.
        let detail = error.to_string().lines().next().unwrap_or_default().to_owned();
        TabularError::Network { doing, detail }
    }
}
