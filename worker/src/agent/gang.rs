//! This agent's ranks: starts the processes, reads their events, stops them.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use super::protocol::{Gang, RankReport, RankState, Standstill, Told};
use super::straggler::PaceMeter;
use super::watchdog::{Limits, Watchdog};
use crate::event::RankEvent;

/// A rank's last words may still be in the pipe when it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A rank that is silent for this long is looked at.
const SILENCE: Duration = Duration::from_secs(1);
/// After SIGKILL only the kernel can hold a process back.
const KILLED: Duration = Duration::from_secs(10);

/// How ranks are started; the same for each generation.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// This program.
    pub program: PathBuf,
    /// The job's configuration, handed on.
    pub config: PathBuf,
    /// Index of this agent.
    pub agent: u32,
    /// Ranks of each agent.
    pub ranks_per_agent: u32,
    /// How long ranks may be silent.
    pub limits: Limits,
    /// Whether the job asks for deterministic kernels (`training.fullDeterminism`).
    pub deterministic: bool,
}

/// Told of each event, with the rank that sent it, before the rank's end is.
pub type Listener = Arc<dyn Fn(u32, &RankEvent) + Send + Sync>;

/// The ranks of this agent, of one generation at a time.
pub struct Ranks {
    recipe: Recipe,
    started: Instant,
    /// Woken whenever a rank ends.
    pub changed: Arc<Notify>,
    listener: Listener,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    generation: u32,
    ranks: Vec<Rank>,
}

struct Rank {
    number: u32,
    pid: Option<Pid>,
    cell: Arc<Mutex<Cell>>,
}

