//! `hearth-worker serve`: a model over HTTP.
//!
//! [`start`] makes a server of a directory. Classifiers and embedders: [`reads`] is the way of texts and pictures,
//! [`cache`] what was computed before, [`queue`] decides what is computed together, [`engine`] has
//! the one thread that computes, by libtorch or by [`onnx`]; [`http`] has the routes of a classifier, [`classify`] and
//! [`inference`], whose tensors may be [`binary`], the two protocols; files of scanners, alone or
//! [`related`], become a report by [`scans`]. Language models:
//! [`crate::generate`] makes the texts. [`openai`] is the protocol of embedders and of language
//! models, [`common`] is what all share; [`load`] tells the operator how much there is to do. Models of
//! [`tables`] answer on the thread that asks; their rows may be [`tensors`], and [`drift`] compares them with training rows.

pub mod binary;
pub mod cache;
pub mod classify;
pub mod common;
pub mod drift;
pub mod engine;
pub mod http;
pub mod inference;
pub mod load;
pub mod metrics;
pub mod onnx;
pub mod onnx_tables;
pub mod openai;
pub mod queue;
pub mod reads;
pub mod related;
pub mod scans;
pub mod start;
pub mod tables;
pub mod tensors;

use std::future::IntoFuture as _;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hearth_crds::training_job::Accelerator;
use hearth_crds::worker_config::{ExitCode, ServeConfig};
use tch::Device;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use axum::Router;

use crate::error::Error;
use crate::node_cache;
use common::Common;
use queue::Bounds;

/// After SIGTERM, load balancers may send a little longer: connections are
/// still taken for this long, though `/readyz` says no.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Longest wait for answers in flight once no connection is taken.
const DRAIN: Duration = Duration::from_secs(20);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Engine(#[from] Error),
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    #[error("cannot listen on {address}; see which process has the port")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the server failed")]
    Serve(#[source] std::io::Error),
}

/// Runs `hearth-worker serve`; the process's exit code.
pub fn run(config: &Path) -> i32 {
    let served = crate::config::read::<ServeConfig>(config)
        .map_err(|error| ServeError::Engine(error.into()))
        .and_then(|config| serve(&config));
    match served {
        Ok(()) => ExitCode::Done as i32,
        Err(error) => {
            let (message, code) = match &error {
                ServeError::Engine(error) => (error.sentence(), error.exit_code()),
                ServeError::Zero(_) => (error.to_string(), ExitCode::Usage),
                ServeError::Listen { .. } | ServeError::Serve(_) => {
                    (crate::agent::service::chain(&error), ExitCode::Failure)
                }
            };
            tracing::error!("{message}");
            code as i32
        }
    }
}

fn serve(config: &ServeConfig) -> Result<(), ServeError> {
    let bounds = bounds(config)?;
    let device = device(config.accelerator)?;
    tch::set_num_threads(i32::try_from(start::threads()).unwrap_or(1));
    let runtime = tokio::runtime::Runtime::new().map_err(ServeError::Serve)?;
    runtime.block_on(async {
        let listener = listen(config.port)?;
        let asked = config.clone();
        let loading = tokio::task::spawn_blocking(move || {
            let (model, held) = node_cache::hold(&asked);
            start::load(&ServeConfig { model, ..asked }, device, bounds).map(|model| (model, held))
        });
        // As long as the server runs, nobody removes the copy that it would read again.
        let (loaded, _held) = while_loading(&listener, loading).await?;
        let serving = loaded.start(config, bounds).await.map_err(ServeError::Serve)?;
        let outcome = answer(listener, &serving.common, serving.router).await;
        (serving.close)();
        if serving.thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the computing thread panicked");
        }
        outcome
    })
}

fn bounds(config: &ServeConfig) -> Result<Bounds, ServeError> {
    let at_least_one = |name, value: u32| match usize::try_from(value) {
        Ok(value) if value > 0 => Ok(value),
        _ => Err(ServeError::Zero(name)),
    };
    Ok(Bounds {
        batch: at_least_one("serving.maxBatchSize", config.max_batch_size)?,
        delay: Duration::from_millis(config.max_batch_delay_milliseconds.into()),
        depth: at_least_one("serving.maxQueueDepth", config.max_queue_depth)?,
    })
}

fn device(accelerator: Accelerator) -> Result<Device, Error> {
    match accelerator {
        Accelerator::CPU => Ok(Device::Cpu),
        Accelerator::CUDA => {
            nccl_rs::cuda::load_backend()?;
            Ok(Device::Cuda(0))
        }
    }
}

/// Listens on `port` of all addresses; without IPv6, of all IPv4 addresses.
fn listen(port: u16) -> Result<StdListener, ServeError> {
    let address = SocketAddr::from(([0_u16; 8], port));
    let bound = StdListener::bind(address)
        .or_else(|_| StdListener::bind(SocketAddr::from(([0, 0, 0, 0], port))));
    let listener = bound.map_err(|source| ServeError::Listen { address, source })?;
    listener.set_nonblocking(true).map_err(ServeError::Serve)?;
    Ok(listener)
}

/// Answers probes until `loading` is done: a large model must not be killed for
/// being slow to load. Connections that wait in the listener stay there.
async fn while_loading<T: Send + 'static>(
    listener: &StdListener,
    mut loading: JoinHandle<Result<T, Error>>,
) -> Result<T, ServeError> {
    let clone = listener.try_clone().and_then(TcpListener::from_std).map_err(ServeError::Serve)?;
    let (loaded, is_loaded) = oneshot::channel::<()>();
    let serving = axum::serve(clone, common::loading()).with_graceful_shutdown(async {
        let _ = is_loaded.await;
    });
    let serving = tokio::spawn(async move { serving.await });
    let result = (&mut loading).await;
    // Its receiver goes with the server: either way it stops.
    let _ = loaded.send(());
    let _ = tokio::time::timeout(LAST_CALL, serving).await;
    let result = result.map_err(|error| ServeError::Serve(std::io::Error::other(error)))?;
    Ok(result?)
}

/// Serves until SIGTERM, then finishes what is in flight.
async fn answer(listener: StdListener, common: &Common, router: Router) -> Result<(), ServeError> {
    let listener = TcpListener::from_std(listener).map_err(ServeError::Serve)?;
    let address = listener.local_addr().map_err(ServeError::Serve)?;
    tracing::info!(%address, model = common.name, revision = common.revision, "serving");
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Serve)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Serve)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let ready = common.ready.clone();
    if let Some(tokens) = common.tokens.clone() {
        tokio::spawn(async move { tokens.watch().await });
    }
    let serving = axum::serve(listener, router).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let stopping = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("asked to stop: finishing what is in flight");
        ready.store(false, Ordering::Relaxed);
        tokio::time::sleep(LAST_CALL).await;
        // Its receiver lives as long as the server.
        let _ = stop.send(());
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = serving.into_future() => ended.map_err(ServeError::Serve),
        () = stopping => {
            tracing::warn!("answers were still in flight after {} s", DRAIN.as_secs());
            Ok(())
        }
    }
}
