//! Locks between pods of a node (`flock`): they go with the process, however it ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Name of the lock that is held by who copies or removes.
pub const COPYING: &str = "lock";

/// The lock of an entry: shared by who uses it, alone by who removes it.
pub fn of_entry(cache: &Path, key: &str) -> PathBuf {
    cache.join(format!("{key}.lock"))
}

/// Waits for a share of a lock, whose file is made where it is missing.
pub fn shared(path: &Path) -> io::Result<File> {
    acquire(path, || create(path))
}

/// As [`shared`], of a file that is there and that this process may only read.
pub fn shared_as_reader(path: &Path) -> io::Result<File> {
    acquire(path, || File::open(path))
}

fn acquire(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    loop {
        let file = open()?;
        file.lock_shared()?;
        // Who removed an entry meanwhile removed this file, too.
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Waits for a lock that stays where it is.
pub fn alone(path: &Path) -> io::Result<File> {
    let file = create(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            tracing::info!("another pod of this node copies a model; waits for it");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}

/// The lock of an entry that nobody uses; `None` where somebody does.
pub fn unused(path: &Path) -> io::Result<Option<File>> {
    let file = create(path)?;
    match file.try_lock() {
        Ok(()) => Ok(is_at(&file, path)?.then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_keeps_out_who_would_remove() {
        let root = tempfile::tempdir().unwrap();
        let path = of_entry(root.path(), "k");
        assert!(shared_as_reader(&path).is_err());
        let first = shared(&path).unwrap();
        let second = shared_as_reader(&path).unwrap();
        drop(first);
        assert!(unused(&path).unwrap().is_none());
        drop(second);
        let remover = unused(&path).unwrap().unwrap();
        // Who waited for the remover gets a lock on a file that is there.
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || shared(&path).unwrap()
        });
        fs::remove_file(&path).unwrap();
        drop(remover);
        let late = waiting.join().unwrap();
        assert!(is_at(&late, &path).unwrap());
    }
}
