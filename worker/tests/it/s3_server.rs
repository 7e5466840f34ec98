//! A real S3 server (versitygw, over a folder) on loopback, and a proxy before
//! it that answers 503, delays, and cuts connections.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hearth_worker::checkpoint::Storage;
use hearth_worker::checkpoint::s3::S3;
use hearth_worker::s3::{Bucket, S3Options};
use object_store::ObjectStoreExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;

/// Key and secret of the server.
const KEYS: (&str, &str) = ("hearth", "hearth-secret");
/// The output of a job.
const OUTPUT: &str = "s3://models/spam";

/// The server; it goes when dropped.
pub(crate) struct S3Server {
    root: tempfile::TempDir,
    child: Child,
    port: u16,
}

/// What befalls a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Pass,
    /// It is answered with 503, as an overloaded S3 does.
    SlowDown,
    /// It reaches the server so much later.
    Late(Duration),
    /// The connection ends in the middle of its body, or before its answer.
    CutRequest,
    /// The connection ends in the middle of the answer.
    CutAnswer,
}

/// Stands between a client and the server.
pub(crate) struct Proxy {
    port: u16,
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl S3Server {
    /// Starts it and waits until it answers.
    pub(crate) fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["data/models", "sidecar"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        let port = free_port();
        let child = Command::new("versitygw")
            .args(["--access", KEYS.0, "--secret", KEYS.1, "--quiet"])
            .args(["--port", &format!("127.0.0.1:{port}"), "posix", "--sidecar"])
            .arg(root.path().join("sidecar"))
            .arg(root.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("versitygw runs: tests/setup/tools.sh installs it");
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "versitygw does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Self { root, child, port }
    }

    /// The checkpoints on it, asked without a proxy.
    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        storage(self.port, quick())
    }

    /// Its bucket `models`, asked without a proxy.
    pub(crate) fn bucket(&self) -> Bucket {
        bucket(self.port, quick())
    }

    /// A bucket of it, asked with a secret.
    pub(crate) fn bucket_with(&self, name: &str, secret: &str) -> Bucket {
        Bucket::at_endpoint(&endpoint(self.port), (KEYS.0, secret), name, quick()).unwrap()
    }

    /// Puts an object into the bucket `models`.
    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        self.putter()(key, bytes);
    }

    /// As [`Self::put`], for other threads.
    pub(crate) fn putter(&self) -> impl Fn(&str, &[u8]) + Clone + Send + Sync + use<> {
        let port = self.port;
        move |key, bytes| {
            let client = AmazonS3Builder::new()
                .with_endpoint(endpoint(port))
                .with_allow_http(true)
                .with_access_key_id(KEYS.0)
                .with_secret_access_key(KEYS.1)
                .with_bucket_name("models")
                .build()
                .unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let key = Key::parse(key).unwrap();
            runtime.block_on(client.put(&key, bytes.to_vec().into())).unwrap();
        }
    }

    /// The file in which the server keeps an object.
    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.root.path().join("data/models/spam/checkpoints").join(path)
    }

    /// Removes all objects.
    pub(crate) fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.root.path().join("data/models/spam"));
    }

    /// The environment of a worker that uses it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        environment(self.port)
    }

    /// A proxy before it; `plan` says what befalls the n-th request, from 0.
    pub(crate) fn proxy(&self, plan: impl Fn(usize) -> Fault + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped, upstream) = (Arc::clone(&requests), Arc::clone(&stop), self.port);
        let plan = Arc::new(plan);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (counter, plan) = (Arc::clone(&counter), Arc::clone(&plan));
                thread::spawn(move || {
                    // A connection that ends early is what this is for.
                    let _ =
                        serve(client, upstream, &|| plan(counter.fetch_add(1, Ordering::Relaxed)));
                });
            }
        });
        Proxy { port, requests, stop }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// The checkpoints behind it.
    pub(crate) fn storage(&self, options: S3Options) -> Arc<dyn Storage> {
        storage(self.port, options)
    }

    /// The bucket `models` behind it.
    pub(crate) fn bucket(&self, options: S3Options) -> Bucket {
        bucket(self.port, options)
    }

    /// The environment of a worker that uses it.
    pub(crate) fn environment(&self) -> [(&'static str, String); 5] {
        environment(self.port)
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// Little patience, and parts as small as S3 allows.
pub(crate) fn quick() -> S3Options {
    S3Options {
        request_timeout: Duration::from_millis(1500),
        max_retries: 4,
        retry_timeout: Duration::from_secs(20),
        first_backoff: Duration::from_millis(2),
        longest_backoff: Duration::from_millis(20),
        part_bytes: 5 << 20,
    }
}

fn endpoint(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn environment(port: u16) -> [(&'static str, String); 5] {
    [
        ("AWS_ACCESS_KEY_ID", KEYS.0.into()),
        ("AWS_SECRET_ACCESS_KEY", KEYS.1.into()),
        ("AWS_ENDPOINT_URL", endpoint(port)),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ALLOW_HTTP", "true".into()),
    ]
}

fn storage(port: u16, options: S3Options) -> Arc<dyn Storage> {
    let uri = format!("{OUTPUT}/checkpoints");
    Arc::new(S3::at_endpoint(&endpoint(port), KEYS, &uri, options).unwrap())
}

fn bucket(port: u16, options: S3Options) -> Bucket {
    Bucket::at_endpoint(&endpoint(port), KEYS, "models", options).unwrap()
}

/// One request of a connection, and its end.
fn serve(mut client: TcpStream, upstream: u16, fault: &dyn Fn() -> Fault) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut byte = [0; 1];
    while !request.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let fault = fault();
    let mut body = vec![0; if fault == Fault::CutRequest { length / 2 } else { length }];
    client.read_exact(&mut body)?;
    match fault {
        Fault::CutRequest => return client.shutdown(Shutdown::Both),
        Fault::SlowDown => {
            let xml = "<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>";
            return write!(
                client,
                "HTTP/1.1 503 Slow Down\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{xml}",
                xml.len()
            );
        }
        Fault::Late(wait) => thread::sleep(wait),
        Fault::Pass | Fault::CutAnswer => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let head =
        String::from_utf8_lossy(&request).replacen("\r\n\r\n", "\r\nconnection: close\r\n\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let end =
        if fault == Fault::CutAnswer { answer.len() - answer.len() / 4 - 1 } else { answer.len() };
    client.write_all(&answer[..end])?;
    client.shutdown(Shutdown::Both)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Flips a bit in the middle of a file.
pub(crate) fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
