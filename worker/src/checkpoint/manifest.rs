//! `manifest.json`: which files a checkpoint consists of.

use std::fs;
use std::io::{self, Read};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::storage::{Storage, step_name};

/// Changes when older workers could misread a checkpoint: 1 had whole tensors
/// only, 2 may have boxes out of tensors.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest that is still read.
pub const OLDEST_FORMAT_VERSION: u32 = 1;
/// Bytes read at a time.
const READ: usize = 8 << 20;
/// Name of the file.
pub const MANIFEST: &str = "manifest.json";

/// What a checkpoint consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Optimizer step.
    pub step: u64,
    /// Ranks that wrote it.
    pub world_size: usize,
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

/// What every version's manifest says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    format_version: u32,
}

/// Why a checkpoint cannot be used.
#[derive(Debug)]
pub enum Flaw {
    /// It is incomplete or damaged: what is wrong, file first.
    Damaged(String),
    /// Its storage cannot be asked.
    Unreachable {
        /// File.
        file: String,
        /// Why.
        source: io::Error,
    },
}

impl Flaw {
    /// What a failed read says of the checkpoint.
    pub(super) fn reading(file: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ConnectionAborted => {
                Self::Unreachable { file: file.to_owned(), source }
            }
            _ => Self::Damaged(format!("{file}: {source}")),
        }
    }
}

impl Manifest {
    /// Reads the manifest of a step.
    pub fn read(storage: &dyn Storage, step: u64) -> Result<Self, Flaw> {
        let text = storage
            .read(&format!("{}/{MANIFEST}", step_name(step)))
            .map_err(|error| Flaw::reading(MANIFEST, error))?;
        let told: Told = serde_json::from_slice(&text)
            .map_err(|error| Flaw::Damaged(format!("{MANIFEST}: {error}")))?;
        if !(OLDEST_FORMAT_VERSION..=FORMAT_VERSION).contains(&told.format_version) {
            return Err(Flaw::Damaged(format!(
                "{MANIFEST}: format version {}, this worker reads {OLDEST_FORMAT_VERSION} to {FORMAT_VERSION}",
                told.format_version
            )));
        }
        let manifest: Self = serde_json::from_slice(&text)
            .map_err(|error| Flaw::Damaged(format!("{MANIFEST}: {error}")))?;
        if manifest.step != step {
            return Err(Flaw::Damaged(format!("{MANIFEST}: is of step {}", manifest.step)));
        }
        match manifest.files.iter().find(|file| !file.has_plain_name()) {
            Some(file) => Err(Flaw::Damaged(format!("{MANIFEST}: {} is no file name", file.name))),
            None => Ok(manifest),
        }
    }

    /// Reads the manifest of a step and checks every file against it.
    pub fn verify(storage: &dyn Storage, step: u64) -> Result<Self, Flaw> {
        let manifest = Self::read(storage, step)?;
        for file in &manifest.files {
            file.check(storage, step)?;
        }
        Ok(manifest)
    }

    /// Its text.
    pub fn to_text(&self) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The files that hold tensors.
    pub fn shards(&self) -> impl Iterator<Item = &FileEntry> {
        self.files.iter().filter(|file| file.name.ends_with(".safetensors"))
    }
}

impl FileEntry {
    /// A file that was written.
    pub fn new(name: String, bytes: u64, hash: blake3::Hash) -> Self {
        Self { name, bytes, blake3: hash.to_hex().to_string() }
    }

    /// Describes a file by its content.
    pub fn of(directory: &Path, name: &str) -> io::Result<Self> {
        let (bytes, hash) = hash_file(&directory.join(name))?;
        Ok(Self::new(name.to_owned(), bytes, hash))
    }

    fn has_plain_name(&self) -> bool {
        Path::new(&self.name).components().all(|part| matches!(part, Component::Normal(_)))
    }

    fn check(&self, storage: &dyn Storage, step: u64) -> Result<(), Flaw> {
        let path = format!("{}/{}", step_name(step), self.name);
        let damaged = |reason: String| Err(Flaw::Damaged(format!("{}: {reason}", self.name)));
        let size = storage.size(&path).map_err(|error| Flaw::reading(&self.name, error))?;
        if size != self.bytes {
            return damaged(format!("has {size} bytes, not {}", self.bytes));
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; READ.min(usize::try_from(size).unwrap_or(READ))];
        let mut done = 0;
        while done < size {
            let length = buffer.len().min(usize::try_from(size - done).unwrap_or(READ));
            storage
                .read_at(&path, done, &mut buffer[..length])
                .map_err(|error| Flaw::reading(&self.name, error))?;
            hasher.update(&buffer[..length]);
            done += length as u64;
        }
        if hasher.finalize().to_hex().as_str() != self.blake3 {
            return damaged("its content does not match its hash".into());
        }
        Ok(())
    }
}

/// Size and hash of a file.
pub fn hash_file(path: &Path) -> io::Result<(u64, blake3::Hash)> {
    let mut file = fs::File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((total, hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        total += read as u64;
    }
}
