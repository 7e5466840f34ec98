//! The Tabular tasks: prepared rows of a table → a directory with a model of trees, or a network.
//!
//! One rank, on CPUs: [`settings`] makes of a job what `hearth-tabular` takes, [`progress`] tells of every tree
//! or step and keeps a checkpoint, [`report`] says how good the model is. [`neural`] alone needs libtorch. [`onnx`] writes both kinds.

pub mod neural;
pub(crate) mod onnx;
mod progress;
pub(crate) mod report;
mod settings;
mod trees;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hearth_crds::worker_config::TrainConfig;
use hearth_tabular::prepared::{Side, learn, rules, table};
use hearth_tabular::{
    Fit, FitRows, MODEL_TYPE, Model, Parts, Recipe, Shape, assemble, fit, label_weights,
};

use crate::config::prepared;
use crate::cores::threads;
use crate::error::Error;
use crate::event::{EvalMetrics, EventSink, Phase, RankEvent};
use crate::export::{Exported, ModelCard, card, publish};
use crate::monitor::Probe;
use crate::train::journal::Journal;
use progress::{Done, Progress, Saved, TreeProgress};

/// Whether a directory says that it has a model of tables.
pub(crate) fn is_model(directory: &Path) -> bool {
    let config = std::fs::read(directory.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
    config["model_type"] == MODEL_TYPE
}

/// Trains a model of a table, and writes it to `model` below the output.
///
/// # Errors
///
/// Settings that do not go with the rows, rows that teach nothing, files that cannot be read or
/// written, and SIGTERM: then a checkpoint says how far training was.
pub fn train(config: TrainConfig, events: &mut dyn EventSink) -> Result<(), Error> {
    let began = Instant::now();
    let generation = std::env::var("HEARTH_GENERATION").ok().and_then(|text| text.parse().ok());
    events.send(&RankEvent::Started {
        rank: 0,
        world_size: 1,
        generation: generation.unwrap_or(0),
    });
    events.send(&RankEvent::Phase { phase: Phase::Loading, step: 0 });
    let config = TrainConfig { data: prepared::follow(config.data)?, ..config };
    let stop = crate::train::stop_on_sigterm()?;
    let (model, last, mut journal) = grow(&config, &stop, events)?;
    let metrics = report::metrics(&model, began.elapsed().as_secs_f64());
    report::tell_threshold(&model, events);
    let total = last.cast_signed();
    if let Some(metrics) = metrics.clone() {
        journal.append(&serde_json::json!({"step": last, "epoch": 1.0, "eval": metrics}))?;
        events.send(&RankEvent::Evaluation { step: total, epoch: 1.0, metrics, best: true });
    }
    journal.sync()?;
    events.send(&RankEvent::Phase { phase: Phase::Exporting, step: total });
    let exported = export(&config, &model, metrics.clone())?;
    events.send(&RankEvent::Finished {
        step: total,
        total,
        metrics,
        train_loss: None,
        model: Some(exported.path),
        digest: Some(exported.digest),
    });
    Ok(())
}

/// The model, the trees or steps that it took, and the run's journal.
fn grow(
    config: &TrainConfig,
    stop: &AtomicBool,
    events: &mut dyn EventSink,
) -> Result<(Model, u64, Journal), Error> {
    let directory = settings::directory(config)?;
    let network = settings::network(config)?;
    let (task, options) = (settings::task(config.task)?, settings::features(config));
    let features = Arc::new(learn(directory, task, &config.data.train.label, &options)?);
    report::tell_columns(&features, events);
    let train = table(directory, Side::Train, &features)?;
    let held_out = config.data.eval.is_some().then(|| table(directory, Side::Eval, &features));
    let held_out = held_out.transpose()?;
    let rules = rules(directory)?;
    let rows = FitRows { train: &train, held_out: held_out.as_ref(), rules: rules.as_ref() };
    match network {
        None => trees(config, rows, stop, events),
        Some(shape) => train_network(config, (shape, rows), stop, events),
    }
}

fn trees(
    config: &TrainConfig,
    rows: FitRows<'_>,
    stop: &AtomicBool,
    events: &mut dyn EventSink,
) -> Result<(Model, u64, Journal), Error> {
    let settings = settings::fit(config);
    let saved = Saved::new(config, settings::directory(config)?, "trees.json")?;
    let checkpoint = saved.trees(events);
    let done = checkpoint.as_ref().map_or(0, |from| from.iteration);
    let journal = Journal::open(&config.output, u64::from(done), Probe::new(false))?;
    events.send(&RankEvent::Phase { phase: Phase::Training, step: i64::from(done) });
    let rate = settings.trees.learning_rate;
    let progress = Progress::new((saved, journal), stop, events);
    let mut progress = TreeProgress::new(progress, rows.train.rows(), rate);
    let FitRows { train, held_out, rules } = rows;
    let asked = Fit { train, held_out, rules, checkpoint: checkpoint.as_ref() };
    let fitted = fit(&asked, &settings, |iteration| progress.take(&iteration));
    // A model of a part of its trees is none: what else went wrong with it does not count.
    let (journal, last) = progress.end()?;
    Ok((fitted?, u64::from(last.max(done)), journal))
}

fn train_network(
    config: &TrainConfig,
    (shape, rows): (Shape, FitRows<'_>),
    stop: &AtomicBool,
    events: &mut dyn EventSink,
) -> Result<(Model, u64, Journal), Error> {
    let threads = threads(&["HEARTH_THREADS", "OMP_NUM_THREADS"]);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    let saved = Saved::new(config, settings::directory(config)?, "network.safetensors")?;
    let from = saved.network(events);
    let done = from.as_ref().map_or(0, |from| from.position().step());
    let journal = Journal::open(&config.output, done, Probe::new(false))?;
    events.send(&RankEvent::Phase { phase: Phase::Training, step: done.cast_signed() });
    let fingerprint = saved.fingerprint().to_owned();
    let asked = neural::Asked {
        shape,
        training: &config.training,
        label_weights: label_weights(rows.train, &settings::class_weight(config))?,
        fingerprint: &fingerprint,
    };
    let mut steps = Steps {
        progress: Progress::new((saved, journal), stop, events),
        every: config.training.logging_steps.unsigned_abs().max(1),
        last: done,
        window: Window::default(),
    };
    let model = assemble(rows, &settings::choices(config), |eval, parts| {
        let on_step = &mut |told: &neural::Told<'_>| steps.take(told);
        network_model(neural::learn(&asked, (rows.train, eval), from.as_ref(), on_step)?, parts)
    })?;
    Ok((model, steps.last, steps.progress.end()))
}

fn network_model(
    (config, network): (hearth_tabular::NetworkConfig, neural::TableNetwork),
    parts: Parts,
) -> Result<Model, Error> {
    let parts = Parts { recipe: Recipe::Network(config), ..parts };
    Ok(Model::of_network(Box::new(network), parts)?)
}

/// Tells of a network's steps, some at a time.
struct Steps<'a> {
    progress: Progress<'a>,
    /// Steps between two reports.
    every: u64,
    last: u64,
    window: Window,
}

/// Steps that nobody was told of yet.
#[derive(Default)]
struct Window {
    steps: u64,
    rows: u64,
    losses: f64,
}

impl Steps<'_> {
    fn take(&mut self, told: &neural::Told<'_>) -> Result<(), Error> {
        let step = told.step.cast_signed();
        self.last = told.step;
        self.window.steps += 1;
        self.window.rows += told.rows;
        self.window.losses += told.loss;
        if told.step.is_multiple_of(self.every) || told.step == told.of {
            let window = std::mem::take(&mut self.window);
            let done = Done {
                step,
                of: told.of.cast_signed(),
                epoch: told.epoch,
                steps: window.steps,
                loss: window.losses / window.steps as f64,
                learning_rate: told.learning_rate,
                grad_norm: told.grad_norm,
                rows: window.rows,
            };
            self.progress.tell(&done, true)?;
        }
        if let Some(neural::Evaluation { loss, rows, seconds }) = told.evaluation {
            let metrics = EvalMetrics { loss, samples: rows, seconds, ..EvalMetrics::default() };
            self.progress.evaluated((step, told.epoch), &metrics)?;
        }
        let best = told.best.map(u64::cast_signed);
        self.progress.keep(step, best, |_| told.checkpoint())
    }
}

fn export(
    config: &TrainConfig,
    model: &Model,
    metrics: Option<EvalMetrics>,
) -> Result<Exported, Error> {
    let card = ModelCard {
        format_version: card::FORMAT_VERSION,
        task: config.task,
        cleaning: config.data.cleaning(),
        max_length: 0,
        labels: model.parts().features.labels.clone(),
        step: None,
        metrics,
        files: std::collections::BTreeMap::new(),
    };
    let target = config.output.join("model");
    publish(&target, card, |built: &Path| model.save(built).map_err(std::io::Error::other))
}
