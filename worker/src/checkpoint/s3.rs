//! Checkpoints in a bucket of an S3 server.
//!
//! A checkpoint's files are `step-N/gGENERATION/…`, in parts where they are
//! large. `step-N/manifest.json` is put last and makes the checkpoint; it goes
//! first when the checkpoint is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload,
    RetryConfig, WriteMultipart,
};
use tokio::runtime::{Builder, Runtime};

use super::manifest::{MANIFEST, Manifest};
use super::storage::{Draft, Storage, Upload, step_name, step_of};

/// S3 takes at most so many parts.
const MOST_PARTS: u64 = 10_000;
/// Parts under way at a time.
const PARALLEL_PARTS: usize = 4;
/// Times that a request is made whose answer breaks off.
const MOST_ATTEMPTS: u32 = 4;
/// Ways to give credentials that need no key in the environment.
const OTHER_CREDENTIALS: [&str; 3] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// How patient to be with a server.
#[derive(Clone, Copy, Debug)]
pub struct S3Options {
    /// Longest time for one request.
    pub request_timeout: Duration,
    /// Most retries of one request.
    pub max_retries: usize,
    /// No retry later than this after a request's beginning.
    pub retry_timeout: Duration,
    /// Wait before the first retry; each next one is twice as long, with jitter.
    pub first_backoff: Duration,
    /// Longest wait before a retry.
    pub longest_backoff: Duration,
    /// Bytes of a part, where the file is not too large for that.
    pub part_bytes: usize,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_mins(1),
            max_retries: 8,
            retry_timeout: Duration::from_mins(4),
            first_backoff: Duration::from_millis(200),
            longest_backoff: Duration::from_secs(20),
            part_bytes: 8 << 20,
        }
    }
}

/// `s3://BUCKET/PREFIX/checkpoints`.
#[derive(Debug)]
pub struct S3 {
    link: Arc<Link>,
    uri: String,
    prefix: String,
}

/// A server, and how to ask it.
#[derive(Debug)]
struct Link {
    client: AmazonS3,
    runtime: Runtime,
    options: S3Options,
}

/// An object in parts.
struct Parts {
    key: String,
    size: u64,
    link: Arc<Link>,
    upload: Option<WriteMultipart>,
}

/// An object that is small enough for one request.
struct Whole {
    key: String,
    link: Arc<Link>,
    bytes: Vec<u8>,
}

impl Link {
    /// Asks, and asks again where the answer broke off, which the client does
    /// not try again; what it does try is over when it returns.
    fn ask<T, F: Future<Output = Result<T, object_store::Error>>>(
        &self,
        (what, key): (&str, &str),
        request: impl Fn(Key) -> F,
    ) -> io::Result<T> {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            let error = match self.runtime.block_on(request(Key::from(key))) {
                Ok(answer) => return Ok(answer),
                Err(error) => told(what, key, &error),
            };
            attempts += 1;
            if error.kind() != io::ErrorKind::ConnectionAborted
                || attempts >= MOST_ATTEMPTS
                || began.elapsed() >= self.options.retry_timeout
            {
                return Err(error);
            }
            tracing::warn!(attempts, "{error}; it is tried again");
            std::thread::sleep(self.options.first_backoff * attempts);
        }
    }

    fn size(&self, key: &str) -> io::Result<u64> {
        let head = self.ask(("head", key), |key| async move { self.client.head(&key).await })?;
        Ok(head.size)
    }
}

impl S3 {
    /// The checkpoints below `uri`, with endpoint, region and credentials from
    /// the standard `AWS_…` variables.
    pub fn from_environment(uri: &str, options: S3Options) -> io::Result<Self> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let keys = set("AWS_ACCESS_KEY_ID") && set("AWS_SECRET_ACCESS_KEY");
        if !keys && !OTHER_CREDENTIALS.iter().any(|name| set(name)) {
            return Err(invalid(
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from the output's secret",
            ));
        }
        let endpoint = std::env::var("AWS_ENDPOINT_URL").unwrap_or_default();
        let http = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true");
        if endpoint.starts_with("http://") && !http {
            return Err(invalid(&format!(
                "AWS_ENDPOINT_URL is {endpoint}, without TLS; set AWS_ALLOW_HTTP=true if that is meant"
            )));
        }
        let client = ClientOptions::new().with_allow_http(http);
        Self::open(AmazonS3Builder::from_env(), client, uri, options)
    }

    /// The checkpoints below `uri` on a server of one's own, with fixed keys.
    pub fn at_endpoint(
        endpoint: &str,
        (key, secret): (&str, &str),
        uri: &str,
        options: S3Options,
    ) -> io::Result<Self> {
        let builder = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_access_key_id(key)
            .with_secret_access_key(secret);
        let client = ClientOptions::new().with_allow_http(endpoint.starts_with("http://"));
        Self::open(builder, client, uri, options)
    }

    fn open(
        builder: AmazonS3Builder,
        client: ClientOptions,
        uri: &str,
        options: S3Options,
    ) -> io::Result<Self> {
        let (bucket, prefix) = uri
            .strip_prefix("s3://")
            .map(|rest| rest.split_once('/').unwrap_or((rest, "")))
            .filter(|(bucket, _)| !bucket.is_empty())
            .ok_or_else(|| invalid(&format!("{uri} is not s3://BUCKET/PREFIX")))?;
        let client = builder
            .with_bucket_name(bucket)
            .with_client_options(
                client
                    .with_timeout(options.request_timeout)
                    .with_connect_timeout(options.request_timeout.min(Duration::from_secs(10))),
            )
            .with_retry(RetryConfig {
                backoff: BackoffConfig {
                    init_backoff: options.first_backoff,
                    max_backoff: options.longest_backoff,
                    base: 2.0,
                },
                max_retries: options.max_retries,
                retry_timeout: options.retry_timeout,
            })
            .build()
            .map_err(|error| invalid(&error.to_string()))?;
        // Of its own, since who calls may be in no runtime; one thread drives
        // what several calls wait for.
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("s3").enable_all().build()?;
        let link = Arc::new(Link { client, runtime, options });
        Ok(Self { link, uri: uri.to_owned(), prefix: prefix.to_owned() })
    }

    fn key(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    /// Paths of all objects below `directory`, which is empty for all.
    fn paths(&self, directory: &str) -> io::Result<Vec<String>> {
        use futures::TryStreamExt as _;
        let from = if directory.is_empty() { self.prefix.clone() } else { self.key(directory) };
        let found: Vec<_> = self.link.ask(("list", &from), |key| async move {
            self.link.client.list(Some(&key)).try_collect().await
        })?;
        let below = self.key("");
        let relative = |object: &object_store::ObjectMeta| {
            Some(object.location.as_ref().strip_prefix(&below)?.to_owned())
        };
        Ok(found.iter().filter_map(relative).collect())
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let key = self.key(path);
        let client = &self.link.client;
        match self.link.ask(("delete", &key), |key| async move { client.delete(&key).await }) {
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
            link.ask(("put", &key), |key| async move { client.put_multipart(&key).await })?;
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
        self.link.size(&self.key(path))
    }

    fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let key = self.key(path);
        let range = offset..offset + buffer.len() as u64;
        let client = &self.link.client;
        let bytes = self.link.ask(("get", &key), |key| {
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
        match self.link.size(&self.key) {
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
        link.ask(("put", &key), |key| {
            let payload = payload.clone();
            let client = &link.client;
            async move { client.put(&key, payload).await }
        })?;
        Ok(())
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
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
