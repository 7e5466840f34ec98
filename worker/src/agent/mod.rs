//! `hearth-worker agent`: one a pod, PID 1 there. Starts the pod's ranks,
//! watches them, and with the other agents replaces the whole gang in place
//! after a failure.
//!
//! [`coordinator`], [`failure`], [`watchdog`], [`straggler`] and [`progress`] think and
//! touch nothing; [`gang`] has the processes, [`link`] and [`http`] the network,
//! [`record`] the disk. Agent 0 has the coordinator ([`service`]); every agent,
//! agent 0 too, is a [`member`].

pub mod coordinator;
pub mod failure;
pub mod gang;
pub mod history;
pub mod http;
pub mod link;
pub mod member;
pub mod metrics;
pub mod process;
pub mod progress;
pub mod protocol;
pub mod record;
pub mod roster;
pub mod service;
pub mod straggler;
pub mod terms;
pub mod watchdog;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hearth_crds::training_job::Accelerator;
use hearth_crds::worker_config::{AGENT_PORT, ExitCode, TrainConfig};
use tokio::net::TcpListener;

use gang::{Listener, Ranks, Recipe};
use link::{Client, Link};
use member::{End, Member};
use record::Files;
use service::{Service, chain, is_loopback, new_id};
use terms::Timing;
use watchdog::Limits;

use crate::event::RankEvent;
use crate::monitor::SystemMetrics;
use crate::termination::{failure, tell};

/// Agent 0 stays for the others to hear the end for at most this long.
const FAREWELL: Duration = Duration::from_secs(15);
/// How often the coordinator looks for what did not happen.
const TICK: Duration = Duration::from_millis(100);

/// How to be an agent.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// JSON document that says what to do.
    #[arg(long, env = "HEARTH_CONFIG", default_value = hearth_crds::worker_config::CONFIG_PATH)]
    config: PathBuf,
    /// Index of this agent, from 0.
    #[arg(long, env = "JOB_COMPLETION_INDEX", default_value_t = 0)]
    index: u32,
    /// Address to listen on [default: the coordinator's port on all addresses;
    /// where agent 0 is on the loopback, that port there, and any free port for
    /// other agents].
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Least seconds of silence, while steps are made, after which a rank
    /// counts as hung. It grows with the job's own steps.
    #[arg(long, env = "HEARTH_HANG_SECONDS", default_value_t = 30.0)]
    hang_seconds: f64,
    /// Seconds of silence allowed while something is read or written.
    #[arg(long, env = "HEARTH_LOADING_SECONDS", default_value_t = 600.0)]
    loading_seconds: f64,
    /// Seconds to wait for all agents to join, or for a lost agent 0.
    #[arg(long, env = "HEARTH_JOIN_SECONDS", default_value_t = 1800.0)]
    join_seconds: f64,
    /// Seconds that ranks have to save after SIGTERM; less than the pod's
    /// `terminationGracePeriodSeconds`.
    #[arg(long, env = "HEARTH_GRACE_SECONDS", default_value_t = 25.0)]
    grace_seconds: f64,
}

/// The agent could not begin.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    #[error("--{name} is {value}, and must be a number of seconds above 0")]
    Seconds { name: &'static str, value: f64 },
    #[error("cannot listen on {address}; see which process has the port")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot find this program's own file")]
    Program(#[source] std::io::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
}

impl AgentError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Seconds { .. } => ExitCode::Usage,
            Self::Listen { .. } | Self::Program(_) | Self::Runtime(_) => ExitCode::Failure,
        }
    }

    fn reason(&self) -> &'static str {
        match self.exit_code() {
            ExitCode::Usage => "BadConfig",
            _ => "AgentFailed",
        }
    }
}

/// Runs `hearth-worker agent`; the process's exit code.
pub fn run(arguments: &Arguments) -> i32 {
    // One thread: an agent waits, its ranks compute. It also lives as long as
    // the process, which the ranks' parent-death signal is bound to.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime
        .map_err(AgentError::Runtime)
        .and_then(|runtime| runtime.block_on(supervise(arguments)));
    match result {
        Ok(exit_code) => exit_code,
        Err(error) => {
            let exit_code = error.exit_code() as i32;
            let message = chain(&error);
            tracing::error!("{message}");
            if arguments.index == 0 {
                tell(&failure(error.reason(), message, exit_code));
            }
            exit_code
        }
    }
}

