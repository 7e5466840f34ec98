//! A tree of pictures, or of DICOM files → rows of a file's path and its label.
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
    /// Which files are meant.
    pub files: Files,
}

/// Which files of a tree are meant, by their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Files {
    /// PNG and JPEG.
    #[default]
    Pictures,
    /// DICOM: `.dcm`, or no ending at all, as scanners write them; the last number of a UID is none.
    Dicom,
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
            Source::Metadata(Metadata::open(root, metadata, metadata::FILE_NAME)?)
        } else {
            Source::Tree(Tree::open(root)?)
        };
        Ok(Self { options, source })
    }

    /// Opens a file of JSON lines, whose field of the picture is the path below its directory.
    pub fn open_rows(rows: &Path, options: ImagesOptions) -> Result<Self, ImportError> {
        let failed = |source| ImportError::Read { path: rows.to_owned(), source };
        let file = rows.canonicalize().map_err(failed)?;
        let root = file.parent().unwrap_or(&file).to_owned();
        let rows = Metadata::open(root, rows.to_owned(), &options.image)?;
        Ok(Self { options, source: Source::Metadata(rows) })
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
    /// One that is meant.
    Picture,
    /// A picture that is not read.
    Other,
    /// No picture.
    None,
}

impl Files {
    /// Pictures by the extensions that torchvision's `ImageFolder` and Pillow know.
    fn kind(self, path: &Path) -> Kind {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let extension = extension.unwrap_or_default().to_ascii_lowercase();
        match self {
            Self::Pictures => match extension.as_str() {
                "png" | "jpg" | "jpeg" => Kind::Picture,
                "ppm" | "pgm" | "bmp" | "tif" | "tiff" | "webp" | "gif" => Kind::Other,
                _ => Kind::None,
            },
            // The directory of a medium (PS3.10, 8.6) shows nothing.
            Self::Dicom if path.ends_with("DICOMDIR") => Kind::None,
            Self::Dicom => {
                let is_dicom = matches!(extension.as_str(), "dcm" | "dicom" | "ima")
                    || extension.bytes().all(|byte| byte.is_ascii_digit());
                if is_dicom { Kind::Picture } else { Kind::None }
            }
        }
    }

    /// What is told of others.
    fn not_read(self) -> &'static str {
        match self {
            Self::Pictures => "is neither PNG nor JPEG; convert it",
            Self::Dicom => "has no name of a DICOM file; give it the ending .dcm",
        }
    }
}

fn malformed(origin: PathBuf, index: u64, reason: &str) -> Imported {
    Imported::Malformed(NoRow { origin, index, reason: reason.into() })
}

fn text(value: impl Into<String>) -> Value {
    Value::String(value.into())
}

#[cfg(test)]
mod tests;
