//! A bucket of an S3 server: how it is reached, and how patient one is with it. Checkpoints go to
//! buckets, and rows to prepare come from them.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
};
use tokio::runtime::{Builder, Runtime};

/// Times that a request is made whose answer breaks off.
const MOST_ATTEMPTS: u32 = 4;
/// Most characters of an error in a message.
const MOST_SAID: usize = 500;
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

/// A bucket, and how to ask its server.
#[derive(Debug)]
pub struct Bucket {
    pub(crate) name: String,
    pub(crate) client: AmazonS3,
    pub(crate) runtime: Runtime,
    pub(crate) options: S3Options,
}

/// What a failed request tells of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It is not there.
    Missing,
    /// The server does not let these credentials have it.
    Refused,
    /// A key among it is no path.
    BadKey,
    /// Nothing: the server, or the way to it.
    Server,
}

impl Bucket {
    /// A bucket by its name, with endpoint, region and credentials from the standard `AWS_…`
    /// variables.
    pub fn from_environment(name: &str, options: S3Options) -> io::Result<Self> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let keys = set("AWS_ACCESS_KEY_ID") && set("AWS_SECRET_ACCESS_KEY");
        if !keys && !OTHER_CREDENTIALS.iter().any(|name| set(name)) {
            return Err(invalid(
                "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a job in a cluster has them from the Secret that secretName names",
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
        Self::open(AmazonS3Builder::from_env(), client, name, options)
    }

    /// A bucket on a server of one's own, with fixed keys.
    pub fn at_endpoint(
        endpoint: &str,
        (key, secret): (&str, &str),
        name: &str,
        options: S3Options,
    ) -> io::Result<Self> {
        let builder = AmazonS3Builder::new()
            .with_endpoint(endpoint)
            .with_access_key_id(key)
            .with_secret_access_key(secret);
        let client = ClientOptions::new().with_allow_http(endpoint.starts_with("http://"));
        Self::open(builder, client, name, options)
    }

    fn open(
        builder: AmazonS3Builder,
        client: ClientOptions,
        name: &str,
        options: S3Options,
    ) -> io::Result<Self> {
        let client = builder
            .with_bucket_name(name)
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
        Ok(Self { name: name.to_owned(), client, runtime, options })
    }

    /// Asks, and asks again where the answer broke off, which the client does
    /// not try again; what it does try is over when it returns.
    pub(crate) fn ask<T, F: Future<Output = Result<T, object_store::Error>>>(
        &self,
        (what, key): (&str, &Key),
        request: impl Fn(Key) -> F,
    ) -> Result<T, object_store::Error> {
        let began = Instant::now();
        let mut attempts = 0;
        loop {
            let error = match self.runtime.block_on(request(key.clone())) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            attempts += 1;
            if cause(&error) != Cause::Server
                || attempts >= MOST_ATTEMPTS
                || began.elapsed() >= self.options.retry_timeout
            {
                return Err(error);
            }
            tracing::warn!(attempts, "cannot {what} {key}: {error}; it is tried again");
            std::thread::sleep(self.options.first_backoff * attempts);
        }
    }

    /// What is told of an object.
    pub(crate) fn head(&self, key: &Key) -> Result<ObjectMeta, object_store::Error> {
        self.ask(("head", key), |key| async move { self.client.head(&key).await })
    }

    /// What is told of all objects below a prefix.
    pub(crate) fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>, object_store::Error> {
        self.ask(
            ("list", prefix),
            |key| async move { self.client.list(Some(&key)).try_collect().await },
        )
    }

    /// Whether there is an object below a prefix.
    pub(crate) fn any_below(&self, prefix: &Key) -> Result<bool, object_store::Error> {
        self.ask(("list", prefix), |key| async move {
            let first = self.client.list(Some(&key)).next().await;
            first.transpose().map(|first| first.is_some())
        })
    }

    /// Bytes of an object, and what is told of it now.
    pub(crate) fn range(
        &self,
        key: &Key,
        range: &Range<u64>,
    ) -> Result<(ObjectMeta, Bytes), object_store::Error> {
        self.ask(("get", key), |key| {
            let options = GetOptions::new().with_range(Some(range.clone()));
            async move {
                let answer = self.client.get_opts(&key, options).await?;
                let told = answer.meta.clone();
                Ok((told, answer.bytes().await?))
            }
        })
    }
}

/// What a failed request tells. Of a failed list, the client keeps the status in its text alone.
pub(crate) fn cause(error: &object_store::Error) -> Cause {
    use object_store::Error as Store;
    match error {
        Store::NotFound { .. } => Cause::Missing,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => Cause::Refused,
        Store::InvalidPath { .. } => Cause::BadKey,
        _ => {
            let said = chain(error);
            let is = |status: u16| said.contains(&format!("status code: {status}"));
            match () {
                () if is(404) => Cause::Missing,
                () if is(403) || is(401) => Cause::Refused,
                () => Cause::Server,
            }
        }
    }
}

/// What the server said of a failed request; where it said nothing, what the client says.
pub(crate) fn said(error: &object_store::Error) -> String {
    let text = chain(error);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0)
    };
    match (element("Code"), element("Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.chars().take(MOST_SAID).collect(),
    }
}

/// An error with all that led to it, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = error.source();
    }
    text
}

pub(crate) fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(text: &str) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn failed_lists_tell_their_cause_in_their_text() {
        for (text, want) in [
            (
                "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchBucket</Code>",
                Cause::Missing,
            ),
            ("Server returned non-2xx status code: 403 Forbidden: ", Cause::Refused),
            ("Server returned non-2xx status code: 503 Slow Down: ", Cause::Server),
            ("connection closed before message completed", Cause::Server),
        ] {
            assert_eq!(cause(&failed(text)), want, "{text}");
        }
        let path = Key::parse("a//b").unwrap_err();
        assert_eq!(cause(&object_store::Error::from(path)), Cause::BadKey);
    }

    #[test]
    fn a_servers_words_are_told_without_the_rest_of_its_answer() {
        let answer = "status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code><Message>Check your key</Message><StringToSign>AWS4</StringToSign></Error>";
        assert_eq!(said(&failed(answer)), "SignatureDoesNotMatch: Check your key");
        assert!(said(&failed("connection refused")).contains("connection refused"));
        assert_eq!(said(&failed(&"x".repeat(9000))).chars().count(), MOST_SAID);
    }
}
