//! Sources that are no rows yet: exports of tools, trees of pictures, files of scanners. Each deals
//! its rows in a fixed order, one at a time, so that memory does not grow with the source.

mod array;
pub mod dicom;
pub mod images;
pub mod label_studio;
mod within;

use std::io;
use std::path::PathBuf;

use serde_json::{Map, Value};

/// A row of a source, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// File.
    pub origin: PathBuf,
    /// Which of the file's elements, lines or, where it is one, the file itself; from 1.
    pub index: u64,
    /// Values by field.
    pub fields: Map<String, Value>,
}

/// What a source deals.
#[derive(Clone, Debug, PartialEq)]
pub enum Imported {
    /// A row.
    Row(Row),
    /// A row that is none.
    Malformed(NoRow),
    /// Nothing that was labelled: nobody's mistake, and no row.
    Unlabelled(NoRow),
}

/// A place in a source where there is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRow {
    /// File.
    pub origin: PathBuf,
    /// As [`Row::index`].
    pub index: u64,
    /// Why, and what to do. Never what the place holds.
    pub reason: String,
}

/// What ends the reading of a source.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is no use from some place on.
    #[error("{}:{index}: {detail}", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// As [`Row::index`]; 0 where the whole file is meant.
        index: u64,
        /// What is wrong, and what to do.
        detail: String,
    },
}
