//! Models of tables as ONNX files: networks as their layers, trees as [`super::trees`] has them.

use std::path::Path;

use hearth_tabular::{Encoding, Model, NetworkConfig, Recipe};

use super::{neural, trees};
use crate::error::Error;
use crate::onnx::Graph;

/// Reads a model's directory; the model, and its ONNX file.
///
/// # Errors
///
/// Those of [`neural::load`], and a file that would be larger than a protobuf can be.
pub(crate) fn read(directory: &Path) -> Result<(Model, Vec<u8>), Error> {
    let mut network = None;
    let model = neural::load_by(directory, |own| network = Some(own.onnx()))?;
    let file = match network {
        Some(file) => file?,
        None => of_trees(&model)?,
    };
    Ok((model, file))
}

/// The columns are among the notes.
fn of_trees(model: &Model) -> Result<Vec<u8>, Error> {
    let mut graph = Graph::new("GradientBoostedTrees");
    let features = &model.parts().features;
    if let Some(forest) = model.forest()? {
        trees::describe(&mut graph, &forest, features.features.len());
    }
    let features = serde_json::json!(**features).to_string();
    let too_large = || Error::Internal("its ONNX file would be larger than 2 GiB".into());
    graph.into_file(&[("features", &features)]).ok_or_else(too_large)
}

/// Rows of values, `[rows, features]`, that are computed in many ways.
pub(crate) fn samples(model: &Model) -> Result<Vec<f64>, Error> {
    Ok(match (&model.parts().recipe, model.forest()?) {
        (Recipe::Network(config), _) => of_network(config),
        (_, Some(forest)) => trees::samples(&forest, model.parts().features.features.len()),
        (Recipe::Trees(_), None) => Vec::new(),
    })
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
