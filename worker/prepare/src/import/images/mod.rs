//! A tree of pictures → rows of a picture's path and its label.
//!
//! The directory below the root names the class of all that is below it (torchvision's
//! `ImageFolder`; Hugging Face's `imagefolder`, where it is the last directory, agrees on trees of
//! one level). Where the root has a `metadata.jsonl`, its lines are the rows, in their order: their
//! `file_name` is the picture's path below the root, the rest are fields (Hugging Face `datasets`,
//! "Create an image dataset"), and directories name nothing.
//!
//! Files are dealt in the order of their names' bytes, so that it is the same on all machines.
//! Memory holds the names of the directories that are being walked.

mod metadata;
mod tree;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ImportError, Imported, NoRow};
use metadata::Metadata;
use tree::Tree;

/// Names of fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImagesOptions {
    /// Field of the picture: its path below the root, with slashes.
    pub image: String,
    /// Field of the label.
    pub label: String,
}

/// The rows of a tree of pictures.
pub struct Images {
    options: ImagesOptions,
    source: Source,
}

enum Source {
    Tree(Tree),
    Metadata(Metadata),
}

impl Images {
    /// Opens the tree below `root`.
    pub fn open(root: &Path, options: ImagesOptions) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read { path: root.to_owned(), source };
        let root = root.canonicalize().map_err(failed)?;
        let metadata = root.join(metadata::NAME);
        let source = if metadata.is_file() {
            Source::Metadata(Metadata::open(root, metadata)?)
        } else {
            Source::Tree(Tree::open(root)?)
        };
        Ok(Self { options, source })
    }
}

impl Iterator for Images {
    type Item = Result<Imported, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Tree(tree) => tree.next_row(&self.options),
            Source::Metadata(metadata) => metadata.next_row(&self.options),
        }
    }
}

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// PNG or JPEG.
    Picture,
    /// A picture that is not read.
    Other,
    /// No picture.
    None,
}

impl Kind {
    /// By the extensions that torchvision's `ImageFolder` and Pillow know.
    fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.unwrap_or_default().to_ascii_lowercase().as_str() {
            "png" | "jpg" | "jpeg" => Self::Picture,
            "ppm" | "pgm" | "bmp" | "tif" | "tiff" | "webp" | "gif" => Self::Other,
            _ => Self::None,
        }
    }
}

const NOT_READ: &str = "is neither PNG nor JPEG; convert it";

fn malformed(origin: PathBuf, index: u64, reason: &str) -> Imported {
    Imported::Malformed(NoRow { origin, index, reason: reason.into() })
}

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into())
}

#[cfg(test)]
mod tests;
