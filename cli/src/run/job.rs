//! One TrainingJob: planned as the operator plans it, run as its Job would.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_crds::preparation::PrepareConfig;
use hearth_crds::worker_config::{ExitCode, TrainConfig, WorkerResult};
use hearth_operator::document;
use hearth_operator::fault::{Fault, SpecFaults};
use hearth_operator::training_job::plan::config::{prepare_config, train_config};
use hearth_operator::training_job::{Backend, LocalMachine, validate};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::agents::{Agents, Ended, Recipe};
use super::config::{WorkDirectory, read_result};
use super::machine::Machine;
use super::prepare::{Prepared, prepare};
use super::status::StatusClient;
use super::stop::Stop;
use super::{RunError, took};
use crate::display::{self, Display};
use crate::exit;
use crate::render::{self, Snapshot};

/// Time between questions to agent 0.
const POLL: Duration = Duration::from_millis(250);
/// Longest wait for agents to save and leave after Ctrl-C.
const SAVE_LIMIT: Duration = Duration::from_mins(1);
/// Longest wait for the other agents after agent 0 has told the result.
const FAREWELL: Duration = Duration::from_secs(20);
/// Lines of an agent's log that a failure without a sentence shows.
const LOG_LINES: usize = 20;

/// A job that can start.
#[derive(Debug)]
pub(super) struct Planned {
    config: TrainConfig,
    /// What is made of the rows first.
    prepare: Option<PrepareConfig>,
    /// What a local run does not do, one sentence each.
    notes: Vec<String>,
}

/// How the agents ended.
enum End {
    /// Agent 0 told the result, or ended without one.
    Told(Option<Box<WorkerResult>>, Ended),
    /// By Ctrl-C.
    Interrupted,
}

/// Plans the document by the operator's own rules.
pub(super) fn plan(text: &str, machine: &Machine) -> Result<Planned, SpecFaults> {
    let mut job = document::training_job(text)?;
    if let Some(workers) = machine.workers {
        job.spec.workers.replicas = workers;
    }
    if job.spec.suspend {
        return Err(Fault::invalid(
            "spec.suspend",
            "is true, and a local run starts at once",
            "set it to false",
        )
        .into());
    }
    let backend = Backend::Local(LocalMachine {
        claims: machine.claims.clone(),
        coordinator_port: free_port(),
    });
    let valid = validate::job(&job, &backend)?;
    let workers = &job.spec.workers;
    let mut notes = Vec::new();
    if !(workers.resources.limits.is_empty() && workers.resources.requests.is_empty()) {
        notes.push("workers.resources are a cluster's and are not enforced here".to_owned());
    }
    let prepare = prepare_config(&valid, &backend);
    Ok(Planned { config: train_config(&valid, &backend), prepare, notes })
}

/// A port that is free now. Should another process take it before agent 0 does,
/// agent 0 says so and is started again.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map_or(hearth_crds::worker_config::AGENT_PORT, |address| address.port())
}

impl Planned {
    /// Runs it to its end; the exit code.
    pub(super) async fn run(
        self,
        machine: &Machine,
        stop: &mut Stop,
        verbose: bool,
    ) -> Result<i32, RunError> {
        let since = Instant::now();
        let name = self.config.job.name.clone();
        let files = WorkDirectory::new(&name)?;
        let recipe = Recipe {
            worker: machine.worker.clone(),
            config: files.write_config(&self.config)?,
            port: self.config.coordinator_port,
            cores: self.cores_per_agent(),
            verbose,
        };
        let mut display = Display::new(&name);
        display.say(&self.opening());
        for note in &self.notes {
            display.say(&format!("note: {note}"));
        }
        if let Some(code) = self.prepared(&recipe, &files, &mut display, stop).await? {
            if code != exit::INTERRUPTED {
                display::err(&format!("log of the preparation: {}", files.keep().display()));
            }
            return Ok(code);
        }
        let mut agents = Agents::new(recipe);
        for index in 0..self.config.replicas {
            agents.start(index, &files)?;
        }
        let (end, last) = self.follow(&mut agents, &files, &mut display, stop).await?;
        let code = match end {
            End::Told(Some(result), _) if result.succeeded => {
                display.end();
                display::out(&self.success(&result, since));
                exit::DONE
            }
            End::Told(result, ended) => {
                display.end();
                display::err(&self.failure(result.as_deref(), ended, &files));
                display::err(&format!("logs of its agents: {}", files.keep().display()));
                result.map_or(ended.code(), |result| result.exit_code)
            }
            End::Interrupted => {
                display.end();
                display::err(&self.interrupted(&last));
                exit::INTERRUPTED
            }
        };
        Ok(code)
    }

    /// Prepares the rows, where that is asked for; the exit code where there are none in the end.
    async fn prepared(
        &self,
        recipe: &Recipe,
        files: &WorkDirectory,
        display: &mut Display,
        stop: &mut Stop,
    ) -> Result<Option<i32>, RunError> {
        let Some(config) = &self.prepare else { return Ok(None) };
        display.say("preparing rows");
        match prepare(&recipe.worker, config, files, stop, recipe.verbose).await? {
            Prepared::Ended(Some(result), _) if result.succeeded => {
                display.say(&result.message);
                Ok(None)
            }
            Prepared::Ended(result, code) => {
                display.end();
                let told = result.map_or_else(
                    || format!("the end of its log:\n{}", tail(&files.log_of_preparation())),
                    |result| format!("{}: {}", result.reason, result.message),
                );
                let name = &self.config.job.name;
                display::err(&format!("{name} failed before training: {told}"));
                Ok(Some(code))
            }
            Prepared::Interrupted => {
                display.end();
                let name = &self.config.job.name;
                display::err(&format!(
                    "{name} stopped while its rows were prepared; the same command goes on there"
                ));
                Ok(Some(exit::INTERRUPTED))
            }
        }
    }

