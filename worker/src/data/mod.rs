//! Files of rows → token ids, what is to be predicted, batches.
//!
//! ```text
//! source: file -> rows     encode, tokenize: row -> token ids and targets     ingest: both, on threads
//! pictures: row -> pixels    cache: token ids or pixels on disk    dataset: the job's files -> samples
//! order, packing: seed -> which samples when    collate: samples -> tensors
//! ```

pub mod cache;
pub mod chat;
pub mod collate;
pub mod dataset;
pub mod encode;
pub mod facts;
mod ingest;
pub mod labels;
pub mod order;
pub mod packing;
pub mod pictures;
pub mod samples;
pub mod sequence;
pub mod source;
pub mod tokenize;

use std::path::PathBuf;

pub use chat::{Chat, ChatTemplate};
pub use collate::{Batch, CausalBatch, collate, collate_causal, collate_packed, collate_pixels};
pub use dataset::TrainingSet;
pub use encode::{LossOn, Objective, SequenceEncoder};
pub use labels::Labels;
pub use pictures::{PixelFormat, Preprocessor};
pub use samples::Samples;
pub use sequence::{Fetched, Sequence};
pub use source::{BadRow, Columns, Format, SourceFile};
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
    /// A setting that does not go with the file.
    #[error("{}: {detail}", path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A file that somebody wrote to.
    #[error("{} changed while it was read; start again when it is whole", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// What texts are to be cleaned of makes no sense.
    #[error(transparent)]
    Cleaning(#[from] hearth_prepare::text::clean::CleaningError),
    /// Token ids that were there and cannot be read any more.
    #[error("cannot read the token cache")]
    Cache {
        /// Why.
        source: std::io::Error,
    },
    /// A chat template that cannot be used.
    #[error("{}: {detail}", path.display())]
    Chat {
        /// The file that holds it.
        path: PathBuf,
        /// What is wrong.
        detail: String,
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
