//! The coordinator with its surroundings: clock, record on disk, metrics.
//!
//! Every change is written down before any agent learns of it, so that a new
//! agent 0 knows at least as much as the others.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hearth_crds::history::History;
use hearth_crds::training_job::Parallelism;
use hearth_crds::worker_config::{
    ExitCode, JobIdentity, MASTER_PORT_BASE, MASTER_PORT_COUNT, RankStatus, ResourceUse,
    TrainConfig, WorkerResult, WorkerState, WorkerStatus,
};

use super::coordinator::{Coordinator, Stage};
use super::history::Curves;
use super::metrics::{TrainingMetrics, encode_all};
use super::progress::Progress;
use super::protocol::{Action, Beat, Gang, Order};
use super::record::{Files, Record};
use super::roster::Refusal;
use super::straggler::{self, Finding, Runner, Stragglers};
use super::terms::{Carried, Change, Directive, Shape, Timing, Verdict};
use crate::event::RankEvent;
use crate::monitor::SystemMetrics;

/// A beat that is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BeatError {
    /// By the coordinator.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent belongs to another job, or to an older one of the same name.
    #[error("this is agent 0 of job {ours}, not of {theirs}")]
    OtherJob {
        /// Job of this coordinator.
        ours: String,
        /// Job of the agent.
        theirs: String,
    },
}

/// Agent 0's office.
pub struct Service {
    started: Instant,
    job: JobIdentity,
    master: Master,
    files: Files,
    inner: Mutex<Inner>,
}

struct Inner {
    coordinator: Coordinator,
    progress: Progress,
    metrics: TrainingMetrics,
    run: String,
    gang: Option<Gang>,
    result: Option<WorkerResult>,
    ranks_per_agent: u32,
    /// Power of each agent's GPUs, where it is known.
    watts: BTreeMap<u32, Option<f64>>,
    ways: Parallelism,
    stragglers: Stragglers,
}

/// Where ranks meet.
struct Master {
    address: String,
    /// Several jobs share this machine's ports.
    local: bool,
}

impl Service {
    /// Takes over from `record`, where an earlier coordinator of the same run
    /// left one.
    pub fn new(config: &TrainConfig, timing: Timing, files: Files, record: Option<Record>) -> Self {
        let started = Instant::now();
        let shape = Shape {
            agents: config.replicas,
            ranks_per_agent: config.processes_per_worker,
            max_restarts: config.max_restarts,
        };
        // A new run counts its failures anew, but generations only ever grow.
        let (run, carried) = match record {
            Some(record) if !record.finished => (record.run.clone(), record.carried()),
            _ => (new_id(), Carried::default()),
        };
        let coordinator = Coordinator::new(shape, timing, carried, started.elapsed());
        let inner = Inner {
            metrics: TrainingMetrics::new(coordinator.restarts()),
            coordinator,
            progress: Progress::new(
                &config.output,
                &config.output_uri,
                Curves::read(&config.output),
            ),
            run,
            gang: None,
            result: None,
            ranks_per_agent: config.processes_per_worker,
            watts: BTreeMap::new(),
            ways: config.parallelism.clone(),
            stragglers: Stragglers::default(),
        };
        let address = config.coordinator_host.clone();
        let local = is_loopback(&address);
        Self {
            started,
            job: config.job.clone(),
            master: Master { address, local },
            files,
            inner: Mutex::new(inner),
        }
    }

    /// Takes a beat; what the agent is to do.
    pub fn beat(&self, beat: Beat) -> Result<Order, BeatError> {
        if beat.job != self.job {
            let name = |job: &JobIdentity| format!("{}/{} ({})", job.namespace, job.name, job.uid);
            return Err(BeatError::OtherJob { ours: name(&self.job), theirs: name(&beat.job) });
        }
        let mut inner = self.lock();
        let (agent, watts) = (beat.agent, beat.power_watts);
        inner.coordinator.hear(beat, self.started.elapsed())?;
        inner.watts.insert(agent, watts);
        self.advance(&mut inner);
        Ok(inner.order(agent))
    }

    /// Wants another number of agents.
    pub fn resize(&self, agents: u32) {
        let mut inner = self.lock();
        let before = inner.coordinator.wanted();
        if before != agents {
            tracing::info!(before, agents, "the job is to have another number of agents");
            inner.coordinator.resize(agents);
            self.advance(&mut inner);
        }
    }

    /// Notices what did not happen. To be called some times a second.
    pub fn tick(&self) {
        let mut inner = self.lock();
        self.advance(&mut inner);
        inner.look_for_stragglers(self.started.elapsed());
    }

    /// Takes an event of rank 0.
    pub fn take(&self, event: &RankEvent) {
        let mut inner = self.lock();
        inner.metrics.take(event);
        inner.progress.take(event, &time_of_day());
        inner.metrics.take_resources(inner.resources().as_ref());
    }

