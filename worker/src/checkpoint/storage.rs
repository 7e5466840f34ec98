//! Where checkpoints are kept: a directory, or a bucket of an S3 server.
//!
//! Paths are relative to `checkpoints/` of a job's output and use `/`. A
//! checkpoint is first a draft, which no search finds; [`Storage::publish`]
//! makes it the checkpoint of its step in one operation.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::directory::Directory;
use super::s3::S3;
use crate::error::Error;
use crate::s3::S3Options;

/// A place for checkpoints.
///
/// Errors of kind `NotFound`, `InvalidData` and `UnexpectedEof` tell of what is
/// stored; `PermissionDenied` and `ConnectionAborted` of a place that cannot be
/// asked, from which nothing may be concluded.
pub trait Storage: fmt::Debug + Send + Sync {
    /// The place of `path`, for people, status and events.
    fn place(&self, path: &str) -> PathBuf;

    /// Removes what interrupted saves and removals left. For rank 0, before any
    /// rank saves.
    fn prepare(&self) -> io::Result<()>;

    /// Steps that have a published checkpoint, good or not.
    fn steps(&self) -> io::Result<Vec<u64>>;

    /// Starts a file of `size` bytes. It is there, and durable, once finished.
    fn create(&self, path: &str, size: u64) -> io::Result<Box<dyn Upload>>;

    /// Makes a draft whose other files are finished the checkpoint of its step,
    /// in place of one that is there. `manifest` is the text of its manifest.
    fn publish(&self, draft: &Draft, manifest: &[u8]) -> io::Result<()>;

    /// Removes the checkpoint of a step. A crash in the middle leaves nothing
    /// that a search finds.
    fn remove(&self, step: u64) -> io::Result<()>;

    /// Bytes of a file.
    fn size(&self, path: &str) -> io::Result<u64>;

    /// Fills `buffer` from a file, from byte `offset` on.
    fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Where a draft's files go. Drafts of different generations share no file:
    /// a rank that was given up and still writes harms nothing.
    fn draft(&self, step: u64, generation: u32) -> Draft;

    /// A whole file.
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let size = usize::try_from(self.size(path)?).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        self.read_at(path, 0, &mut bytes)?;
        Ok(bytes)
    }
}

/// A file that is being written. Dropped unfinished, it is given up.
pub trait Upload: Send {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Completes the file and waits until it is durable.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A checkpoint in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Optimizer step.
    pub step: u64,
    /// Directory of its files while it is one.
    pub directory: String,
    /// What precedes a file's name once the checkpoint is published.
    pub prefix: String,
}

/// Name of a step's directory.
pub fn step_name(step: u64) -> String {
    format!("step-{step}")
}

/// The step of a name that [`step_name`] made.
pub fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

/// The place of a job's checkpoints: a path, `file:///PATH`, or `s3://BUCKET/PREFIX` with the standard `AWS_…` variables in the environment.
pub fn from_uri(place: &str) -> Result<Arc<dyn Storage>, Error> {
    if place.starts_with("s3://") {
        let opened = S3::from_environment(place, S3Options::default());
        let storage =
            opened.map_err(|source| Error::Output { path: PathBuf::from(place), source })?;
        return Ok(Arc::new(storage));
    }
    match place.strip_prefix("file://").unwrap_or(place) {
        path if path.contains("://") => Err(Error::Output {
            path: PathBuf::from(place),
            source: io::Error::new(
                io::ErrorKind::InvalidInput,
                "checkpoints go to a path or to s3://BUCKET/PREFIX",
            ),
        }),
        path => Ok(Arc::new(Directory::new(PathBuf::from(path)))),
    }
}
