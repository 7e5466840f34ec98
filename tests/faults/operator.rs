//! The operator's process.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use serde_json::json;

/// Bugs that `hearth-operator-planted` knows; see `operator/src/planted.rs`.
pub(crate) type Bug = &'static str;

/// One replica of the operator. Its process dies with this.
pub(crate) struct Operator {
    command: Mutex<Command>,
    child: Mutex<Option<Child>>,
    log: PathBuf,
}

/// How to start one.
pub(crate) struct Settings<'a> {
    pub(crate) namespace: &'a str,
    /// The proxy's.
    pub(crate) port: u16,
    /// The replica's name, which its log has, too.
    pub(crate) name: &'a str,
    pub(crate) leader_elect: bool,
    pub(crate) bug: Option<Bug>,
}

impl Operator {
    /// Prepares a replica; [`Self::start`] starts it.
    pub(crate) fn new(settings: &Settings<'_>) -> Result<Self> {
        let Settings { namespace, name, .. } = settings;
        let folder = PathBuf::from(
            std::env::var_os("HEARTH_FAULTS_LOGS").context("run tests/faults/run.sh")?,
        );
        let kubeconfig = folder.join(format!("{namespace}-{name}.kubeconfig"));
        File::create(&kubeconfig)?.write_all(kubeconfig_of(settings.port).as_bytes())?;
        let binaries =
            PathBuf::from(std::env::var_os("HEARTH_BIN").context("HEARTH_BIN is not set")?);
        let binary =
            if settings.bug.is_some() { "hearth-operator-planted" } else { "hearth-operator" };
        let mut command = Command::new(binaries.join(binary));
        command
            .args(["--watch-namespace", namespace, "--namespace", namespace])
            .args(["--identity", name, "--listen", "127.0.0.1:0"])
            .args(["--leader-elect", if settings.leader_elect { "true" } else { "false" }])
            .env("KUBECONFIG", &kubeconfig)
            .env("RUST_LOG", "hearth_operator=debug,info")
            .stdin(Stdio::null());
        if let Some(bug) = settings.bug {
            command.env("HEARTH_PLANTED", bug);
        }
        let log = folder.join(format!("{namespace}-{name}.log"));
        Ok(Self { command: Mutex::new(command), child: Mutex::default(), log })
    }

    /// Starts its process.
    pub(crate) fn start(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = self.command.lock().unwrap();
        command.stdout(log.try_clone()?).stderr(log);
        *self.child.lock().unwrap() = Some(command.spawn()?);
        Ok(())
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let child = self.child.lock().unwrap();
        hearth_tests::processes::signal(child.as_ref().context("not started")?.id(), name)
    }

    /// How it ended, where it did.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.child.lock().unwrap().as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// The last lines of its log.
    pub(crate) fn log(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

fn kubeconfig_of(port: u16) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
        "clusters": [{"name": "proxy", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
        "users": [{"name": "operator", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "operator"}}],
    })
    .to_string()
}
