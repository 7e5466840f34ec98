//! A job's agents as child processes.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use hearth_crds::worker_config::ExitCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::RunError;
use super::config::WorkDirectory;

/// How agents are started.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) worker: PathBuf,
    pub(super) config: PathBuf,
    /// Port of agent 0.
    pub(super) port: u16,
    /// What each agent's ranks share.
    pub(super) cores: usize,
    /// Logs go to the terminal.
    pub(super) verbose: bool,
}

/// An agent ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) agent: u32,
    pub(super) status: ExitStatus,
}

impl Ended {
    /// Its exit code, or 128 and the signal's number as a shell tells it.
    pub(super) fn code(self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|s| 128 + s)).unwrap_or(1)
    }

    /// Whether a new process may do better; on a cluster the Job starts a new pod.
    pub(super) fn may_be_retried(self) -> bool {
        self.code() != ExitCode::Done as i32 && !ExitCode::is_permanent(self.code())
    }
}

/// The processes that run. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Agents {
    recipe: Recipe,
    running: Vec<(u32, Pid)>,
    report: mpsc::UnboundedSender<Ended>,
    ends: mpsc::UnboundedReceiver<Ended>,
}

impl Agents {
    pub(super) fn new(recipe: Recipe) -> Self {
        let (report, ends) = mpsc::unbounded_channel();
        Self { recipe, running: Vec::new(), report, ends }
    }

    /// Starts agent `index`.
    pub(super) fn start(&mut self, index: u32, files: &WorkDirectory) -> Result<(), RunError> {
        let mut child = self.spawn(index, &files.result(index), &files.log(index))?;
        let failed = |source| RunError::Start { program: self.recipe.worker.clone(), source };
        let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let id = id.ok_or_else(|| failed(std::io::Error::other("it ended at once")))?;
        self.running.push((index, id));
        let report = self.report.clone();
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                let _ = report.send(Ended { agent: index, status });
            }
        });
        Ok(())
    }

    fn spawn(&self, index: u32, result: &Path, log: &Path) -> Result<Child, RunError> {
        let Recipe { worker, config, port, cores, verbose } = &self.recipe;
        // A result of an earlier process would be taken for this one's.
        let _ = std::fs::remove_file(result);
        let port = if index == 0 { *port } else { 0 };
        let mut command = Command::new(worker);
        command
            .arg("agent")
            .arg("--config")
            .arg(config)
            .args(["--index", &index.to_string()])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .env("HEARTH_TERMINATION_LOG", result)
            .env("HEARTH_CPUS", cores.to_string())
            // Ctrl-C goes to the terminal's foreground group; agents are told by us.
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        if !verbose {
            let open = OpenOptions::new().create(true).append(true).open(log);
            let log = open.map_err(|source| RunError::Write { path: log.to_owned(), source })?;
            command.stderr(Stdio::from(log));
        }
        command.spawn().map_err(|source| RunError::Start { program: worker.clone(), source })
    }

    /// Waits until an agent ends; `None` where none runs.
    pub(super) async fn next_end(&mut self) -> Option<Ended> {
        if self.running.is_empty() {
            return None;
        }
        let ended = self.ends.recv().await?;
        self.running.retain(|(agent, _)| *agent != ended.agent);
        Some(ended)
    }

    /// Asks every agent to save and leave.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends every agent at once. Their ranks go with them.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        for (_, id) in &self.running {
            // It may have ended this moment.
            let _ = kill_process(*id, signal);
        }
    }
}

impl Drop for Agents {
    /// A run that ends by an error leaves no agent behind.
    fn drop(&mut self) {
        self.kill();
    }
}