    /// Shows how it goes until agent 0 has ended or someone stops it.
    async fn follow(
        &self,
        agents: &mut Agents,
        files: &WorkDirectory,
        display: &mut Display,
        stop: &mut Stop,
    ) -> Result<(End, Snapshot), RunError> {
        let client = StatusClient::new(self.config.coordinator_port);
        let mut last = Snapshot { state: "starting".to_owned(), ..Snapshot::default() };
        let mut retries = 0;
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = poll.tick() => {
                    if let Some(status) = client.ask().await {
                        let now = Snapshot::from(&status);
                        display.training(&last, &now);
                        last = now;
                    }
                }
                ended = agents.next_end() => {
                    let Some(ended) = ended else { return Ok((End::Interrupted, last)) };
                    if ended.may_be_retried() && retries < self.config.max_restarts {
                        retries += 1;
                        display.say(&format!(
                            "agent {} ended with code {}; it is started again",
                            ended.agent, ended.code()
                        ));
                        agents.start(ended.agent, files)?;
                    } else if ended.agent == 0 {
                        part(agents).await;
                        return Ok((End::Told(read_result(&files.result(0)).map(Box::new), ended), last));
                    }
                }
                () = stop.asked() => {
                    display.say("stopping: agents save a checkpoint (Ctrl-C again: stop at once)");
                    leave(agents, stop).await;
                    if let Some(status) = left(files) {
                        last = status;
                    }
                    return Ok((End::Interrupted, last));
                }
            }
        }
    }

    fn opening(&self) -> String {
        let config = &self.config;
        let (agents, ranks) = (config.replicas, config.replicas * config.processes_per_worker);
        let rows = &config.data.train;
        let rows = if rows.path.as_os_str().is_empty() { Path::new(&rows.uri) } else { &rows.path };
        let from = config.model.as_deref().unwrap_or(rows);
        let plural =
            |n: u32, one: &str| if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") };
        format!(
            "{:?} from {} on this machine: {}, {}, {:?}; output {}",
            config.task,
            from.display(),
            plural(agents, "agent"),
            plural(ranks, "rank"),
            config.accelerator,
            config.output.display(),
        )
    }

    fn success(&self, result: &WorkerResult, since: Instant) -> String {
        let progress = result.progress.clone().unwrap_or_default();
        let mut parts = vec![format!(
            "{} succeeded: {} steps in {}",
            self.config.job.name,
            progress.step,
            took(since)
        )];
        let metrics = render::metrics(&progress);
        if !metrics.is_empty() {
            parts.push(metrics);
        }
        if result.restarts > 0 {
            parts.push(format!("restarts {}", result.restarts));
        }
        if let Some(model) = &result.model {
            parts.push(format!("model {}", self.local(&model.uri).display()));
        }
        let mut said = parts.join("  ");
        for note in &result.notes {
            let _ = write!(said, "\n{}: {}", note.reason, note.message);
        }
        said
    }

    /// The path of a URI below the output.
    fn local(&self, uri: &str) -> PathBuf {
        let below = uri.strip_prefix(self.config.output_uri.trim_end_matches('/'));
        below.map_or_else(
            || PathBuf::from(uri),
            |below| self.config.output.join(below.trim_start_matches('/')),
        )
    }

    fn failure(
        &self,
        result: Option<&WorkerResult>,
        ended: Ended,
        files: &WorkDirectory,
    ) -> String {
        let name = &self.config.job.name;
        match result {
            Some(result) => format!("{name} failed ({}): {}", result.reason, result.message),
            None => format!(
                "{name} failed: agent 0 ended with code {} and left no result; the end of its log:\n{}",
                ended.code(),
                tail(&files.log(0)),
            ),
        }
    }

    /// The machine's cores, shared by all agents: more threads than cores wait for
    /// each other (on 2 cores, 2 ranks of 2 threads take 3.5 times as long).
    fn cores_per_agent(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (cores / usize::try_from(self.config.replicas).unwrap_or(1).max(1)).max(1)
    }

    fn interrupted(&self, last: &Snapshot) -> String {
        let name = &self.config.job.name;
        match &last.checkpoint {
            Some(checkpoint) => format!(
                "{name} stopped; the same command goes on from the checkpoint of step {}",
                checkpoint.step
            ),
            None => format!("{name} stopped before its first checkpoint; nothing is kept"),
        }
    }
}

/// What agent 0 said when it left: it may have saved once more.
fn left(files: &WorkDirectory) -> Option<Snapshot> {
    let left = ExitCode::Terminated as i32;
    let result = read_result(&files.result(0)).filter(|result| result.exit_code == left)?;
    Some(Snapshot {
        progress: result.progress.unwrap_or_default(),
        checkpoint: result.checkpoint,
        restarts: result.restarts,
        ..Snapshot::default()
    })
}

/// Lets the other agents go after agent 0 has told the result.
async fn part(agents: &mut Agents) {
    if timeout(FAREWELL, all_ended(agents)).await.is_err() {
        agents.kill();
        all_ended(agents).await;
    }
}

/// Asks the agents to leave; kills them at the second signal, or when they take too long.
async fn leave(agents: &mut Agents, stop: &mut Stop) {
    agents.terminate();
    let saved = tokio::select! {
        saved = timeout(SAVE_LIMIT, all_ended(agents)) => saved.is_ok(),
        () = stop.asked() => false,
    };
    if !saved {
        agents.kill();
        all_ended(agents).await;
    }
}

async fn all_ended(agents: &mut Agents) {
    while agents.next_end().await.is_some() {}
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
