//! A server of a test's own: on a free port of the loopback, with a temporary directory. It ends with
//! its value, with the thread that started it, and so with a test that panics or is killed.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use hearth_crds::features::FeatureStore;
use hearth_features::{Access, FeatureClient, FeatureMetrics, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Names another server than Redis.
pub(crate) const PROGRAM: &str = "FEATURE_STORE_SERVER";

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    password: Option<String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(&[], None)
    }

    pub(crate) fn with_password(password: &str) -> Self {
        Self::with(&["--requirepass", password], Some(password))
    }

    pub(crate) fn with(arguments: &[&str], password: Option<&str>) -> Self {
        let arguments: Vec<_> = arguments.iter().map(|&text| text.to_owned()).collect();
        let dir = TempDir::new().unwrap();
        for _ in 0..10 {
            let port = free_port();
            let mut child = launch(port, &dir, &arguments);
            if answers(&mut child, port) {
                let password = password.map(str::to_owned);
                return Self { child, port, dir, arguments, password };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("redis-server does not start: run tests/setup/tools.sh");
    }

    /// Kills the server and what it holds.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it anew, empty, on its port.
    pub(crate) fn start_again(&mut self) {
        self.child = launch(self.port, &self.dir, &self.arguments);
        assert!(answers(&mut self.child, self.port), "it does not start again");
    }

    /// Sends a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let done = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(done.success(), "kill -{name} {pid}");
    }

    /// One command, over a connection of its own.
    pub(crate) fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let secret = self.password.as_ref().map_or(String::new(), |word| format!(":{word}@"));
        let url = format!("redis://{secret}127.0.0.1:{}/0", self.port);
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query(&mut connection).unwrap()
    }

    /// Writes a hash whose features were true so many seconds ago.
    pub(crate) fn put(&self, key: &str, age: u64, fields: &[(&str, &str)]) {
        let time = (now() - i64::try_from(age).unwrap() * 1000).to_string();
        let mut words = vec!["HSET", key, "__time", &time];
        words.extend(fields.iter().flat_map(|(name, value)| [*name, *value]));
        self.command::<i64>(&words);
    }

    pub(crate) fn settings(&self, more: &Value) -> FeatureStore {
        settings(self.port, more)
    }

    pub(crate) fn store(&self) -> Store {
        Store::new(&self.settings(&json!({})), Access::default()).unwrap()
    }

    /// A client, with figures of its own.
    pub(crate) async fn client(&self, more: &Value) -> (FeatureClient, FeatureMetrics) {
        client(&self.settings(more), Access::default()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Settings with one view, `customer`, where `more` has no others.
pub(crate) fn settings(port: u16, more: &Value) -> FeatureStore {
    let mut store = json!({
        "url": format!("redis://127.0.0.1:{port}/0"),
        "timeoutMilliseconds": 5000,
        "views": [{"name": "customer", "key": "id", "maxAgeSeconds": 3600, "features": [
            {"name": "visits", "type": "Integer", "default": "0"},
            {"name": "spent", "default": "0.5"},
            {"name": "city", "type": "Text", "default": "?"},
            {"name": "vip", "type": "Boolean", "default": "false"},
        ]}],
    });
    for (name, value) in more.as_object().unwrap() {
        store[name] = value.clone();
    }
    serde_json::from_value(store).unwrap()
}

pub(crate) async fn client(
    store: &FeatureStore,
    access: Access,
) -> (FeatureClient, FeatureMetrics) {
    let metrics = FeatureMetrics::new(&mut prometheus_client::registry::Registry::default());
    (FeatureClient::start(store, access, metrics.clone()).await.unwrap(), metrics)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

/// `setpriv` becomes the server, which is killed when the thread that started it ends.
fn launch(port: u16, dir: &TempDir, arguments: &[String]) -> Child {
    let program = std::env::var(PROGRAM).unwrap_or_else(|_| "redis-server".to_owned());
    let port = port.to_string();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", &program, "--port", &port])
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
        .arg(dir.path())
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Whether the server answers within ten seconds.
fn answers(child: &mut Child, port: u16) -> bool {
    let address = format!("redis://127.0.0.1:{port}/");
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        let answer = redis::Client::open(address.as_str()).unwrap().get_connection();
        let answer = answer.and_then(|mut open| redis::cmd("PING").query::<()>(&mut open));
        match answer {
            Ok(()) => return true,
            Err(error) if matches!(error.code(), Some("NOAUTH")) => return true,
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    false
}
