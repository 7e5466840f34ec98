//! Checkpoints in a bucket of an S3 server.
//!
//! A checkpoint's files are `step-N/gGENERATION/…`, in parts where they are
//! large. `step-N/manifest.json` is put last and makes the checkpoint; it goes
//! first when the checkpoint is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, WriteMultipart};

use super::manifest::{MANIFEST, Manifest};
use super::storage::{Draft, Storage, Upload, step_name, step_of};
use crate::s3::{Bucket, S3Options, invalid};

/// S3 takes at most so many parts.
const MOST_PARTS: u64 = 10_000;
/// Parts under way at a time.
const PARALLEL_PARTS: usize = 4;

/// `s3://BUCKET/PREFIX/checkpoints`.
#[derive(Debug)]
pub struct S3 {
    link: Arc<Bucket>,
    uri: String,
    prefix: String,
}

/// An object in parts.
struct Parts {
    key: String,
    size: u64,
    link: Arc<Bucket>,
    upload: Option<WriteMultipart>,
}

/// An object that is small enough for one request.
struct Whole {
    key: String,
    link: Arc<Bucket>,
    bytes: Vec<u8>,
}

/// As [`Bucket::ask`], with the client's last word as a storage's error.
fn ask<T, F: Future<Output = Result<T, object_store::Error>>>(
    bucket: &Bucket,
    (what, key): (&str, &str),
    request: impl Fn(Key) -> F,
) -> io::Result<T> {
    let answer = bucket.ask((what, &Key::from(key)), request);
    answer.map_err(|error| told(what, key, &error))
}

fn size(bucket: &Bucket, key: &str) -> io::Result<u64> {
    let head = bucket.head(&Key::from(key)).map_err(|error| told("head", key, &error))?;
    Ok(head.size)
}

impl S3 {
    /// The checkpoints below `uri`, with endpoint, region and credentials from
    /// the standard `AWS_…` variables.
    pub fn from_environment(uri: &str, options: S3Options) -> io::Result<Self> {
        let (bucket, prefix) = parts(uri)?;
        Ok(Self::below(Bucket::from_environment(bucket, options)?, uri, prefix))
    }

    /// The checkpoints below `uri` on a server of one's own, with fixed keys.
    pub fn at_endpoint(
        endpoint: &str,
        keys: (&str, &str),
        uri: &str,
        options: S3Options,
    ) -> io::Result<Self> {
        let (bucket, prefix) = parts(uri)?;
        Ok(Self::below(Bucket::at_endpoint(endpoint, keys, bucket, options)?, uri, prefix))
    }

    fn below(bucket: Bucket, uri: &str, prefix: &str) -> Self {
        Self { link: Arc::new(bucket), uri: uri.to_owned(), prefix: prefix.to_owned() }
    }

    fn key(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    /// Paths of all objects below `directory`, which is empty for all.
    fn paths(&self, directory: &str) -> io::Result<Vec<String>> {
        let from = if directory.is_empty() { self.prefix.clone() } else { self.key(directory) };
        let found = self.link.list(&Key::from(from.as_str()));
        let found = found.map_err(|error| told("list", &from, &error))?;
        let below = self.key("");
        let relative = |object: &object_store::ObjectMeta| {
            Some(object.location.as_ref().strip_prefix(&below)?.to_owned())
        };
        Ok(found.iter().filter_map(relative).collect())
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let key = self.key(path);
        let client = &self.link.client;
        match ask(&self.link, ("delete", &key), |key| async move { client.delete(&key).await }) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        Box::new(Whole { key: self.key(path), link: Arc::clone(&self.link), bytes }).finish()
    }
}

impl Storage for S3 {
    fn place(&self, path: &str) -> PathBuf {
        PathBuf::from(if path.is_empty() {
            self.uri.clone()
        } else {
            format!("{}/{path}", self.uri)
        })
    }

    fn prepare(&self) -> io::Result<()> {
        let mut files: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for path in self.paths("")? {
            if let Some((step, name)) = path.split_once('/')
                && let Some(step) = step_of(step)
            {
                files.entry(step).or_default().push(name.to_owned());
            }
        }
        for (step, names) in files {
            let wanted = if names.iter().any(|name| name == MANIFEST) {
                // A manifest that says nothing gives no leave to remove.
                let Ok(manifest) = Manifest::read(self, step) else { continue };
                manifest.files.into_iter().map(|file| file.name).collect()
            } else {
                BTreeSet::new()
            };
            for name in names.iter().filter(|name| *name != MANIFEST && !wanted.contains(*name)) {
                self.delete(&format!("{}/{name}", step_name(step)))?;
            }
        }
        Ok(())
    }