    /// For `/status`.
    pub fn status(&self) -> WorkerStatus {
        let inner = self.lock();
        let coordinator = &inner.coordinator;
        let ranks = coordinator.ranks().map(|(agent, rank)| RankStatus {
            rank: rank.rank,
            agent,
            step: rank.step,
            silent_milliseconds: rank.silent_milliseconds,
        });
        WorkerStatus {
            state: inner.state(),
            generation: coordinator.generation(),
            replicas: coordinator.wanted(),
            present_replicas: coordinator.size(),
            restarts: coordinator.restarts(),
            progress: inner.progress.figures().clone(),
            evaluations: inner.progress.evaluations(),
            checkpoint: inner.progress.checkpoint().cloned(),
            ranks: ranks.collect(),
            resources: inner.resources(),
            notes: inner.progress.notes().to_vec(),
            last_failure: coordinator.last_failure().cloned(),
            result: inner.result.clone(),
        }
    }

    /// For `/history`.
    pub fn history(&self) -> History {
        History { points: self.lock().progress.history() }
    }

    /// For `/metrics`: of the training, and of agent 0's own part in it.
    pub fn metrics(&self, system: &SystemMetrics) -> String {
        encode_all(&[self.lock().metrics.registry(), system.registry()])
    }

    /// Agents that hold up the next start, where one is awaited.
    pub fn awaited(&self) -> Option<Vec<u32>> {
        let inner = self.lock();
        let joining = *inner.coordinator.stage() == Stage::Joining;
        joining.then(|| inner.coordinator.missing(self.started.elapsed()))
    }

    /// The result, once there is one and every other agent has gone.
    pub fn may_exit(&self) -> bool {
        self.lock().coordinator.may_exit(self.started.elapsed())
    }

    /// The result, once there is one.
    pub fn result(&self) -> Option<WorkerResult> {
        self.lock().result.clone()
    }

    /// What to tell when this agent was asked to stop: no result yet, and no
    /// failure of which the next coordinator should count one.
    pub fn leave(&self) -> WorkerResult {
        let inner = self.lock();
        self.write_record(&inner, false, false);
        WorkerResult {
            succeeded: false,
            reason: "Terminated".to_owned(),
            message: format!(
                "asked to stop by SIGTERM at step {}; training goes on from the newest checkpoint",
                inner.progress.figures().step
            ),
            exit_code: ExitCode::Terminated as i32,
            restarts: inner.coordinator.restarts(),
            progress: Some(inner.progress.figures().clone()),
            evaluations: inner.progress.evaluations(),
            checkpoint: inner.progress.checkpoint().cloned(),
            model: None,
            compression: None,
            notes: inner.progress.notes().to_vec(),
            data: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, inner: &mut Inner) {
        while let Some(change) = inner.coordinator.advance(self.started.elapsed()) {
            match change {
                Change::Started { generation, agents } => {
                    tracing::info!(generation, agents, "all agents are here: ranks start");
                    inner.progress.restart();
                    inner.gang = Some(self.gang(generation, agents));
                    self.write_record(inner, true, false);
                }
                Change::Broke(failure) => {
                    let restarts = inner.coordinator.restarts();
                    tracing::warn!(
                        reason = failure.reason,
                        restarts,
                        "{}; all ranks are replaced",
                        failure.message
                    );
                    inner.metrics.count_restart();
                    self.write_record(inner, false, false);
                }
                Change::Left => {
                    tracing::info!("an agent was asked to leave; waiting for its replacement");
                    self.write_record(inner, false, false);
                }
                Change::Resized => {
                    let agents = inner.coordinator.wanted();
                    tracing::info!(agents, "ranks have saved; a gang of another size starts");
                    self.write_record(inner, false, false);
                }
                Change::Ended(verdict) => self.end(inner, &verdict),
            }
        }
    }

    fn end(&self, inner: &mut Inner, verdict: &Verdict) {
        let result = inner.result_of(verdict);
        if result.succeeded || ExitCode::is_permanent(result.exit_code) {
            let record = self.record(inner, false, true);
            if let Err(error) = self.files.write_result(&result, &record) {
                // The termination message tells it all the same.
                tracing::error!("{}", chain(&error));
            }
        } else {
            self.write_record(inner, false, false);
        }
        tracing::info!(reason = result.reason, "{}", result.message);
        inner.result = Some(result);
        inner.coordinator.recorded();
    }

    fn write_record(&self, inner: &Inner, running: bool, finished: bool) {
        if let Err(error) = self.files.write_record(&self.record(inner, running, finished)) {
            tracing::warn!("{}: counters would not survive agent 0", chain(&error));
        }
    }

    fn record(&self, inner: &Inner, running: bool, finished: bool) -> Record {
        Record {
            job: self.job.clone(),
            run: inner.run.clone(),
            generation: inner.coordinator.generation(),
            restarts: inner.coordinator.restarts(),
            agents: inner.gang.as_ref().map_or(0, |gang| gang.agents),
            running,
            finished,
            last_failure: inner.coordinator.last_failure().cloned(),
        }
    }

    fn gang(&self, generation: u32, agents: u32) -> Gang {
        let of_generation = MASTER_PORT_BASE
            + u16::try_from(generation % u32::from(MASTER_PORT_COUNT)).unwrap_or(0);
        let master_port =
            if self.master.local { free_port().unwrap_or(of_generation) } else { of_generation };
        Gang { generation, agents, master_address: self.master.address.clone(), master_port }
    }
}

impl Inner {
    fn order(&self, agent: u32) -> Order {
        let action = match (self.coordinator.directive(agent), &self.gang) {
            (Directive::Run(_), Some(gang)) => Action::Run(gang.clone()),
            (Directive::Save(generation), _) => Action::Save { generation },
            (Directive::Finish(exit_code), _) => Action::Finish { exit_code },
            (Directive::Stop | Directive::Run(_), _) => Action::Stop,
        };
        Order { run: self.run.clone(), action }
    }

