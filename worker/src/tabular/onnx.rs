//! Models of tables as ONNX files: networks as their layers, trees as [`super::trees`] has them.

use std::path::Path;

use hearth_tabular::{Encoding, Model, NetworkConfig, Recipe};

use super::{neural, trees};
use crate::error::Error;
use crate::onnx::Graph;

/// A model of tables, and what computes the same.
pub(crate) struct Exported {
    /// As its directory has it.
    pub model: Model,
    /// Its ONNX file.
    pub file: Vec<u8>,
    /// Rows of values, `[rows, features]`, that are computed in many ways.
    pub samples: Vec<f64>,
}

/// Reads a model's directory.
///
/// # Errors
///
/// Those of [`neural::load`], and a file that would be larger than a protobuf can be.
pub(crate) fn read(directory: &Path) -> Result<Exported, Error> {
    let mut network = None;
    let model = neural::load_by(directory, |own| network = Some(own.onnx()))?;
    let (file, samples) = match (&model.parts().recipe, network) {
        (Recipe::Network(config), Some(file)) => (file?, of_network(config)),
        _ => of_trees(&model)?,
    };
    Ok(Exported { model, file, samples })
}

/// The file, which has the columns among its notes, and samples.
fn of_trees(model: &Model) -> Result<(Vec<u8>, Vec<f64>), Error> {
    let forest = model.forest()?.ok_or_else(|| Error::Internal("trees without a text".into()))?;
    let features = &model.parts().features;
    let count = features.features.len();
    let mut graph = Graph::new("GradientBoostedTrees");
    trees::describe(&mut graph, &forest, count);
    let features = serde_json::json!(**features).to_string();
    let too_large = || Error::Internal("its ONNX file would be larger than 2 GiB".into());
    let file = graph.into_file(&[("features", &features)]).ok_or_else(too_large)?;
    Ok((file, trees::samples(&forest, count)))
}

/// Medians and what is most frequent, the least, the most, and nothing known: `[4, features]`.
fn of_network(config: &NetworkConfig) -> Vec<f64> {
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