/// Shared by a rank's reader and its waiter.
struct Cell {
    watchdog: Watchdog,
    pace: PaceMeter,
    told: Option<Told>,
    finished: bool,
    state: RankState,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ranks {
    /// No rank yet. Every event goes to `listener` too.
    pub fn new(recipe: Recipe, listener: Listener) -> Self {
        let changed = Arc::new(Notify::new());
        Self { recipe, started: Instant::now(), changed, listener, running: Mutex::default() }
    }

    /// Newest generation started; 0 before the first.
    pub fn generation(&self) -> u32 {
        lock(&self.running).generation
    }

    /// Process ids of ranks, ended ones included.
    pub fn pids(&self) -> Vec<Pid> {
        lock(&self.running).ranks.iter().filter_map(|rank| rank.pid).collect()
    }

    /// Processes of the ranks that run, by `LOCAL_RANK`.
    pub fn running_pids(&self) -> Vec<Option<u32>> {
        let running = lock(&self.running);
        let pid = |rank: &Rank| {
            let runs = lock(&rank.cell).state == RankState::Running;
            rank.pid.filter(|_| runs).map(|pid| pid.as_raw_pid().unsigned_abs())
        };
        running.ranks.iter().map(pid).collect()
    }

    /// Every rank of the newest generation; empty once they are stopped.
    pub fn reports(&self) -> Vec<RankReport> {
        let now = self.started.elapsed();
        lock(&self.running).ranks.iter().map(|rank| rank.report(now)).collect()
    }

    /// Whether any rank runs.
    pub fn any_runs(&self) -> bool {
        self.reports().iter().any(|rank| rank.state == RankState::Running)
    }

    /// Starts the ranks of `gang`. A rank that cannot be started reports so.
    pub fn start(&self, gang: &Gang) {
        let ranks = (0..self.recipe.ranks_per_agent)
            .map(|local| self.start_rank(local, gang))
            .collect::<Vec<_>>();
        *lock(&self.running) = Running { generation: gang.generation, ranks };
    }

    /// Sends `signal` to every rank and what it started.
    pub fn signal(&self, signal: Signal) {
        for rank in &lock(&self.running).ranks {
            rank.signal(signal);
        }
    }

    /// Kills the ranks and waits until they are gone. A rank in a collective
    /// never returns once a peer is lost, so nothing gentler is tried.
    pub async fn stop(&self) {
        self.signal(Signal::KILL);
        let deadline = tokio::time::Instant::now() + KILLED;
        while self.any_runs() {
            if tokio::time::timeout_at(deadline, self.changed.notified()).await.is_err() {
                tracing::error!("a killed rank does not end; it stays listed until it does");
                return;
            }
        }
        lock(&self.running).ranks.clear();
    }

    fn start_rank(&self, local: u32, gang: &Gang) -> Rank {
        let number = self.recipe.agent * self.recipe.ranks_per_agent + local;
        let watchdog = Watchdog::new(self.recipe.limits, self.started.elapsed());
        let state = RankState::Running;
        let pace = PaceMeter::default();
        let cell = Cell { watchdog, pace, told: None, finished: false, state };
        let cell = Arc::new(Mutex::new(cell));
        match self.command(number, local, gang).spawn() {
            Ok(child) => {
                let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
                self.follow(number, child, &cell);
                Rank { number, pid, cell }
            }
            Err(error) => {
                let message = format!("{}: {error}", self.recipe.program.display());
                lock(&cell).state = RankState::NotStarted { message };
                Rank { number, pid: None, cell }
            }
        }
    }

    fn command(&self, rank: u32, local: u32, gang: &Gang) -> Command {
        let Recipe { program, config, agent, ranks_per_agent, .. } = &self.recipe;
        let mut command = Command::new(program);
        command.arg("train").arg("--config").arg(config);
        command.envs([
            ("RANK", rank.to_string()),
            ("LOCAL_RANK", local.to_string()),
            ("WORLD_SIZE", (gang.agents * ranks_per_agent).to_string()),
            ("LOCAL_WORLD_SIZE", ranks_per_agent.to_string()),
            ("GROUP_RANK", agent.to_string()),
            ("MASTER_ADDR", gang.master_address.clone()),
            ("MASTER_PORT", gang.master_port.to_string()),
            ("HEARTH_GENERATION", gang.generation.to_string()),
            (super::process::AGENT_PID_VARIABLE, std::process::id().to_string()),
        ]);
        if self.recipe.deterministic {
            command.env("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Reads the rank's output and waits for its end, in tasks of their own.
    fn follow(&self, number: u32, mut child: Child, cell: &Arc<Mutex<Cell>>) {
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(pass_on(number, stderr));
        }
        let listener = self.listener.clone();
        let stdout = child.stdout.take();
        let (started, read_cell) = (self.started, cell.clone());
        let reader = tokio::spawn(async move {
            let Some(stdout) = stdout else { return };
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(event) = serde_json::from_str::<RankEvent>(&line) else {
                    print_line(number, &line);
                    continue;
                };
                listener(number, &event);
                lock(&read_cell).hear(&event, started.elapsed());
            }
        });
        let (cell, changed) = (cell.clone(), self.changed.clone());
        tokio::spawn(async move {
            let status = child.wait().await;
            // What it started may hold the pipe open: do not wait for long.
            let _ = tokio::time::timeout(LAST_WORDS, reader).await;
            lock(&cell).end(status);
            changed.notify_waiters();
            changed.notify_one();
        });
    }
}

impl Rank {
    fn report(&self, now: Duration) -> RankReport {
        let cell = lock(&self.cell);
        let silent = cell.watchdog.silent(now);
        RankReport {
            rank: self.number,
            state: cell.state.clone(),
            step: cell.watchdog.step(),
            phase: cell.watchdog.phase(),
            silent_milliseconds: milliseconds(silent),
            limit_milliseconds: milliseconds(cell.watchdog.limit()),
            standstill: if silent < SILENCE { None } else { self.standstill() },
            pace: cell.pace.pace(),
        }
    }

    fn standstill(&self) -> Option<Standstill> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid?.as_raw_pid()));
        Standstill::of_stat(&stat.ok()?)
    }

    /// A rank leads a process group of its own. Once it is reaped its id may
    /// be another's, so only running ranks are signalled.
    fn signal(&self, signal: Signal) {
        let running = lock(&self.cell).state == RankState::Running;
        if let (true, Some(pid)) = (running, self.pid) {
            // It may have ended this moment: then there is nothing to signal.
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Cell {
    fn hear(&mut self, event: &RankEvent, now: Duration) {
        self.watchdog.hear(event, now);
        self.pace.hear(event);
        match event {
            RankEvent::Failed { reason, message, .. } => {
                self.told = Some(Told { reason: reason.clone(), message: message.clone() });
            }
            RankEvent::Finished { .. } => self.finished = true,
            _ => {}
        }
    }

    fn end(&mut self, status: std::io::Result<ExitStatus>) {
        self.state = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(0), _) if self.finished => RankState::Finished,
                (Some(0), _) => {
                    let reason = "RankExited".to_owned();
                    let message = "ended without saying that it finished".to_owned();
                    RankState::Exited { code: 1, told: Some(Told { reason, message }) }
                }
                (Some(code), _) => RankState::Exited { code, told: self.told.take() },
                (None, signal) => RankState::Killed { signal: signal.unwrap_or(0) },
            },
            Err(error) => RankState::NotStarted { message: format!("waiting for it: {error}") },
        };
    }
}

async fn pass_on(rank: u32, stream: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        print_line(rank, &line);
    }
}

fn print_line(rank: u32, line: &str) {
    eprintln!("[rank {rank}] {line}");
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
