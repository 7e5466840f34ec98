//! Objects of a bucket → files on the output's volume, fetched once while the bucket stays as it is.
//!
//! `OUTPUT/fetched/ID.partial/` holds `files/` (objects that are whole) and `parts/` (those that
//! are not). When all are whole, `files/` becomes `OUTPUT/fetched/ID/`. The name follows from what the server
//! says of the objects (keys, sizes, ETags), so that a run that was killed goes on with what is
//! whole, and what changed in the bucket is fetched under another name.

mod download;
mod objects;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_crds::source::Source;
use hearth_crds::worker_config::{DataFile, ExitCode};
use hearth_prepare::Lock;
use object_store::path::Path as Key;

use crate::files::sync_directory;
use crate::s3::{Bucket, Cause, S3Options, cause, said};
use objects::{BadKey, Object};

/// Below the output: what was fetched.
pub const FETCHED: &str = "fetched";
/// Time between two looks for objects that are not there yet.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a source cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The environment says too little of the server.
    #[error("{uri}: {detail}")]
    Environment {
        /// The source.
        uri: String,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// There is no such bucket, or nothing in it under the key.
    #[error("{uri}: {detail}")]
    Missing {
        /// The source.
        uri: String,
        /// What is missing, and what to do.
        detail: String,
    },
    /// The server does not let these credentials read it.
    #[error(
        "{uri}: the server refuses it ({said}); look at the keys (in a job, the Secret of data.secretName) and at their rights to list the bucket and get its objects"
    )]
    Refused {
        /// The source.
        uri: String,
        /// What the server said.
        said: String,
    },
    /// A key that cannot be a file's path.
    #[error(
        "{uri}: the key {key:?} {detail}, so that no file can be made of it; rename the object"
    )]
    Key {
        /// The source.
        uri: String,
        /// The key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Somebody wrote to the bucket meanwhile.
    #[error("{uri}: {key} changed while it was fetched ({detail}); start again when it is whole")]
    Changed {
        /// The source.
        uri: String,
        /// The object.
        key: String,
        /// What differs.
        detail: String,
    },
    /// The volume is too small.
    #[error(
        "{uri} has {needed} bytes yet to fetch, and {} has room for {free}; free space, or choose another data.preparation.output",
        path.display()
    )]
    Space {
        /// The source.
        uri: String,
        /// Bytes that are missing.
        needed: u64,
        /// Bytes that are free.
        free: u64,
        /// The directory.
        path: PathBuf,
    },
    /// The output directory.
    #[error("cannot write {}; free space, or choose another data.preparation.output", path.display())]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server, or the way to it.
    #[error(
        "{uri}: the server does not give it ({said}); look at the server, and at AWS_ENDPOINT_URL"
    )]
    Server {
        /// The source.
        uri: String,
        /// What the server or the client said.
        said: String,
    },
}

impl FetchError {
    fn writing(path: &Path, source: io::Error) -> Self {
        Self::Write { path: path.to_owned(), source }
    }

    /// CamelCase reason, from the closed set of the worker's other errors.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Environment { .. } | Self::Refused { .. } => "BadConfig",
            Self::Missing { .. } => "MissingInput",
            Self::Key { .. } => "BadData",
            Self::Changed { .. } | Self::Server { .. } => "ReadFailed",
            Self::Space { .. } | Self::Write { .. } => "OutputFailed",
        }
    }

    /// The exit code that goes with the reason.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Environment { .. } | Self::Refused { .. } => ExitCode::Usage,
            Self::Missing { .. } => ExitCode::NoInput,
            Self::Key { .. } => ExitCode::Data,
            Self::Changed { .. }
            | Self::Server { .. }
            | Self::Space { .. }
            | Self::Write { .. } => ExitCode::Failure,
        }
    }

    /// All of it in one line.
    pub fn sentence(&self) -> String {
        match self {
            Self::Write { source, .. } => format!("{self}: {source}"),
            other => other.to_string(),
        }
    }
}

/// A source in a bucket: an object, or with `/` at the end of the key all objects below it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The bucket.
    pub bucket: &'a Bucket,
    /// Key or prefix, as the source has it.
    pub key: &'a str,
}

/// Fetches the rows, where they are in a bucket, to a directory below `output`, and says in
/// `rows` where they are. Waits until `until` for objects that are not there yet.
pub fn fetch_rows(rows: &mut DataFile, output: &Path, until: Instant) -> Result<(), FetchError> {
    let Ok(Source::S3 { bucket, key }) = Source::parse(&rows.uri) else { return Ok(()) };
    // A path that is known is one of files that are there.
    if !rows.path.as_os_str().is_empty() {
        return Ok(());
    }
    let bucket = Bucket::from_environment(&bucket, S3Options::default()).map_err(|error| {
        FetchError::Environment { uri: rows.uri.clone(), detail: error.to_string() }
    })?;
    rows.path = fetch(Wanted { bucket: &bucket, key: &key }, output, until)?;
    Ok(())
}

