//! `manifest.json`: which files a checkpoint consists of.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Changes when older workers could misread a checkpoint.
pub const FORMAT_VERSION: u32 = 1;
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

impl Manifest {
    /// Reads the manifest of `directory` and checks every file against it. The
    /// error says what is wrong, file first.
    pub fn verify(directory: &Path, step: u64) -> Result<Self, String> {
        let text =
            fs::read(directory.join(MANIFEST)).map_err(|error| format!("{MANIFEST}: {error}"))?;
        let manifest: Self =
            serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST}: {error}"))?;
        if manifest.format_version != FORMAT_VERSION {
            return Err(format!(
                "{MANIFEST}: format version {}, this worker reads {FORMAT_VERSION}",
                manifest.format_version
            ));
        }
        if manifest.step != step {
            return Err(format!("{MANIFEST}: is of step {}", manifest.step));
        }
        for file in &manifest.files {
            file.check(directory).map_err(|reason| format!("{}: {reason}", file.name))?;
        }
        Ok(manifest)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Names of the files that hold tensors.
    pub fn shards(&self) -> impl Iterator<Item = &str> {
        self.files
            .iter()
            .map(|file| file.name.as_str())
            .filter(|name| name.ends_with(".safetensors"))
    }
}

impl FileEntry {
    /// Describes a file by its content.
    pub fn of(directory: &Path, name: &str) -> std::io::Result<Self> {
        let (bytes, hash) = hash_file(&directory.join(name))?;
        Ok(Self { name: name.to_owned(), bytes, blake3: hash.to_hex().to_string() })
    }

    fn check(&self, directory: &Path) -> Result<(), String> {
        if self.name.contains('/') {
            return Err("is not a plain file name".into());
        }
        let path = directory.join(&self.name);
        let size = fs::metadata(&path).map_err(|error| error.to_string())?.len();
        if size != self.bytes {
            return Err(format!("has {size} bytes, not {}", self.bytes));
        }
        let (_, hash) = hash_file(&path).map_err(|error| error.to_string())?;
        if hash.to_hex().as_str() != self.blake3 {
            return Err("its content does not match its hash".into());
        }
        Ok(())
    }
}

/// Size and hash of a file.
pub fn hash_file(path: &Path) -> std::io::Result<(u64, blake3::Hash)> {
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
