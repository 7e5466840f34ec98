//! `hearth-worker serve`: a model over HTTP.
//!
//! Classifiers: [`queue`] decides what is computed together, [`engine`] has the one thread that
//! computes, [`cache`] what was computed before, [`http`] the routes; [`classify`] and
//! [`inference`], whose tensors may be [`binary`], are the two protocols. Language
//! models: [`openai`] is the protocol, [`crate::generate`] makes the texts. [`common`] is what both
//! share.

pub mod binary;
pub mod cache;
pub mod classify;
pub mod common;
pub mod engine;
pub mod http;
pub mod inference;
pub mod metrics;
pub mod openai;
pub mod queue;

use std::future::IntoFuture as _;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_crds::training_job::Accelerator;
use hearth_crds::worker_config::{ExitCode, ServeConfig};
use tch::Device;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use axum::Router;

use crate::cores::cores;
use crate::data::TextEncoder;
use crate::error::Error;
use crate::generate::compute::{Computer, memory_for_texts};
use crate::generate::engine::Limits;
use crate::generate::language::Vocabulary;
use crate::generate::metrics::GenerationMetrics;
use crate::generate::{self, schedule};
use crate::model::{Head, ModelConfig, saved_head};
use cache::{AnswerCache, CacheMetrics};
use common::Common;
use engine::{Engine, TextClassifier};
use http::Server;
use metrics::{BatchMetrics, ServingMetrics};
use openai::LanguageServer;
use queue::Bounds;

/// After SIGTERM, load balancers may send a little longer: connections are
/// still taken for this long, though `/readyz` says no.
const LAST_CALL: Duration = Duration::from_millis(500);
/// Longest wait for answers in flight once no connection is taken.
const DRAIN: Duration = Duration::from_secs(20);

/// Most tokens of a pass of a language model: prompts beyond that are computed piece by piece, so
/// that texts that run wait no longer than for so many.
const PASS_TOKENS: usize = 256;

/// Tokens of a text for which there is room at least, where the model knows as many.
const LEAST_ROOM: usize = 1024;

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
    tch::set_num_threads(threads());
    let runtime = tokio::runtime::Runtime::new().map_err(ServeError::Serve)?;
    runtime.block_on(async {
        let listener = listen(config.port)?;
        let directory = config.model.clone();
        let loading = tokio::task::spawn_blocking(move || load(&directory, device, bounds));
        let loaded = while_loading(&listener, loading).await?;
        let serving = loaded.start(config, bounds)?;
        let outcome = answer(listener, &serving.common, serving.router).await;
        (serving.close)();
        if serving.thread.join().is_err() {
            tracing::error!("the computing thread panicked");
        }
        outcome
    })
}

/// A model that is warm.
enum Loaded {
    Classifier(TextClassifier, Box<TextEncoder>),
    Language(Computer, Arc<Vocabulary>),
}

/// A model that is served.
struct Serving {
    common: Arc<Common>,
    router: Router,
    /// Lets the computing thread end: nobody waits for answers any more.
    close: Box<dyn FnOnce() + Send>,
    thread: std::thread::JoinHandle<()>,
}

fn load(directory: &Path, device: Device, bounds: Bounds) -> Result<Loaded, Error> {
    let head = saved_head(&ModelConfig::read(directory)?)?;
    if head == Head::CausalLm {
        let (model, vocabulary) = generate::language::load(directory, device)?;
        let most = vocabulary.context.saturating_mul(bounds.batch);
        let least = vocabulary.context.min(LEAST_ROOM);
        let computer = Computer::new(model, device, (least, most), memory_for_texts())?;
        return Ok(Loaded::Language(computer, Arc::new(vocabulary)));
    }
    let classifier = crate::quantize::load(directory, device)?;
    classifier.expect_classifier()?;
    let encoder = TextEncoder::from_export(directory)?;
    let model = TextClassifier { classifier, pad: encoder.pad(), device };
    warm_up(&model, &encoder, bounds.batch)?;
    Ok(Loaded::Classifier(model, Box::new(encoder)))
}

impl Loaded {
    fn start(self, config: &ServeConfig, bounds: Bounds) -> Result<Serving, ServeError> {
        let common = |metrics| {
            Arc::new(Common {
                name: config.job.name.clone(),
                revision: config.revision.clone(),
                metrics: Arc::new(metrics),
                ready: Arc::new(AtomicBool::new(true)),
                max_body: usize::try_from(config.max_body_bytes).unwrap_or(usize::MAX),
            })
        };
        match self {
            Self::Classifier(model, encoder) => {
                let labels = model.classifier.labels().names().to_vec();
                let bytes = config.response_cache_bytes;
                let (metrics, (figures, cached)) = ServingMetrics::with(|registry| {
                    let cached = (bytes > 0).then(|| CacheMetrics::new(registry));
                    (BatchMetrics::new(registry), cached)
                });
                let cache = cached.map(|figures| {
                    AnswerCache::new(bytes, &config.revision, labels.len(), figures)
                });
                let (engine, thread) =
                    Engine::start(model, bounds, Arc::new(figures)).map_err(ServeError::Serve)?;
                let common = common(metrics);
                let closing = engine.clone();
                let server =
                    Server { common: common.clone(), labels, encoder: *encoder, engine, cache };
                let router = http::router(&Arc::new(server));
                Ok(Serving { common, router, close: Box::new(move || closing.close()), thread })
            }
            Self::Language(computer, vocabulary) => {
                let (metrics, figures) = ServingMetrics::with(GenerationMetrics::new);
                let limits = Limits {
                    schedule: schedule::Bounds {
                        running: bounds.batch,
                        tokens: PASS_TOKENS.max(bounds.batch),
                    },
                    depth: bounds.depth,
                    delay: bounds.delay,
                };
                let (engine, thread) = generate::engine::Engine::start(
                    computer,
                    vocabulary.clone(),
                    limits,
                    Arc::new(figures),
                )
                .map_err(ServeError::Serve)?;
                let common = common(metrics);
                let closing = engine.clone();
                let started = jiff::Zoned::now().timestamp().as_second();
                let server = LanguageServer { common: common.clone(), vocabulary, engine, started };
                let router = openai::router(&Arc::new(server));
                Ok(Serving { common, router, close: Box::new(move || closing.close()), thread })
            }
        }
    }
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

/// `HEARTH_THREADS`, else one a core.
fn threads() -> i32 {
    let asked = std::env::var("HEARTH_THREADS").ok().and_then(|threads| threads.parse().ok());
    i32::try_from(asked.unwrap_or_else(|| cores().get())).unwrap_or(1).max(1)
}

/// The first passes allocate and choose kernels: not at a client's cost.
fn warm_up(model: &TextClassifier, encoder: &TextEncoder, batch: usize) -> Result<(), Error> {
    let began = Instant::now();
    let short = encoder.encode("warm-up")?;
    let long = encoder.encode(&"warm up ".repeat(encoder.max_length()))?;
    for rows in [vec![&short[..]], vec![&long[..]], vec![&short[..]; batch], vec![&short[..]]] {
        model.scores(&rows)?;
    }
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "the model is warm");
    Ok(())
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
