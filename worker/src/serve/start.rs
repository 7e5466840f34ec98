//! A directory to a server: reads the model, warms it up, starts its computing thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::Router;
use hearth_crds::features::FeatureStore;
use hearth_crds::model_deployment::ServingRuntime;
use hearth_crds::preparation::Cleaning;
use hearth_crds::training_job::Accelerator;
use hearth_crds::worker_config::{FEATURE_STORE_PASSWORD_PATH, ServeConfig};
use hearth_features::{Access, FeatureClient, FeatureMetrics, Password, Views};
use prometheus_client::registry::Registry;
use tch::Device;
use tokio::sync::Semaphore;

use super::cache::{AnswerCache, CacheMetrics};
use super::classify::Threshold;
use super::common::Common;
use super::drift::{DriftMetrics, DriftWatch, Watching};
use super::engine::{Compute, Engine, PictureClassifier, TextClassifier, TextEmbedder};
use super::http::{self, Server};
use super::load::TokenLoad;
use super::metrics::{BatchMetrics, ServingMetrics};
use super::onnx::{OnnxClassifier, OnnxPictures, Place};
use super::onnx_tables;
use super::openai::{self, EmbeddingServer, LanguageServer};
use super::queue::Bounds;
use super::reads::{Reads, Way};
use super::tables::{self, TableServer};
use crate::config::{ConfigError, setting};
use crate::cores;
use crate::data::facts::OF_PICTURE;
use crate::data::{Preprocessor, TextEncoder};
use crate::error::Error;
use crate::export::drift::DRIFT;
use crate::export::{Decision, DriftReference};
use crate::generate::compute::{Computer, memory_for_texts};
use crate::generate::engine::Limits;
use crate::generate::language::Vocabulary;
use crate::generate::metrics::GenerationMetrics;
use crate::generate::{self, schedule};
use crate::model::embedder::{self, is_embedder};
use crate::model::{Family, Head, Model, ModelConfig, ModelError, saved_head};
use crate::tabular::{self, neural};

/// Most tokens of a pass of a language model: prompts beyond that are computed piece by piece, so
/// that texts that run wait no longer than for so many.
const PASS_TOKENS: usize = 256;

/// Tokens of a text for which there is room at least, where the model knows as many.
const LEAST_ROOM: usize = 1024;

/// Time between two looks at what requests hold.
const TELL_DRIFT_EVERY: Duration = Duration::from_secs(10);

/// Why what is asked of a model is not compared with what it learned from.
const NO_REFERENCE: &str =
    "its directory has no drift.json, which training here writes for a classifier";
const NO_ROWS: &str =
    "its config.json has no reference of training rows, which training here writes";
const EMBEDS: &str = "it gives vectors, and only classifiers and models of tables are watched";
const GENERATES: &str = "it generates text, and only classifiers and models of tables are watched";

/// A model that is warm.
pub enum Loaded {
    /// Tells texts apart.
    Texts(Classifier<TextEncoder>),
    /// Tells pictures apart.
    Pictures(Classifier<Preprocessor>),
    /// Gives vectors of texts.
    Embedder(TextEmbedder, Box<TextEncoder>),
    /// Continues texts.
    Language(Computer, Arc<Vocabulary>),
    /// Says what rows of a table are.
    Table(Arc<hearth_tabular::Model>),
}

/// A classifier.
pub struct Classifier<R: Reads> {
    model: Box<dyn Compute<Unit = R::Unit>>,
    labels: Vec<String>,
    threshold: Option<Threshold>,
    /// What requests are compared with.
    drift: Option<DriftReference>,
    reader: Box<R>,
    runtime: ServingRuntime,
}

/// A model that is served.
pub struct Serving {
    /// Name, figures, bounds.
    pub common: Arc<Common>,
    /// Its routes.
    pub router: Router,
    /// Lets the computing thread end: nobody waits for answers any more.
    pub close: Box<dyn FnOnce() + Send>,
    /// The computing thread, where there is one.
    pub thread: Option<JoinHandle<()>>,
}

