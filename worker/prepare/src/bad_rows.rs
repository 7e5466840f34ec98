//! Malformed rows.
//!
//! Invariant: none is dropped in silence. Each is counted, the first are kept with their places,
//! and past the permitted number the data is refused.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::PrepareError;
use crate::source::Bad;

/// Malformed rows that are kept with their places.
const KEPT: usize = 100;

/// A malformed row with its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BadRow {
    pub(crate) file: String,
    pub(crate) line: u64,
    pub(crate) reason: String,
}

/// Malformed rows so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct BadRows {
    max: u64,
    pub(crate) count: u64,
    pub(crate) first: Vec<BadRow>,
}

impl BadRows {
    /// Permits `max` of them.
    pub(crate) fn new(max: u64) -> Self {
        Self { max, ..Self::default() }
    }

    /// Adds a row of the file at `path`.
    pub(crate) fn add(&mut self, path: &Path, row: Bad) -> Result<(), PrepareError> {
        let Bad { line, reason } = row;
        let file = path.display().to_string();
        self.extend(1, vec![BadRow { file, line, reason }])
    }

    /// Adds `count` rows, of which the `first` are told.
    pub(crate) fn extend(&mut self, count: u64, first: Vec<BadRow>) -> Result<(), PrepareError> {
        self.count += count;
        let room = KEPT.saturating_sub(self.first.len());
        self.first.extend(first.into_iter().take(room));
        match self.first.first() {
            Some(row) if self.count > self.max => Err(PrepareError::BadRows {
                path: row.file.clone().into(),
                line: row.line,
                reason: row.reason.clone(),
                bad: self.count,
                max: self.max,
            }),
            _ => Ok(()),
        }
    }
}