    fn steps(&self) -> io::Result<Vec<u64>> {
        let step = |path: &String| match path.split_once('/')? {
            (step, MANIFEST) => step_of(step),
            _ => None,
        };
        Ok(self.paths("")?.iter().filter_map(step).collect())
    }

    fn create(&self, path: &str, size: u64) -> io::Result<Box<dyn Upload>> {
        let (key, link) = (self.key(path), Arc::clone(&self.link));
        if size <= link.options.part_bytes as u64 {
            return Ok(Box::new(Whole { key, link, bytes: Vec::new() }));
        }
        let client = &link.client;
        let upload: Box<dyn MultipartUpload> =
            ask(&link, ("put", &key), |key| async move { client.put_multipart(&key).await })?;
        let least = usize::try_from(size.div_ceil(MOST_PARTS)).map_err(io::Error::other)?;
        let part_bytes = link.options.part_bytes.max(least);
        let upload = Some(WriteMultipart::new_with_chunk_size(upload, part_bytes));
        Ok(Box::new(Parts { key, size, link, upload }))
    }

    fn publish(&self, draft: &Draft, manifest: &[u8]) -> io::Result<()> {
        self.put(&format!("{}/{MANIFEST}", step_name(draft.step)), manifest.to_vec())
    }

    fn remove(&self, step: u64) -> io::Result<()> {
        let directory = step_name(step);
        self.delete(&format!("{directory}/{MANIFEST}"))?;
        self.paths(&directory)?.iter().try_for_each(|path| self.delete(path))
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        size(&self.link, &self.key(path))
    }

    fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let key = self.key(path);
        let range = offset..offset + buffer.len() as u64;
        let client = &self.link.client;
        let bytes = ask(&self.link, ("get", &key), |key| {
            let range = range.clone();
            async move { client.get_range(&key, range).await }
        })?;
        if bytes.len() != buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{} bytes from byte {offset} on, not {}", bytes.len(), buffer.len()),
            ));
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    fn draft(&self, step: u64, generation: u32) -> Draft {
        let prefix = format!("g{generation}/");
        Draft { step, directory: format!("{}/g{generation}", step_name(step)), prefix }
    }
}

impl Upload for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let written = self.link.runtime.block_on(async {
            upload.wait_for_capacity(PARALLEL_PARTS).await?;
            upload.write(bytes);
            Ok(())
        });
        written.map_err(|error| told("put a part of", &self.key, &error))
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let Some(upload) = self.upload.take() else { return Ok(()) };
        let Err(error) = self.link.runtime.block_on(upload.finish()) else { return Ok(()) };
        // Where only the answer was lost, the object is there.
        match size(&self.link, &self.key) {
            Ok(size) if size == self.size => Ok(()),
            _ => Err(told("put", &self.key, &error)),
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Unseen parts would stay on the server, and be paid for.
        if let Some(upload) = self.upload.take()
            && let Err(error) = self.link.runtime.block_on(upload.abort())
        {
            tracing::warn!(key = self.key, %error, "an unfinished upload stays on the server");
        }
    }
}

impl Upload for Whole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { key, link, bytes } = *self;
        let payload = PutPayload::from(bytes);
        ask(&link, ("put", &key), |key| {
            let payload = payload.clone();
            let client = &link.client;
            async move { client.put(&key, payload).await }
        })?;
        Ok(())
    }
}

/// Bucket and prefix.
fn parts(uri: &str) -> io::Result<(&str, &str)> {
    let rest = uri.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
    rest.filter(|(bucket, _)| !bucket.is_empty())
        .ok_or_else(|| invalid(&format!("{uri} is not s3://BUCKET/PREFIX")))
}

/// The client's last word, after its retries.
fn told(what: &str, key: &str, error: &object_store::Error) -> io::Error {
    use object_store::Error as Store;
    let kind = match error {
        Store::NotFound { .. } => io::ErrorKind::NotFound,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, format!("cannot {what} {key}: {error}"))
}