/// Reads the model that a configuration names and warms it up.
pub fn load(asked: &ServeConfig, device: Device, bounds: Bounds) -> Result<Loaded, Error> {
    let directory = &asked.model;
    if tabular::is_model(directory) {
        return table(asked);
    }
    let config = ModelConfig::read(directory)?;
    let place = Place::of(asked.runtime, asked.accelerator, threads())?;
    let has_onnx = config.family == Family::Bert || config.family.sees();
    if place.is_some() && (!has_onnx || is_embedder(&config)) {
        let detail = format!(
            "serving.runtime {:?} computes classifiers of BERT's family and of pictures; choose Libtorch for this model",
            asked.runtime
        );
        return Err(config.unsupported(detail).into());
    }
    if asked.features.is_some() {
        let detail = "serving.features are for models of tables; leave them out".to_owned();
        return Err(config.unsupported(detail).into());
    }
    if !asked.adapters.is_empty() && saved_head(&config)? != Head::CausalLm {
        let detail = "serving.adapters are for language models; leave them out".to_owned();
        return Err(config.unsupported(detail).into());
    }
    if is_embedder(&config) {
        let embedder = embedder::load(directory, device)?;
        let encoder = TextEncoder::load(directory, Cleaning::default(), embedder.max_tokens)?;
        let mut model = TextEmbedder { embedder, pad: encoder.pad(), device };
        warm_up(&mut model, &encoder, bounds.batch)?;
        return Ok(Loaded::Embedder(model, Box::new(encoder)));
    }
    if saved_head(&config)? == Head::CausalLm {
        let adapters: Vec<&Path> = asked.adapters.iter().map(|of| of.path.as_path()).collect();
        let (model, vocabulary) = generate::language::load(directory, &adapters, device)?;
        let most = vocabulary.context.saturating_mul(bounds.batch);
        let least = vocabulary.context.min(LEAST_ROOM);
        let computer = Computer::new(model, device, (least, most), memory_for_texts())?;
        return Ok(Loaded::Language(computer, Arc::new(vocabulary)));
    }
    // Elsewhere, libtorch only reads the model and says what it should give.
    let device = if place.is_some() { Device::Cpu } else { device };
    let classifier = crate::quantize::load(directory, device)?;
    if config.family.sees() {
        return pictures(asked, classifier, (device, place), bounds.batch);
    }
    let encoder = TextEncoder::from_export(directory)?;
    let labels = classifier.labels().names().to_vec();
    let threshold = threshold(directory, &labels)?;
    let own = TextClassifier { classifier, pad: encoder.pad(), device };
    let mut model: Box<dyn Compute<Unit = u32>> = match place {
        None => Box::new(own),
        Some(place) => {
            let [short, long] = samples(&encoder)?;
            Box::new(OnnxClassifier::new(&own, &place, &[&short, &long])?)
        }
    };
    warm_up(&mut model, &encoder, bounds.batch)?;
    let drift = drift_reference(directory, encoder.facts(), labels.len())?;
    let (reader, runtime) = (Box::new(encoder), asked.runtime);
    Ok(Loaded::Texts(Classifier { model, labels, threshold, drift, reader, runtime }))
}

/// A model of tables.
fn table(asked: &ServeConfig) -> Result<Loaded, Error> {
    let refused = [
        (
            !asked.adapters.is_empty(),
            "serving.adapters",
            "they are for language models; leave them out",
        ),
        (
            asked.accelerator != Accelerator::CPU,
            "serving.accelerator",
            "models of tables are computed on CPUs; ask for no nvidia.com/gpu",
        ),
    ];
    if let Some((_, field, detail)) = refused.into_iter().find(|(is_asked, ..)| *is_asked) {
        return Err(ConfigError::Setting { field, detail: detail.to_owned() }.into());
    }
    if let Some(store) = &asked.features {
        Views::new(store).map_err(|error| setting("serving.features", error.to_string()))?;
    }
    let place = Place::of(asked.runtime, asked.accelerator, threads())?;
    let model = match place {
        None => neural::load(&asked.model)?,
        Some(place) => onnx_tables::load(&asked.model, &place)?,
    };
    Ok(Loaded::Table(Arc::new(model)))
}

/// A warm classifier of pictures.
fn pictures(
    asked: &ServeConfig,
    classifier: Model,
    (device, place): (Device, Option<Place>),
    batch: usize,
) -> Result<Loaded, Error> {
    let began = Instant::now();
    let preprocessor = Preprocessor::load(&asked.model)?;
    let labels = classifier.labels().names().to_vec();
    let threshold = threshold(&asked.model, &labels)?;
    let format = preprocessor.format;
    let own = PictureClassifier { classifier, format, device };
    let bytes = 3 * format.height * format.width;
    let black = vec![0; bytes];
    let stripes: Vec<u8> = (0..=u8::MAX).cycle().take(bytes).collect();
    let mut model: Box<dyn Compute<Unit = u8>> = match place {
        None => Box::new(own),
        Some(place) => Box::new(OnnxPictures::new(&own, &place, &[&black, &stripes])?),
    };
    for rows in [vec![&black[..]], vec![&stripes[..]; batch], vec![&black[..]]] {
        model.answers(&rows)?;
    }
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "the model is warm");
    let drift = drift_reference(&asked.model, &OF_PICTURE, labels.len())?;
    let (reader, runtime) = (Box::new(preprocessor), asked.runtime);
    Ok(Loaded::Pictures(Classifier { model, labels, threshold, drift, reader, runtime }))
}

