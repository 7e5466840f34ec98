//! Which models go to make room for another. The lock of who copies is held meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hearth_crds::worker_config::NodeCacheDirectory;

use super::source::ModelFiles;
use super::{CacheError, lock};

/// What a file takes on a disk is a multiple of this.
const BLOCK: u64 = 4096;
/// Room for directories and the list of files.
const SPARE: u64 = 256 << 10;
/// Digits of a key.
const DIGITS: usize = 64;

/// A model that is there.
struct Kept {
    key: String,
    bytes: u64,
    used: SystemTime,
}

/// Removes what copies left that broke off, locks of models that are gone, and the model `key`,
/// which is about to be copied anew.
pub fn clear(cache: &Path, key: &str) -> io::Result<()> {
    for name in names(cache)? {
        let path = cache.join(&name);
        if name.strip_prefix('.').is_some_and(|rest| rest.get(..DIGITS).is_some_and(is_key)) {
            fs::remove_dir_all(&path)?;
        } else if let Some(of) = name.strip_suffix(".lock").filter(|of| is_key(of))
            && of != key
            && !cache.join(of).exists()
            && let Some(_unused) = lock::unused(&path)?
        {
            fs::remove_file(&path)?;
        }
    }
    match remove_whole(cache, key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes models that nobody uses, the one first that was longest not asked for, until `model` fits;
/// how many.
pub fn make(cache: &NodeCacheDirectory, model: &ModelFiles) -> Result<usize, CacheError> {
    let error =
        |source| CacheError::Write { path: cache.path.clone(), claim: cache.claim.clone(), source };
    let bytes = model.bytes();
    if let Some(most) = cache.max_bytes.filter(|most| bytes > *most) {
        return Err(CacheError::TooLarge { bytes, most });
    }
    let on_disk = model.files.iter().map(|file| file.bytes.next_multiple_of(BLOCK)).sum::<u64>();
    let mut kept = kept(&cache.path).map_err(error)?;
    kept.sort_by_key(|model| model.used);
    let mut held: u64 = kept.iter().map(|model| model.bytes).sum();
    let mut oldest = kept.into_iter();
    let mut removed = 0;
    loop {
        let free = free(&cache.path).map_err(error)?;
        let over = cache.max_bytes.filter(|most| held + bytes > *most);
        if over.is_none() && on_disk + SPARE <= free {
            return Ok(removed);
        }
        let Some(next) = oldest.next() else {
            let claim = cache.claim.clone();
            let (what, advice) = match over {
                Some(most) => (
                    format!("serving.nodeCache.maxBytes is {most}, of which {held} are taken"),
                    "raise serving.nodeCache.maxBytes, or have fewer models served on this node",
                ),
                None => (
                    format!("{free} bytes are free on its volume"),
                    "free space there, or have fewer models served on this node",
                ),
            };
            return Err(CacheError::NoRoom { bytes, claim, what, advice });
        };
        let path = lock::of_entry(&cache.path, &next.key);
        if let Some(_unused) = lock::unused(&path).map_err(error)? {
            tracing::info!("removes {} to make room: {} bytes", next.key, next.bytes);
            remove_whole(&cache.path, &next.key).map_err(error)?;
            fs::remove_file(&path).map_err(error)?;
            held -= next.bytes;
            removed += 1;
        }
    }
}

/// Bytes that an unprivileged process may write. A file system that tells no size has no limit.
fn free(path: &Path) -> io::Result<u64> {
    let told = rustix::fs::statvfs(path)?;
    Ok(if told.f_blocks == 0 { u64::MAX } else { told.f_bavail.saturating_mul(told.f_frsize) })
}

/// An entry loses its name before its files, so that no half of one has it.
fn remove_whole(cache: &Path, key: &str) -> io::Result<()> {
    let gone = cache.join(format!(".{key}.gone-{}", std::process::id()));
    fs::rename(cache.join(key), &gone)?;
    fs::remove_dir_all(gone)
}

fn kept(cache: &Path) -> io::Result<Vec<Kept>> {
    let keys = names(cache)?.into_iter().filter(|name| is_key(name));
    keys.map(|key| {
        let bytes = bytes_below(&cache.join(&key))?;
        // One without a lock was never asked for.
        let lock = fs::metadata(lock::of_entry(cache, &key));
        let used = lock.and_then(|lock| lock.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Kept { key, bytes, used })
    })
    .collect()
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?.map(|child| Ok(child?.file_name().to_string_lossy().into())).collect()
}

fn is_key(name: &str) -> bool {
    name.len() == DIGITS && name.bytes().all(|digit| digit.is_ascii_hexdigit())
}

fn bytes_below(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut below: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(directory) = below.pop() {
        for child in fs::read_dir(directory)? {
            let child = child?;
            if child.file_type()?.is_dir() {
                below.push(child.path());
            } else {
                bytes += child.metadata()?.len();
            }
        }
    }
    Ok(bytes)
}
