//! Objects → files: by parts, several at a time, each file under its name once it is whole.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::objects::{Object, content};
use super::{FetchError, Wanted, is_whole, remove};
use crate::files::sync_directory;
use crate::s3::{Cause, cause};

/// Below the partial directory: objects that are whole, by their paths.
pub(super) const FILES: &str = "files";
/// Below the partial directory: objects that are not, by their numbers.
const PARTS: &str = "parts";
/// Parts under way at a time. With the bytes of a part, this bounds the memory.
const PARALLEL_PARTS: usize = 8;
/// Time between two lines of the log.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is fetched, and how far it is.
struct Download<'a> {
    wanted: Wanted<'a>,
    objects: &'a [Object],
    files: PathBuf,
    parts: PathBuf,
    /// An object that is being written: its file, and parts that are missing.
    drafts: Vec<Mutex<Draft>>,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Draft {
    file: Option<Arc<File>>,
    missing: u64,
}

struct Told {
    at: Instant,
    bytes: u64,
    of: u64,
}

/// A part of an object, by its number.
struct Part {
    object: usize,
    range: Range<u64>,
}

/// Makes all objects whole in `partial/files`.
pub(super) fn download(
    wanted: Wanted<'_>,
    objects: &[Object],
    partial: &Path,
) -> Result<(), FetchError> {
    let (files, parts) = (partial.join(FILES), partial.join(PARTS));
    // Whoever was killed left parts of objects there, which are begun anew.
    remove(&parts)
        .and_then(|()| fs::create_dir_all(&parts))
        .and_then(|()| fs::create_dir_all(&files))
        .map_err(|error| FetchError::writing(partial, error))?;
    let of = |object: &&Object| !is_whole(&files, object);
    let missing: u64 = objects.iter().filter(of).map(|object| object.size).sum();
    has_room(wanted, missing, partial)?;
    let mut download = Download {
        wanted,
        objects,
        files,
        parts,
        drafts: Vec::with_capacity(objects.len()),
        told: Mutex::new(Told { at: Instant::now(), bytes: 0, of: missing }),
    };
    let plan = download.plan()?;
    download.run(&plan)?;
    download.sync()
}

/// Refuses what the volume cannot take. One that does not tell its free space is tried.
fn has_room(wanted: Wanted<'_>, needed: u64, path: &Path) -> Result<(), FetchError> {
    let Ok(volume) = rustix::fs::statvfs(path) else { return Ok(()) };
    let free = volume.f_bavail.saturating_mul(volume.f_frsize);
    if needed <= free {
        return Ok(());
    }
    Err(FetchError::Space { uri: wanted.uri(), needed, free, path: path.to_owned() })
}

impl Download<'_> {
    /// The parts that are missing, in order. What has no bytes is made at once.
    fn plan(&mut self) -> Result<Vec<Part>, FetchError> {
        let bytes = (self.wanted.bucket.options.part_bytes as u64).max(1);
        let mut plan = Vec::new();
        for (number, object) in self.objects.iter().enumerate() {
            let whole = is_whole(&self.files, object);
            let parts = if whole { 0 } else { object.size.div_ceil(bytes) };
            self.drafts.push(Mutex::new(Draft { file: None, missing: parts }));
            if !whole && parts == 0 {
                let path = self.temporary(number);
                let file =
                    File::create(&path).map_err(|error| FetchError::writing(&path, error))?;
                self.finish(number, &file)?;
            }
            plan.extend((0..parts).map(|part| Part {
                object: number,
                range: part * bytes..((part + 1) * bytes).min(object.size),
            }));
        }
        Ok(plan)
    }

    /// Fetches the parts on several threads; the first error ends it.
    fn run(&self, plan: &[Part]) -> Result<(), FetchError> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let work = || {
            while let Some(part) = plan.get(next.fetch_add(1, Ordering::Relaxed)) {
                if failed.load(Ordering::Relaxed) {
                    break;
                }
                if let Err(error) = self.fetch(part) {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..PARALLEL_PARTS.min(plan.len())).map(|_| scope.spawn(work)).collect();
            let ended = threads.into_iter().map(|thread| match thread.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    fn fetch(&self, part: &Part) -> Result<(), FetchError> {
        let object = &self.objects[part.object];
        let answer = self.wanted.bucket.range(&object.key, &part.range);
        let (told, bytes) = answer.map_err(|error| match cause(&error) {
            Cause::Missing => self.changed(object, "it is gone".to_owned()),
            _ => self.wanted.failed(&error),
        })?;
        if told.size != object.size || bytes.len() as u64 != part.range.end - part.range.start {
            let detail = format!("it has {} bytes, not {}", told.size, object.size);
            return Err(self.changed(object, detail));
        }
        if told.e_tag.is_some() && content(&told) != object.content {
            return Err(self.changed(object, "its ETag is another one".to_owned()));
        }
        self.write(part, &bytes)?;
        self.tell(bytes.len() as u64);
        Ok(())
    }

    /// Writes a part; with the last one the object is whole.
    fn write(&self, part: &Part, bytes: &[u8]) -> Result<(), FetchError> {
        let path = self.temporary(part.object);
        let writing = |error| FetchError::writing(&path, error);
        let draft = || self.drafts[part.object].lock().unwrap_or_else(PoisonError::into_inner);
        let file = {
            let mut draft = draft();
            if let Some(file) = &draft.file {
                Arc::clone(file)
            } else {
                let file = Arc::new(File::create(&path).map_err(writing)?);
                Arc::clone(draft.file.insert(file))
            }
        };
        file.write_all_at(bytes, part.range.start).map_err(writing)?;
        let last = {
            let mut draft = draft();
            draft.missing -= 1;
            if draft.missing == 0 {
                draft.file = None;
            }
            draft.missing == 0
        };
        if last { self.finish(part.object, &file) } else { Ok(()) }
    }

    /// Gives a file its name once it is on the disk.
    fn finish(&self, number: usize, file: &File) -> Result<(), FetchError> {
        let object = &self.objects[number];
        let path = self.files.join(&object.path);
        let writing = |error| FetchError::writing(&path, error);
        file.sync_all().map_err(writing)?;
        let size = file.metadata().map_err(writing)?.len();
        if size != object.size {
            let detail = format!("{size} bytes were written, not {}", object.size);
            return Err(self.changed(object, detail));
        }
        fs::create_dir_all(path.parent().unwrap_or(&self.files)).map_err(writing)?;
        fs::rename(self.temporary(number), &path).map_err(writing)
    }

    /// Waits until the names of all files are on the disk.
    fn sync(&self) -> Result<(), FetchError> {
        let mut directories = BTreeSet::from([self.files.clone()]);
        for object in self.objects {
            let above = object.path.ancestors().skip(1);
            directories.extend(above.map(|directory| self.files.join(directory)));
        }
        directories.iter().try_for_each(|directory| {
            sync_directory(directory).map_err(|error| FetchError::writing(directory, error))
        })
    }

    fn temporary(&self, number: usize) -> PathBuf {
        self.parts.join(number.to_string())
    }

    fn changed(&self, object: &Object, detail: String) -> FetchError {
        FetchError::Changed { uri: self.wanted.uri(), key: object.key.to_string(), detail }
    }

    fn tell(&self, bytes: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.bytes += bytes;
        if told.at.elapsed() >= TELL_EVERY {
            told.at = Instant::now();
            tracing::info!(bytes = told.bytes, of = told.of, "fetching");
        }
    }
}