/// What decides between a model's labels, where its directory says so.
fn threshold(directory: &Path, labels: &[String]) -> Result<Option<Threshold>, ModelError> {
    let decision = Decision::of_model(directory, labels)?;
    Ok(decision
        .map(|decision| Threshold { label: decision.label, score: decision.threshold.value }))
}

/// What requests are compared with, where its directory has it.
fn drift_reference(
    directory: &Path,
    names: &[&str],
    labels: usize,
) -> Result<Option<DriftReference>, ModelError> {
    let malformed = |detail| ModelError::Malformed { path: directory.join(DRIFT), detail };
    let reference =
        DriftReference::read(directory).map_err(|error| malformed(error.to_string()))?;
    match reference.as_ref().and_then(|reference| reference.fault(names, labels)) {
        Some(detail) => Err(malformed(detail)),
        None => Ok(reference),
    }
}

/// A short text and the longest.
fn samples(encoder: &TextEncoder) -> Result<[Vec<u32>; 2], Error> {
    let long = "warm up ".repeat(encoder.max_length());
    Ok([encoder.encode("warm-up")?, encoder.encode(&long)?])
}

/// `HEARTH_THREADS`, else one a core.
pub fn threads() -> usize {
    cores::threads(&["HEARTH_THREADS"])
}

/// The first passes allocate and choose kernels: not at a client's cost.
fn warm_up(
    model: &mut impl Compute<Unit = u32>,
    encoder: &TextEncoder,
    batch: usize,
) -> Result<(), Error> {
    let began = Instant::now();
    let [short, long] = samples(encoder)?;
    for rows in [vec![&short[..]], vec![&long[..]], vec![&short[..]; batch], vec![&short[..]]] {
        model.answers(&rows)?;
    }
    tracing::info!(seconds = began.elapsed().as_secs_f64(), "the model is warm");
    Ok(())
}

impl Loaded {
    /// Starts what computes, and gives the routes to it.
    pub async fn start(self, config: &ServeConfig, bounds: Bounds) -> std::io::Result<Serving> {
        match self {
            Self::Texts(classifier) => classifier.start(config, bounds),
            Self::Pictures(classifier) => classifier.start(config, bounds),
            Self::Embedder(model, encoder) => {
                let (width, vocabulary) = (model.embedder.width, model.embedder.vocabulary);
                let made =
                    compute(model, *encoder, width, (config, bounds), |_| Watching::Not(EMBEDS))?;
                let (common, texts, thread) = made;
                let server = EmbeddingServer {
                    common: common.clone(),
                    texts: texts.clone(),
                    width,
                    vocabulary,
                    started: now(),
                };
                let router = openai::embeddings::router(&Arc::new(server));
                Ok(Serving {
                    common,
                    router,
                    close: Box::new(move || texts.engine.close()),
                    thread: Some(thread),
                })
            }
            Self::Language(computer, vocabulary) => generate(computer, vocabulary, config, bounds),
            Self::Table(model) => tables(model, config).await,
        }
    }
}

impl<R: Reads> Classifier<R> {
    fn start(self, config: &ServeConfig, bounds: Bounds) -> std::io::Result<Serving> {
        let Self { model, labels, threshold, drift, reader, runtime } = self;
        let decides = threshold.as_ref().map(|threshold| threshold.score);
        let watching = |registry: &mut Registry| match drift {
            Some(reference) => {
                let figures = DriftMetrics::new(registry);
                watched(DriftWatch::of_classifier(&reference, decides, figures))
            }
            None => Watching::Not(NO_REFERENCE),
        };
        let made = compute(model, *reader, labels.len(), (config, bounds), watching)?;
        let (common, way, thread) = made;
        let server =
            Server { common: common.clone(), labels, threshold, runtime, way: way.clone() };
        let router = http::router(&Arc::new(server));
        let close = Box::new(move || way.engine.close());
        Ok(Serving { common, router, close, thread: Some(thread) })
    }
}

