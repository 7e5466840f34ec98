//! Writes that a crash cannot tear: a temporary name, fsync, rename, and an
//! fsync of the directory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The operations by which checkpoints change a file system, each one system
/// call or nearly so. Tests count them, make them fail, and die at them.
pub trait Disk: std::fmt::Debug + Send + Sync {
    /// Makes a directory, and its parents where they are missing.
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    /// Makes a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    /// Appends to a file that [`Self::create`] made at `path`.
    fn write(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        let _ = path;
        file.write_all(bytes)
    }

    /// Waits until a file's content is on the disk.
    fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        let _ = path;
        file.sync_all()
    }

    /// Waits until a directory's entries are on the disk.
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        sync_directory(path)
    }

    /// Gives a file or directory another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Removes an empty directory.
    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
}

/// The file system itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalDisk;

impl Disk for LocalDisk {}

/// Replaces the file at `path` by what `write` writes, or leaves it as it was.
/// Missing parent directories are made.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let directory = parent(path);
    fs::create_dir_all(&directory)?;
    let temporary = temporary_beside(path);
    let written = (|| {
        write_synced(&temporary, write)?;
        fs::rename(&temporary, path)?;
        sync_directory(&directory)
    })();
    if written.is_err() {
        // The first error is the one to tell; a leftover harms nothing.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Writes a new file at `path` and waits until it is on the disk.
pub fn write_synced(
    path: &Path,
    write: impl FnOnce(&mut io::BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(1 << 20, File::create(path)?);
    write(&mut out)?;
    out.flush()?;
    out.get_ref().sync_all()
}

/// [`write_synced`] of a JSON document, laid out for people.
pub fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write_synced(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// Reads a JSON document; `None` where there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts the complete directory `built` in the place of `target`. Readers see
/// the old directory or the new one, but for the instant between two renames,
/// in which there is none.
pub fn replace_directory(built: &Path, target: &Path) -> io::Result<()> {
    sync_directory(built)?;
    let old = beside(target, "old");
    match fs::rename(target, &old) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::rename(built, target)?;
    sync_directory(&parent(target))?;
    match fs::remove_dir_all(&old) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Waits until a directory's entries are on the disk.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A name beside `path` that no reader looks for. Unique to this process, as
/// several ranks may write to one shared directory.
pub fn temporary_beside(path: &Path) -> PathBuf {
    beside(path, "tmp")
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{what}-{}", std::process::id()))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_leftover() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        write_atomically(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write_atomically(&path, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("model");
        let built = temporary_beside(&target);
        for round in ["a", "b"] {
            fs::create_dir(&built).unwrap();
            write_synced(&built.join(round), |out| out.write_all(b"x")).unwrap();
            replace_directory(&built, &target).unwrap();
            let names: Vec<_> =
                fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, [round]);
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
