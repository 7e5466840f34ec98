//! Writes that a crash cannot tear (a temporary name, fsync, rename, fsync of the directory), and
//! locks that go with the process that holds them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are read or written at a time.
pub(crate) const BUFFER: usize = 1 << 20;

/// A file that is there under its name only once it is whole.
#[derive(Debug)]
pub(crate) struct Whole {
    out: BufWriter<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl Whole {
    /// Begins the file at `path`.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let temporary = temporary_beside(path);
        let out = BufWriter::with_capacity(BUFFER, File::create(&temporary)?);
        Ok(Self { out, temporary, path: path.to_owned() })
    }

    /// Waits until it is on the disk, and gives it its name; see [`sync_directory`].
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        fs::rename(&self.temporary, &self.path)
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Makes the file at `path` of what `write` writes, or leaves what was there.
pub(crate) fn write_whole<T>(
    path: &Path,
    write: impl FnOnce(&mut Whole) -> io::Result<T>,
) -> io::Result<T> {
    let written = (|| {
        let mut out = Whole::create(path)?;
        let told = write(&mut out)?;
        out.finish()?;
        sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        Ok(told)
    })();
    if written.is_err() {
        // The first error is the one to tell; a leftover harms nothing.
        let _ = fs::remove_file(temporary_beside(path));
    }
    written
}

/// Makes the file at `path` of `value` as JSON.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> io::Result<()> {
    write_whole(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// What the JSON file at `path` says; `None` where there is none that can be read.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Name beside `path` that no reader looks for. The lock keeps other processes away, so one name
/// does, and a leftover is overwritten.
pub(crate) fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Waits until a directory's entries are on the disk.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes what is at `path`, if anything.
pub(crate) fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Size and BLAKE3 of a file; `tell` learns of each part that was read.
pub(crate) fn hash_file(path: &Path, mut tell: impl FnMut(u64)) -> io::Result<(u64, blake3::Hash)> {
    let mut file = File::open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((total, hasher.finalize())),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                total += read as u64;
                tell(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A lock (`flock`) whose file goes when it is let go.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Waits for the lock at `path`, whose file is made where it is missing.
    pub fn wait(path: &Path) -> io::Result<Self> {
        loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    tracing::info!(path = %path.display(), "another process prepares this data; waits for it");
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Who held it before removed this file, perhaps, and a third made another.
            if is_at(&file, path)? {
                return Ok(Self { file, path: path.to_owned() });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is held: see `is_at` above. Where that fails, the next run does it.
        let _ = fs::remove_file(&self.path);
        let _ = self.file.unlock();
    }
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_leftover() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        write_whole(&path, |out| out.write_all(b"old")).unwrap();
        let failed = write_whole(&path, |out| {
            out.write_all(b"half")?;
            Err::<(), _>(io::Error::other("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_holds_a_lock_at_a_time_though_its_file_comes_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::wait(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert!(!path.exists());
    }
}
