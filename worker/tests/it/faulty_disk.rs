//! A disk that fails, fills up, or dies at a chosen operation, and loses what
//! was never synced when its power goes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hearth_worker::files::{Disk, LocalDisk};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails, and only it.
    Fails,
    /// From here on no operation happens.
    Dies,
    /// From here on nothing new fits.
    Full,
    /// The process ends at once.
    Aborts,
}

/// A mistake that a store could make; the tests must notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Files are not synced.
    NoSync,
    /// Files are written where they are looked for, with no temporary name.
    InPlace,
}

#[derive(Debug, Default)]
struct Seen {
    count: usize,
    unsynced: BTreeSet<PathBuf>,
    /// Directory, entry, and what the entry was called before.
    entries: Vec<(PathBuf, PathBuf, Option<PathBuf>)>,
}

/// Does what a disk does until operation `at`, counted from 0.
#[derive(Debug)]
pub(crate) struct FaultyDisk {
    fault: Fault,
    at: usize,
    bug: Option<Bug>,
    seen: Mutex<Seen>,
}

impl FaultyDisk {
    pub(crate) fn new(fault: Fault, at: usize, bug: Option<Bug>) -> Self {
        Self { fault, at, bug, seen: Mutex::default() }
    }

    /// Whether the chosen operation came.
    pub(crate) fn struck(&self) -> bool {
        self.seen.lock().unwrap().count > self.at
    }

    /// Takes back what a machine that loses its power may lose.
    pub(crate) fn lose_power(&self) {
        let seen = self.seen.lock().unwrap();
        for path in &seen.unsynced {
            if let Ok(file) = File::options().write(true).open(path) {
                let length = file.metadata().unwrap().len();
                file.set_len(length / 2).unwrap();
            }
        }
        for (_, entry, before) in seen.entries.iter().rev() {
            match before {
                Some(before) => {
                    let _ = fs::rename(entry, before);
                }
                None if entry.is_dir() => {
                    let _ = fs::remove_dir_all(entry);
                }
                None => {
                    let _ = fs::remove_file(entry);
                }
            }
        }
    }

    fn operation(&self, adds: bool) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        let now = seen.count;
        seen.count += 1;
        let failed = match self.fault {
            Fault::Fails if now == self.at => io::Error::other("planned failure"),
            Fault::Dies if now >= self.at => io::Error::other("the process is dead"),
            Fault::Full if now >= self.at && adds => io::ErrorKind::StorageFull.into(),
            Fault::Aborts if now == self.at => std::process::abort(),
            _ => return Ok(()),
        };
        Err(failed)
    }

    /// Where the planted bug puts a file.
    fn place(&self, path: &Path) -> PathBuf {
        if self.bug != Some(Bug::InPlace) {
            return path.to_owned();
        }
        let parts = path.components().map(|part| {
            let name = part.as_os_str().to_string_lossy().into_owned();
            match name.strip_prefix(".step-").and_then(|rest| rest.split_once('.')) {
                Some((step, generation)) if generation != "removed" => format!("step-{step}"),
                _ => name,
            }
        });
        parts.collect()
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap().to_owned()
}

impl Disk for FaultyDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.operation(true)?;
        let path = self.place(path);
        if !path.exists() {
            self.seen.lock().unwrap().entries.push((parent(&path), path.clone(), None));
        }
        LocalDisk.create_directory(&path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.operation(true)?;
        let path = self.place(path);
        let mut seen = self.seen.lock().unwrap();
        seen.entries.push((parent(&path), path.clone(), None));
        seen.unsynced.insert(path.clone());
        LocalDisk.create(&path)
    }

    fn write(&self, path: &Path, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        // A death in the middle of a write leaves half of it.
        if let Err(error) = self.operation(true) {
            LocalDisk.write(path, file, &bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        self.seen.lock().unwrap().unsynced.insert(self.place(path));
        LocalDisk.write(path, file, bytes)
    }

    fn sync(&self, path: &Path, file: &File) -> io::Result<()> {
        self.operation(false)?;
        if self.bug != Some(Bug::NoSync) {
            self.seen.lock().unwrap().unsynced.remove(&self.place(path));
        }
        LocalDisk.sync(path, file)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.operation(false)?;
        let path = self.place(path);
        self.seen.lock().unwrap().entries.retain(|(directory, ..)| *directory != path);
        LocalDisk.sync_directory(&path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operation(false)?;
        let (from, to) = (self.place(from), self.place(to));
        LocalDisk.rename(&from, &to)?;
        let mut seen = self.seen.lock().unwrap();
        let moved = |path: &Path| match path.strip_prefix(&from) {
            Ok(below) if below.as_os_str().is_empty() => to.clone(),
            Ok(below) => to.join(below),
            Err(_) => path.to_owned(),
        };
        seen.unsynced = seen.unsynced.iter().map(|path| moved(path)).collect();
        for (directory, entry, _) in &mut seen.entries {
            (*directory, *entry) = (moved(directory), moved(entry));
        }
        seen.entries.push((parent(&to), to, Some(from)));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.operation(false)?;
        LocalDisk.remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        self.operation(false)?;
        LocalDisk.remove_directory(path)
    }
}
