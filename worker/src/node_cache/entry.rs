//! A model's copy: written under another name, checked as it is read, renamed last.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::CacheError;
use super::source::{Content, ModelFile, ModelFiles};
use crate::checkpoint::manifest::{FileEntry, hash_file};
use crate::files::{replace_directory, sync_directory, temporary_beside, write_json};

/// Name of the list of files in an entry. Hidden, so that no model has a file of this name.
const SEAL: &str = ".hearth-files.json";
/// Bytes read at a time.
const READ: usize = 4 << 20;

/// What an entry consists of.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seal {
    files: Vec<FileEntry>,
}

/// What is wrong with an entry: every file is read, which also brings it into memory for the server.
pub fn flaw(entry: &Path, model: &ModelFiles) -> Option<String> {
    flaw_by(entry, model, |path, sealed| {
        let (bytes, hash) = hash_file(path)?;
        Ok(bytes == sealed.bytes && hash.to_hex().as_str() == sealed.blake3)
    })
}

/// The same by sizes alone.
pub fn flaw_at_a_glance(entry: &Path, model: &ModelFiles) -> Option<String> {
    flaw_by(entry, model, |path, sealed| Ok(fs::metadata(path)?.len() == sealed.bytes))
}

fn flaw_by(
    entry: &Path,
    model: &ModelFiles,
    is_whole: impl Fn(&Path, &FileEntry) -> io::Result<bool>,
) -> Option<String> {
    let seal = match fs::read(entry.join(SEAL)) {
        Ok(text) => serde_json::from_slice::<Seal>(&text).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some(format!("the node has no copy {}", entry.display()));
        }
        Err(_) => None,
    };
    let damaged = |what: &str| Some(format!("{} is damaged ({what})", entry.display()));
    let Some(seal) = seal.filter(|seal| seal.files.len() == model.files.len()) else {
        return damaged(SEAL);
    };
    for (sealed, file) in seal.files.iter().zip(&model.files) {
        let known = file.content.hash().is_none_or(|hash| hash == sealed.blake3);
        if sealed.name != file.name || sealed.bytes != file.bytes || !known {
            return damaged(SEAL);
        }
        if !is_whole(&entry.join(&file.name), sealed).unwrap_or(false) {
            return damaged(&file.name);
        }
    }
    None
}

/// Copies a model to `target`, in the place of what is there.
pub fn copy(model: &ModelFiles, target: &Path, claim: &str) -> Result<(), CacheError> {
    let built = temporary_beside(target);
    let copied = copy_to(model, &built, claim).and_then(|()| {
        replace_directory(&built, target).map_err(|source| write_error(target, claim, source))
    });
    if copied.is_err() {
        // The first error is the one to tell; the next copy removes leftovers.
        let _ = fs::remove_dir_all(&built);
    }
    copied
}

fn copy_to(model: &ModelFiles, built: &Path, claim: &str) -> Result<(), CacheError> {
    let mut files = Vec::new();
    for file in &model.files {
        let target = built.join(&file.name);
        let parent = target.parent().unwrap_or(built);
        fs::create_dir_all(parent).map_err(|source| write_error(parent, claim, source))?;
        files.push(copy_file(&model.directory, file, &target, claim)?);
        // Each directory's entries are on the disk before its name is.
        sync_directory(parent).map_err(|source| write_error(parent, claim, source))?;
    }
    let seal = built.join(SEAL);
    write_json(&seal, &Seal { files }).map_err(|source| write_error(&seal, claim, source))
}

fn copy_file(
    directory: &Path,
    file: &ModelFile,
    target: &Path,
    claim: &str,
) -> Result<FileEntry, CacheError> {
    let path = directory.join(&file.name);
    let read = |source| CacheError::Read { path: path.clone(), source };
    let write = |source| write_error(target, claim, source);
    let mut from = File::open(&path).map_err(read)?;
    let mut to = File::create(target).map_err(write)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ];
    let mut bytes = 0;
    loop {
        let length = from.read(&mut buffer).map_err(read)?;
        if length == 0 {
            break;
        }
        hasher.update(&buffer[..length]);
        to.write_all(&buffer[..length]).map_err(write)?;
        bytes += length as u64;
    }
    to.sync_all().map_err(write)?;
    let copied = FileEntry::new(file.name.clone(), bytes, hasher.finalize());
    if bytes != file.bytes {
        return Err(CacheError::Changed(path));
    }
    match &file.content {
        Content::Told(hash) if *hash != copied.blake3 => Err(CacheError::Damaged(path)),
        Content::Read(hash) if *hash != copied.blake3 => Err(CacheError::Changed(path)),
        Content::Changed(_) if file.content != Content::times(&from.metadata().map_err(read)?) => {
            Err(CacheError::Changed(path))
        }
        Content::Told(_) | Content::Read(_) | Content::Changed(_) => Ok(copied),
    }
}

fn write_error(path: &Path, claim: &str, source: io::Error) -> CacheError {
    CacheError::Write { path: path.to_owned(), claim: claim.to_owned(), source }
}
