//! `manifest.json`: of which files prepared data consist. Written last: data without it are not
//! there.

use std::io;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::files::{hash_file, read_json, write_json};

/// Changes when what is written for the same sources and settings changes.
pub const FORMAT_VERSION: u32 = 2;
/// Name of the file.
pub const MANIFEST: &str = "manifest.json";

/// Of which files prepared data consist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name of the prepared data.
    pub id: String,
    /// Every other file.
    pub files: Vec<FileEntry>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEntry {
    /// Name in the directory.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// BLAKE3, in hexadecimal.
    pub blake3: String,
}

impl FileEntry {
    /// Describes a file by its content.
    pub(crate) fn of(directory: &Path, name: &str) -> io::Result<Self> {
        let (bytes, hash) = hash_file(&directory.join(name), |_| {})?;
        Ok(Self { name: name.to_owned(), bytes, blake3: hash.to_hex().to_string() })
    }
}

impl Manifest {
    /// The manifest of `directory`, where all of its files are as it says.
    pub fn verified(directory: &Path, id: &str) -> Option<Self> {
        let manifest: Self = read_json(&directory.join(MANIFEST))?;
        let good = |file: &FileEntry| {
            let mut parts = Path::new(&file.name).components();
            parts.all(|part| matches!(part, Component::Normal(_)))
                && FileEntry::of(directory, &file.name).is_ok_and(|found| found == *file)
        };
        let whole = manifest.format_version == FORMAT_VERSION
            && manifest.id == id
            && manifest.files.iter().all(good);
        whole.then_some(manifest)
    }

    /// Writes it down.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        write_json(&directory.join(MANIFEST), self)
    }
}