    fn look_for_stragglers(&mut self, now: Duration) {
        if *self.coordinator.stage() != Stage::Running {
            return;
        }
        let ranks = self.coordinator.ranks();
        let ranks: Vec<Runner> = ranks
            .map(|(agent, report)| Runner { rank: report.rank, agent, pace: report.pace })
            .collect();
        let class = |rank| straggler::class(&self.ways, rank, ranks.len());
        let gang = (self.coordinator.generation(), ranks.as_slice());
        let found = self.stragglers.look(gang, class, now);
        for finding in &found {
            match finding {
                Finding::Lags(told) => {
                    tracing::warn!(reason = straggler::REASON, "{}", told.message);
                    self.progress.note(straggler::REASON, &told.message, Some(told.agent));
                }
                Finding::Recovered { rank } => {
                    tracing::info!(rank, "no longer holds up the others");
                    self.progress.forget(straggler::REASON);
                    if let Some(told) = self.stragglers.told() {
                        self.progress.note(straggler::REASON, &told.message, Some(told.agent));
                    }
                }
            }
        }
    }

    /// What the newest steps make of the devices.
    fn resources(&self) -> Option<ResourceUse> {
        let agents = self.gang.as_ref().map_or(0, |gang| gang.agents);
        let watts = self.watts.range(..agents).map(|(_, watts)| *watts).sum();
        // Each rank computes on a device of its own.
        self.progress.resources(agents * self.ranks_per_agent, watts)
    }

    fn state(&self) -> WorkerState {
        match self.coordinator.stage() {
            Stage::Ended(Verdict::Succeeded) => WorkerState::Succeeded,
            Stage::Ended(Verdict::Failed { .. }) => WorkerState::Failed,
            Stage::Breaking => WorkerState::Restarting,
            Stage::Resizing => WorkerState::Resizing,
            Stage::Joining if self.coordinator.generation() > 0 => WorkerState::Restarting,
            Stage::Joining => WorkerState::Starting,
            Stage::Running => self.progress.state(),
        }
    }

    fn result_of(&self, verdict: &Verdict) -> WorkerResult {
        let figures = self.progress.figures();
        let model = self.progress.model().cloned();
        let (succeeded, reason, message, exit_code) = match verdict {
            Verdict::Succeeded => {
                let f1 = figures.f1.map(|f1| format!(", f1 {f1:.4}")).unwrap_or_default();
                let place = model.as_ref().map_or("its directory", |model| model.uri.as_str());
                let message =
                    format!("trained {} steps{f1}; the model is in {place}", figures.step);
                (true, "Completed".to_owned(), message, ExitCode::Done as i32)
            }
            Verdict::Failed { failure, exit_code } => {
                (false, failure.reason.clone(), failure.message.clone(), *exit_code)
            }
        };
        WorkerResult {
            succeeded,
            reason,
            message,
            exit_code,
            restarts: self.coordinator.restarts(),
            progress: Some(figures.clone()),
            evaluations: self.progress.evaluations(),
            checkpoint: self.progress.checkpoint().cloned(),
            model: model.filter(|_| succeeded),
            compression: None,
            notes: self.progress.notes().to_vec(),
            data: None,
        }
    }
}

/// Whether `host` is this machine, by name or address.
pub fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// An identifier that no other process has or had.
pub fn new_id() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_nanos(), std::process::id())
}

/// An error with its sources.
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

fn time_of_day() -> String {
    jiff::Timestamp::try_from(SystemTime::now())
        .map(|time| format!("{time:.0}"))
        .unwrap_or_default()
}

/// A port that nothing listens on now.
fn free_port() -> Option<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).ok()?;
    listener.local_addr().ok().map(|address| address.port())
}