/// Fetches what is wanted, or finds it fetched: the file, or the directory.
pub fn fetch(wanted: Wanted<'_>, output: &Path, until: Instant) -> Result<PathBuf, FetchError> {
    let objects = wanted.find_until(until)?;
    let id = objects::id(&wanted.bucket.name, wanted.key, &objects);
    let root = output.join(FETCHED);
    let done = root.join(&id);
    let path = if wanted.is_prefix() { done.clone() } else { done.join(&objects[0].path) };
    let writing = |error| FetchError::writing(&root, error);
    fs::create_dir_all(&root).map_err(writing)?;
    let _lock = Lock::wait(&root.join(format!(".{id}.lock"))).map_err(writing)?;
    let uri = wanted.uri();
    if objects.iter().all(|object| is_whole(&done, object)) {
        tracing::info!(path = %path.display(), "{uri} is fetched already");
        return Ok(path);
    }
    let partial = root.join(format!("{id}.partial"));
    let bytes: u64 = objects.iter().map(|object| object.size).sum();
    tracing::info!(objects = objects.len(), bytes, "fetching {uri}");
    download::download(wanted, &objects, &partial)?;
    let published = remove(&done)
        .and_then(|()| fs::rename(partial.join(download::FILES), &done))
        .and_then(|()| sync_directory(&root))
        .and_then(|()| remove(&partial));
    published.map_err(|error| FetchError::writing(&done, error))?;
    tracing::info!(path = %path.display(), "{uri} is fetched");
    Ok(path)
}

/// Whether an object is there as a file, which it is only once it is whole.
fn is_whole(directory: &Path, object: &Object) -> bool {
    let there = fs::metadata(directory.join(&object.path));
    there.is_ok_and(|file| file.is_file() && file.len() == object.size)
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Wanted<'_> {
    fn uri(&self) -> String {
        format!("s3://{}/{}", self.bucket.name, self.key)
    }

    fn is_prefix(&self) -> bool {
        self.key.ends_with('/')
    }

    /// [`Self::find`], again and again while there is nothing and time is left.
    fn find_until(&self, until: Instant) -> Result<Vec<Object>, FetchError> {
        let mut told = false;
        loop {
            let found = self.find();
            let left = until.saturating_duration_since(Instant::now());
            if !matches!(found, Err(FetchError::Missing { .. })) || left.is_zero() {
                return found;
            }
            if !told {
                tracing::info!("waiting for {}", self.uri());
                told = true;
            }
            std::thread::sleep(LOOK_EVERY.min(left));
        }
    }

    /// What there is to fetch: one object at least.
    fn find(&self) -> Result<Vec<Object>, FetchError> {
        let plain = self.key.strip_suffix('/').unwrap_or(self.key);
        objects::relative(plain).map_err(|bad| self.bad(bad))?;
        let key = Key::parse(plain).map_err(|error| FetchError::Key {
            uri: self.uri(),
            key: plain.to_owned(),
            detail: format!("is no path ({error})"),
        })?;
        if !self.is_prefix() {
            return match self.bucket.head(&key) {
                Ok(told) => Ok(vec![Object::single(&told).map_err(|bad| self.bad(bad))?]),
                Err(error) if cause(&error) == Cause::Missing => Err(self.no_object(&key)),
                Err(error) => Err(self.failed(&error)),
            };
        }
        let found = self.bucket.list(&key).map_err(|error| self.failed(&error))?;
        let objects = objects::below(&key, &found).map_err(|bad| self.bad(bad))?;
        if objects.is_empty() {
            return Err(self.missing("no object of any bytes is below this key; check it"));
        }
        Ok(objects)
    }

    /// Why there is no object: a server's answer to HEAD does not tell.
    fn no_object(&self, key: &Key) -> FetchError {
        match self.bucket.any_below(key) {
            Ok(true) => self.missing(&format!(
                "it is no object, and there are some below it; write {}/ for all of them",
                self.uri()
            )),
            Ok(false) => self.missing(
                "there is no such object; check the key, and write / at its end for all objects below it",
            ),
            Err(error) if cause(&error) == Cause::Refused => self.missing(
                "there is no such object, or these keys may not list the bucket; check the key",
            ),
            Err(error) => self.failed(&error),
        }
    }

    fn missing(&self, detail: &str) -> FetchError {
        FetchError::Missing { uri: self.uri(), detail: detail.to_owned() }
    }

    fn bad(&self, BadKey { key, detail }: BadKey) -> FetchError {
        FetchError::Key { uri: self.uri(), key, detail: detail.to_owned() }
    }

    /// What a failed request says. Of a list, that nothing is there is said of the bucket.
    fn failed(&self, error: &object_store::Error) -> FetchError {
        let uri = self.uri();
        match cause(error) {
            Cause::Missing => self.missing(&format!(
                "the server has no bucket {}; check its name, AWS_ENDPOINT_URL and AWS_REGION",
                self.bucket.name
            )),
            Cause::Refused => FetchError::Refused { uri, said: said(error) },
            Cause::BadKey => FetchError::Key {
                uri,
                key: self.key.to_owned(),
                detail: format!("has one below it that is no path ({error})"),
            },
            Cause::Server => FetchError::Server { uri, said: said(error) },
        }
    }
}