async fn supervise(arguments: &Arguments) -> Result<i32, AgentError> {
    let config: TrainConfig = crate::config::read(&arguments.config)?;
    let index = arguments.index;
    if index >= config.replicas {
        tracing::info!("agent {index} stands by: the job began with {} agents", config.replicas);
    }
    let (timing, limits) = arguments.patience()?;
    let grace = seconds("grace-seconds", arguments.grace_seconds)?;
    let files = Files::of(&config);
    let record = files.record(&config.job);
    // A pod that is started again after the job's end has nothing to do. Local
    // jobs have no UID, so that the same file may be run again.
    if let Some(result) = record.as_ref().and_then(|record| files.result(record))
        && !config.job.uid.is_empty()
    {
        tracing::info!("this job has ended before: {}", result.message);
        return Ok(if index == 0 { tell(&result) } else { ExitCode::Done as i32 });
    }

    let service =
        (index == 0).then(|| Arc::new(Service::new(&config, timing, files.clone(), record)));
    let listener = listen(arguments.address(&config)).await?;
    let system = Arc::new(SystemMetrics::new(config.processes_per_worker));
    let heard = listener_of(service.as_ref(), &system);
    let ranks = Arc::new(Ranks::new(recipe(&config, arguments, limits)?, heard));
    watch(&system, &ranks, config.accelerator);
    let leaving = Arc::new(AtomicBool::new(false));
    tokio::spawn(member::leave_on_sigterm(ranks.clone(), leaving.clone(), grace));
    let reaped = ranks.clone();
    tokio::spawn(process::reap_orphans(move || reaped.pids()));
    let (router, link) = if let Some(service) = &service {
        tokio::spawn(keep_time(service.clone()));
        (http::coordinator(service.clone(), system.clone()), Link::Local(service.clone()))
    } else {
        let client = Client::new(&config.coordinator_host, config.coordinator_port);
        (http::member(system.clone()), Link::Remote(client))
    };
    tokio::spawn(async move { axum::serve(listener, router).await });

    let (agents, job, incarnation) = (config.replicas, config.job.clone(), new_id());
    let member = Member {
        agent: index,
        agents,
        job,
        incarnation,
        ranks,
        leaving,
        link,
        timing,
        grace,
        files,
        system,
    };
    let end = member.run().await;
    Ok(match (end, &service) {
        (End::Finished { exit_code }, None) => exit_code,
        (End::Finished { .. }, Some(service)) => finish(service).await,
        (End::Left, Some(service)) => tell(&service.leave()),
        (End::Left, None) => ExitCode::Terminated as i32,
        (End::Alone, _) => ExitCode::Failure as i32,
    })
}

impl Arguments {
    fn patience(&self) -> Result<(Timing, Limits), AgentError> {
        let join = seconds("join-seconds", self.join_seconds)?;
        let limits = Limits {
            training: seconds("hang-seconds", self.hang_seconds)?,
            loading: seconds("loading-seconds", self.loading_seconds)?,
        };
        Ok((Timing { join, ..Timing::default() }, limits))
    }

    fn address(&self, config: &TrainConfig) -> SocketAddr {
        let local = is_loopback(&config.coordinator_host);
        let port = match (self.index, local) {
            (0, _) => config.coordinator_port,
            (_, true) => 0,
            (_, false) => AGENT_PORT,
        };
        let everywhere = SocketAddr::from(([0_u16; 8], port));
        let loopback = SocketAddr::from(([127, 0, 0, 1], port));
        self.listen.unwrap_or(if local { loopback } else { everywhere })
    }
}

fn seconds(name: &'static str, value: f64) -> Result<Duration, AgentError> {
    let duration = Duration::try_from_secs_f64(value).ok().filter(|value| !value.is_zero());
    duration.ok_or(AgentError::Seconds { name, value })
}

/// Binds `address`; where the machine has no IPv6, its IPv4 counterpart.
async fn listen(address: SocketAddr) -> Result<TcpListener, AgentError> {
    let bound = match TcpListener::bind(address).await {
        Err(_) if address.ip().is_unspecified() => {
            TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], address.port()))).await
        }
        bound => bound,
    };
    bound.map_err(|source| AgentError::Listen { address, source })
}

fn recipe(
    config: &TrainConfig,
    arguments: &Arguments,
    limits: Limits,
) -> Result<Recipe, AgentError> {
    Ok(Recipe {
        program: std::env::current_exe().map_err(AgentError::Program)?,
        config: arguments.config.clone(),
        agent: arguments.index,
        ranks_per_agent: config.processes_per_worker,
        limits,
        deterministic: config.training.full_determinism,
    })
}

/// Starts to look at the ranks and their GPUs. Training goes on without it.
fn watch(system: &Arc<SystemMetrics>, ranks: &Arc<Ranks>, accelerator: Accelerator) {
    let ranks = Arc::clone(ranks);
    let pids = move || ranks.running_pids();
    if let Err(error) = system.watch(pids, accelerator == Accelerator::CUDA) {
        tracing::warn!(%error, "no thread for figures of the system");
    }
}

/// What hears the ranks: the coordinator hears rank 0; notes are for the log.
fn listener_of(service: Option<&Arc<Service>>, system: &Arc<SystemMetrics>) -> Listener {
    let (service, system) = (service.cloned(), Arc::clone(system));
    Arc::new(move |rank, event| {
        match event {
            RankEvent::Note { reason, message } => tracing::info!(rank, reason, "{message}"),
            RankEvent::Step(report) => system.take_step(rank, report),
            _ => {}
        }
        if let (0, Some(service)) = (rank, &service) {
            service.take(event);
        }
    })
}

async fn keep_time(service: Arc<Service>) {
    let mut interval = tokio::time::interval(TICK);
    let mut awaited = None;
    loop {
        interval.tick().await;
        service.tick();
        let now_awaited = service.awaited();
        if now_awaited != awaited
            && let Some(agents) = &now_awaited
        {
            tracing::info!(?agents, "waiting for agents");
        }
        awaited = now_awaited;
    }
}

/// Waits until the other agents know, then tells the result.
async fn finish(service: &Arc<Service>) -> i32 {
    let deadline = tokio::time::Instant::now() + FAREWELL;
    let mut interval = tokio::time::interval(TICK);
    while !service.may_exit() && tokio::time::Instant::now() < deadline {
        interval.tick().await;
    }
    service.result().map_or(ExitCode::Failure as i32, |result| tell(&result))
}
