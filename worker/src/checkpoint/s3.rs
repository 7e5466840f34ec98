//! Checkpoints in a bucket of an S3 server.
//!
//! A checkpoint's files are `step-N/gGENERATION/…`, in parts where they are
//! large. `step-N/manifest.json` is put last and makes the checkpoint; it goes
//! first when the checkpoint is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    client: Arc<AmazonS3>,
    runtime: Arc<Runtime>,
    uri: String,
    prefix: String,
    part_bytes: usize,
}

/// An object in parts.
struct Parts {
    key: String,
    runtime: Arc<Runtime>,
    upload: Option<WriteMultipart>,
}

/// An object that is small enough for one request.
struct Whole {
    key: String,
    runtime: Arc<Runtime>,
    client: Arc<AmazonS3>,
    bytes: Vec<u8>,
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
        Ok(Self {
            client: Arc::new(client),
            runtime: Arc::new(runtime),
            uri: uri.to_owned(),
            prefix: prefix.to_owned(),
            part_bytes: options.part_bytes,
        })
    }

    fn key(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    /// Paths of all objects below `directory`, which is empty for all.
    fn paths(&self, directory: &str) -> io::Result<Vec<String>> {
        use futures::TryStreamExt as _;
        let from = if directory.is_empty() { self.prefix.clone() } else { self.key(directory) };
        let found: Vec<_> = self
            .runtime
            .block_on(self.client.list(Some(&Key::from(from.as_str()))).try_collect())
            .map_err(|error| told("list", &from, &error))?;
        let below = self.key("");
        let relative = |object: &object_store::ObjectMeta| {
            Some(object.location.as_ref().strip_prefix(&below)?.to_owned())
        };
        Ok(found.iter().filter_map(relative).collect())
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let key = self.key(path);
        match self.runtime.block_on(self.client.delete(&Key::from(key.as_str()))) {
            Err(error) if !matches!(error, object_store::Error::NotFound { .. }) => {
                Err(told("delete", &key, &error))
            }
            _ => Ok(()),
        }
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        let (runtime, client) = (Arc::clone(&self.runtime), Arc::clone(&self.client));
        Box::new(Whole { key: self.key(path), runtime, client, bytes }).finish()
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
        let (key, runtime) = (self.key(path), Arc::clone(&self.runtime));
        if size <= self.part_bytes as u64 {
            let client = Arc::clone(&self.client);
            return Ok(Box::new(Whole { key, runtime, client, bytes: Vec::new() }));
        }
        let upload: Box<dyn MultipartUpload> = runtime
            .block_on(self.client.put_multipart(&Key::from(key.as_str())))
            .map_err(|error| told("put", &key, &error))?;
        let least = usize::try_from(size.div_ceil(MOST_PARTS)).map_err(io::Error::other)?;
        let parts = WriteMultipart::new_with_chunk_size(upload, self.part_bytes.max(least));
        Ok(Box::new(Parts { key, runtime, upload: Some(parts) }))
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
        let key = self.key(path);
        let head = self.runtime.block_on(self.client.head(&Key::from(key.as_str())));
        Ok(head.map_err(|error| told("head", &key, &error))?.size)
    }

    fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let key = self.key(path);
        let range = offset..offset + buffer.len() as u64;
        let bytes = self
            .runtime
            .block_on(self.client.get_range(&Key::from(key.as_str()), range))
            .map_err(|error| told("get", &key, &error))?;
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
        let Some(parts) = &mut self.upload else { return Ok(()) };
        let written = self.runtime.block_on(async {
            parts.wait_for_capacity(PARALLEL_PARTS).await?;
            parts.write(bytes);
            Ok(())
        });
        written.map_err(|error| told("put a part of", &self.key, &error))
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let Some(parts) = self.upload.take() else { return Ok(()) };
        let done = self.runtime.block_on(parts.finish());
        done.map(drop).map_err(|error| told("put", &self.key, &error))
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Unseen parts would stay on the server, and be paid for.
        if let Some(parts) = self.upload.take()
            && let Err(error) = self.runtime.block_on(parts.abort())
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
        let Self { key, runtime, client, bytes } = *self;
        let location = Key::from(key.as_str());
        let put = client.put(&location, PutPayload::from(bytes));
        runtime.block_on(put).map(drop).map_err(|error| told("put", &key, &error))
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
