//! Prepared data: a directory with `train/*.parquet`, `eval/*.parquet` and perhaps `table.json`, as the
//! crate `hearth-prepare` writes it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use hearth_prepare::table::rules::{TABLE, TableRules};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::config::Task;
use crate::error::{Result, TabularError};
use crate::features::Features;
use crate::learn::{FeatureOptions, Learner};
use crate::lists::{self, ListColumn};
use crate::table::Table;

/// Rows that are read at a time.
const BATCH: usize = 8192;

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Training.
    Train,
    /// Held out.
    Eval,
}

impl Side {
    fn folder(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }
}

/// Learns features of the training rows of prepared data.
///
/// # Errors
///
/// Those of [`Learner`], and files that cannot be read.
pub fn learn(
    directory: &Path,
    task: Task,
    label: &str,
    options: &FeatureOptions,
) -> Result<Features> {
    let mut learner: Option<(Learner, Vec<ListColumn>)> = None;
    let mut rows = 0;
    batches(directory, Side::Train, |batch| {
        let (learner, lists) = match &mut learner {
            Some(known) => known,
            none => {
                let found = lists::found(batch, label, options)?;
                let (spread, each) =
                    (lists::spread(batch, &found, 0)?, lists::options(options, &found));
                none.insert((Learner::new(task, label, spread.schema_ref(), &each)?, found))
            }
        };
        learner.add(&lists::spread(batch, lists, rows)?)?;
        rows += batch.num_rows();
        Ok(())
    })?;
    let nothing = || TabularError::Data(format!("{} has no training rows", directory.display()));
    let (learner, lists) = learner.ok_or_else(nothing)?;
    Ok(Features { lists, ..learner.finish()? })
}

/// Reads the rows of a side; none where there is no such folder.
///
/// # Errors
///
/// Those of [`Table::add`], and files that cannot be read.
pub fn table(directory: &Path, side: Side, features: &Arc<Features>) -> Result<Table> {
    let lookups = features.lookups();
    let mut table = Table::new(Arc::clone(features));
    batches(directory, side, |batch| table.add_with(batch, &lookups))?;
    Ok(table)
}

/// What the preparation did with columns, which [`crate::Model`] does with rows to predict.
///
/// # Errors
///
/// A file that cannot be read, or that is none of the preparation's.
pub fn rules(directory: &Path) -> Result<Option<TableRules>> {
    let path = directory.join(TABLE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(TabularError::read(&path, error)),
    };
    let rules = serde_json::from_slice(&bytes);
    rules.map(Some).map_err(|error| TabularError::damaged(&path, error.to_string()))
}

/// Calls `tell` with the rows of a side, in their order.
fn batches(
    directory: &Path,
    side: Side,
    mut tell: impl FnMut(&RecordBatch) -> Result<()>,
) -> Result<()> {
    for path in files(&directory.join(side.folder()))? {
        let file = File::open(&path).map_err(|error| TabularError::read(&path, error))?;
        let damaged =
            |error: &dyn std::fmt::Display| TabularError::damaged(&path, error.to_string());
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.with_batch_size(BATCH).build())
            .map_err(|error| damaged(&error))?;
        for batch in reader {
            tell(&batch.map_err(|error| damaged(&error))?)?;
        }
    }
    Ok(())
}

/// Files of a folder, by name; none where there is no folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| TabularError::read(folder, error);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>().map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "parquet"));
    paths.sort_unstable();
    Ok(paths)
}