/// No thread of their own computes models of tables: trees are fast enough for those that read requests,
/// and networks take others.
async fn tables(
    model: Arc<hearth_tabular::Model>,
    config: &ServeConfig,
) -> std::io::Result<Serving> {
    let (metrics, (figures, lookups)) = ServingMetrics::with(|registry| {
        let lookups = config.features.is_some().then(|| FeatureMetrics::new(registry));
        (DriftMetrics::new(registry), lookups)
    });
    let features = match config.features.as_ref().zip(lookups) {
        Some((store, lookups)) => Some(features(store, lookups).await?),
        None => None,
    };
    let drift = match DriftWatch::of_table(&model, figures) {
        Some(watch) => watched(watch),
        None => Watching::Not(NO_ROWS),
    };
    let common = common(config, metrics, None, drift);
    let server =
        Arc::new(TableServer { common: common.clone(), model, features, runtime: config.runtime });
    Ok(Serving { common, router: tables::router(&server), close: Box::new(|| ()), thread: None })
}

/// Brings the figures of a watch up to date from time to time, for as long as somebody has it.
fn watched(watch: DriftWatch) -> Watching {
    let watch = Arc::new(watch);
    let watching = Arc::downgrade(&watch);
    tokio::spawn(async move {
        while let Some(drift) = watching.upgrade() {
            drift.tell();
            drop(drift);
            tokio::time::sleep(TELL_DRIFT_EVERY).await;
        }
    });
    Watching::By(watch)
}

/// The way to a feature store, which may come later.
async fn features(store: &FeatureStore, metrics: FeatureMetrics) -> std::io::Result<FeatureClient> {
    let password = store.password_secret.as_ref();
    let password = password.map(|_| Password::File(FEATURE_STORE_PASSWORD_PATH.into()));
    let access = Access { password, authorities: None };
    FeatureClient::start(store, access, metrics).await.map_err(std::io::Error::other)
}

/// What routes share, the way to the computing thread, and that thread.
type Computing<R> = (Arc<Common>, Arc<Way<R>>, JoinHandle<()>);

/// Starts the thread that computes answers of so many `numbers` each, with the cache before it; `watching`
/// compares them.
fn compute<R: Reads>(
    model: impl Compute<Unit = R::Unit>,
    reader: R,
    numbers: usize,
    (config, bounds): (&ServeConfig, Bounds),
    watching: impl FnOnce(&mut Registry) -> Watching,
) -> std::io::Result<Computing<R>> {
    let bytes = config.response_cache_bytes;
    let (metrics, (figures, cached, watching)) = ServingMetrics::with(|registry| {
        let cached = (bytes > 0).then(|| CacheMetrics::new(registry));
        (BatchMetrics::new(registry), cached, watching(registry))
    });
    let cache = cached.map(|figures| AnswerCache::new(bytes, &config.revision, numbers, figures));
    let (engine, thread) = Engine::start(model, bounds, Arc::new(figures))?;
    let turns = Semaphore::new(threads());
    let drift = watching.watch().cloned();
    let way = Arc::new(Way { reader, engine, cache, turns, drift });
    Ok((common(config, metrics, None, watching), way, thread))
}

fn generate(
    computer: Computer,
    vocabulary: Arc<Vocabulary>,
    config: &ServeConfig,
    bounds: Bounds,
) -> std::io::Result<Serving> {
    let (metrics, figures) = ServingMetrics::with(GenerationMetrics::new);
    let running = bounds.batch;
    let limits = Limits {
        schedule: schedule::Bounds { running, tokens: PASS_TOKENS.max(running) },
        depth: bounds.depth,
        delay: bounds.delay,
    };
    let tokens = Arc::new(TokenLoad::new(figures.tokens_in_flight()));
    let (engine, thread) =
        generate::engine::Engine::start(computer, vocabulary.clone(), limits, Arc::new(figures))?;
    let common = common(config, metrics, Some(tokens), Watching::Not(GENERATES));
    let closing = engine.clone();
    let adapters = config.adapters.iter().map(|adapter| adapter.name.clone()).collect();
    let server =
        LanguageServer { common: common.clone(), vocabulary, engine, adapters, started: now() };
    let router = openai::router(&Arc::new(server));
    Ok(Serving { common, router, close: Box::new(move || closing.close()), thread: Some(thread) })
}

fn common(
    config: &ServeConfig,
    metrics: ServingMetrics,
    tokens: Option<Arc<TokenLoad>>,
    drift: Watching,
) -> Arc<Common> {
    if let Watching::Not(why) = drift {
        tracing::info!("requests are not compared with training rows: {why}");
    }
    Arc::new(Common {
        name: config.job.name.clone(),
        revision: config.revision.clone(),
        metrics: Arc::new(metrics),
        ready: Arc::new(AtomicBool::new(true)),
        max_body: usize::try_from(config.max_body_bytes).unwrap_or(usize::MAX),
        tokens,
        drift,
    })
}

fn now() -> i64 {
    jiff::Zoned::now().timestamp().as_second()
}
