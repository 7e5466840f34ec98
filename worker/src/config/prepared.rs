//! Prepared rows in the place of raw ones.

use std::path::Path;

use hearth_crds::preparation::{Cleaning, Pointer};
use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::{DataFile, TrainData};

use super::ConfigError;

/// Directory of the training rows, in that of prepared data.
pub const TRAIN: &str = "train";
/// Directory of the rows for evaluation, where there are any.
pub const EVAL: &str = "eval";

/// The data with prepared rows, where a job has them: they are split already.
pub(crate) fn follow(data: TrainData) -> Result<TrainData, ConfigError> {
    let Some(pointer) = &data.prepared else { return Ok(data) };
    let read =
        |path: &Path| std::fs::read(path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    let Pointer { id } =
        read(pointer).map_err(|source| ConfigError::Prepared { path: pointer.clone(), source })?;
    let root = pointer.parent().and_then(Path::parent).unwrap_or(Path::new(""));
    let directory = root.join(&id);
    let file = |name: &str| DataFile {
        path: directory.join(name),
        uri: format!("{id}/{name}"),
        format: DataFormat::Parquet,
        ..data.train.clone()
    };
    let eval = directory.join(EVAL).is_dir().then(|| file(EVAL));
    Ok(TrainData { train: file(TRAIN), eval, eval_split: None, ..data })
}

/// What rows are still to be cleaned of: nothing where they are prepared.
pub fn to_clean(data: &TrainData) -> Cleaning {
    if data.prepared.is_some() { Cleaning::default() } else { data.cleaning() }
}
