//! Files of labelled text → token ids, class ids, batches.

pub mod cache;
pub mod clean;
pub mod collate;
pub mod dataset;
pub mod labels;
pub mod order;
pub mod source;
pub mod tokenize;

use std::path::PathBuf;

pub use collate::{Batch, collate};
pub use dataset::{Samples, TrainingSet};
pub use labels::Labels;
pub use source::{BadRow, Row, Rows, read_rows};
pub use tokenize::TextEncoder;

/// Why data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file is not there.
    #[error("{} does not exist; check the source in the job's spec", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Too many malformed rows.
    #[error(
        "{}:{line}: {reason}; {bad} malformed row(s) in the file, {max} permitted: repair them or raise data.maxBadRows",
        path.display()
    )]
    BadRows {
        /// The file.
        path: PathBuf,
        /// Line of the first malformed row.
        line: u64,
        /// What is wrong with it.
        reason: String,
        /// Malformed rows.
        bad: u64,
        /// `maxBadRows`.
        max: u64,
    },
    /// A file without a single good row.
    #[error("{} holds no row to use", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Nothing to tell apart.
    #[error(
        "{}: every row has the label {label:?}; a classifier needs at least two labels",
        path.display()
    )]
    OneLabel {
        /// The file.
        path: PathBuf,
        /// The only label.
        label: String,
    },
    /// More classes than a label field plausibly holds.
    #[error(
        "{}: field {field:?} holds {found} different labels, more than {limit}; is it the label?",
        path.display()
    )]
    TooManyLabels {
        /// The file.
        path: PathBuf,
        /// The label's field.
        field: String,
        /// Distinct labels.
        found: usize,
        /// Most that are accepted.
        limit: usize,
    },
    /// A tokenizer that cannot be read or used.
    #[error("{}: {detail}", path.display())]
    Tokenizer {
        /// `tokenizer.json`.
        path: PathBuf,
        /// What the tokenizers library said.
        detail: String,
    },
}
