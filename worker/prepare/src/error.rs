//! What ends a preparation.

use std::io;
use std::path::{Path, PathBuf};

use crate::augment::translate::TranslateError;

/// Why data cannot be prepared. Every message says what is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A source is not there.
    #[error("{} does not exist; check the source in the job's spec", path.display())]
    Missing {
        /// File or directory.
        path: PathBuf,
    },
    /// A source cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too many malformed rows.
    #[error(
        "{}:{line}: {reason}; {bad} malformed row(s) so far, {max} permitted: repair them or raise data.maxBadRows",
        path.display()
    )]
    BadRows {
        /// File of the first of them.
        path: PathBuf,
        /// Its line or row, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
        /// Malformed rows up to where reading ended.
        bad: u64,
        /// `maxBadRows`.
        max: u64,
    },
    /// A file that is no use from some row on, however many malformed rows are permitted.
    #[error("{}:{line}: {detail}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Line or row, from 1; 0 where the whole file is meant.
        line: u64,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A setting that does not go with the data.
    #[error("{setting}: {detail}")]
    Setting {
        /// The setting's name in the spec.
        setting: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// No row is left.
    #[error("{} holds no row to use: {detail}", path.display())]
    Empty {
        /// The source.
        path: PathBuf,
        /// Where its rows went.
        detail: String,
    },
    /// A source that somebody wrote to meanwhile.
    #[error("{} changed while it was read; start again when it is whole", path.display())]
    Changed {
        /// File.
        path: PathBuf,
    },
    /// The output directory.
    #[error("cannot write {}; free space, or choose another data.preparation.output", path.display())]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A model that translates none of a row's texts.
    #[error(
        "data.preparation.augment.text.backTranslation: no translation; look at the model's server, or leave it out"
    )]
    Translation {
        /// Why.
        source: Box<TranslateError>,
    },
    /// A bug.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

impl PrepareError {
    /// What a failed read of a source says.
    pub(crate) fn reading(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: path.to_owned() },
            _ => Self::Read { path: path.to_owned(), source },
        }
    }

    /// What a failed write below the output says.
    pub(crate) fn writing(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    /// A file that cannot be used as a whole.
    pub(crate) fn damaged(path: &Path, line: u64, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), line, detail: detail.into() }
    }

    /// A library that refuses what this crate made.
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    /// CamelCase reason, from a closed set: that of the worker's other errors.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "MissingInput",
            Self::Read { .. } | Self::Changed { .. } => "ReadFailed",
            Self::BadRows { .. } | Self::Damaged { .. } | Self::Empty { .. } => "BadData",
            Self::Translation { source } if source.is_passing() => "ReadFailed",
            Self::Setting { .. } | Self::Translation { .. } => "BadConfig",
            Self::Write { .. } => "OutputFailed",
            Self::Internal(_) => "InternalError",
        }
    }

    /// The whole chain in one line.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let next = error.to_string();
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        text
    }
}
