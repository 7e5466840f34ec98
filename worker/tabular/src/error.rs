//! What ends the training, the loading or the use of a model of a table.

use std::io;
use std::path::{Path, PathBuf};

/// What a function of this crate gives.
pub type Result<T, E = TabularError> = std::result::Result<T, E>;

/// What is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TabularError {
    /// A column of the training rows that cannot be used as asked.
    #[error("column {column:?}: {detail}")]
    Column {
        /// Its name.
        column: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A setting.
    #[error("{setting}: {detail}")]
    Setting {
        /// Its name, as the JSON has it.
        setting: &'static str,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// Rows that teach nothing.
    #[error("{0}")]
    Data(String),
    /// A row that was sent.
    #[error("row {row}: field {field:?} {detail}")]
    Row {
        /// Its number in the request, from 0.
        row: usize,
        /// Which field.
        field: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file whose content is none of ours.
    #[error("{}: {detail}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// A network cannot be computed.
    #[error("the network cannot {doing}: {detail}")]
    Network {
        /// What it was asked for.
        doing: &'static str,
        /// Its own words.
        detail: String,
    },
    /// What computes raw scores in a model's stead failed.
    #[error("rows cannot be scored: {0}")]
    Scorer(String),
    /// LightGBM refuses.
    #[error("LightGBM cannot {doing}: {detail}")]
    Engine {
        /// What it was asked for.
        doing: &'static str,
        /// Its own words.
        detail: String,
    },
}

impl TabularError {
    pub(crate) fn column(column: &str, detail: impl Into<String>) -> Self {
        Self::Column { column: column.to_owned(), detail: detail.into() }
    }

    pub(crate) fn setting(setting: &'static str, detail: impl Into<String>) -> Self {
        Self::Setting { setting, detail: detail.into() }
    }

    pub(crate) fn row(row: usize, field: &str, detail: impl Into<String>) -> Self {
        Self::Row { row, field: field.to_owned(), detail: detail.into() }
    }

    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn write(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), detail: detail.into() }
    }
}
