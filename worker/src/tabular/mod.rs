//! The Tabular tasks: prepared rows of a table → a directory with a model of trees.
//!
//! One rank, without libtorch: [`settings`] makes of a job what `hearth-tabular` takes, [`progress`] tells of
//! every tree and keeps a checkpoint, [`report`] says how good the model is.

mod progress;
pub(crate) mod report;
mod settings;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use hearth_crds::worker_config::TrainConfig;
use hearth_tabular::prepared::{Side, learn, rules, table};
use hearth_tabular::{Fit, Model, fit};

use crate::config::prepared;
use crate::error::Error;
use crate::event::{EvalMetrics, EventSink, Phase, RankEvent};
use crate::export::{Exported, ModelCard, card, publish};
use crate::monitor::Probe;
use crate::train::journal::Journal;
use progress::{Progress, Saved};

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
    let total = i64::from(last);
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

/// The model, the trees that were grown for it, and the run's journal.
fn grow(
    config: &TrainConfig,
    stop: &AtomicBool,
    events: &mut dyn EventSink,
) -> Result<(Model, u32, Journal), Error> {
    let directory = settings::directory(config)?;
    let (task, options) = (settings::task(config.task)?, settings::features(config));
    let features = Arc::new(learn(directory, task, &config.data.train.label, &options)?);
    report::tell_columns(&features, events);
    let train = table(directory, Side::Train, &features)?;
    let held_out = config.data.eval.is_some().then(|| table(directory, Side::Eval, &features));
    let held_out = held_out.transpose()?;
    let (rules, settings) = (rules(directory)?, settings::fit(config));

    let saved = Saved::new(config, directory)?;
    let checkpoint = saved.read(events);
    let done = checkpoint.as_ref().map_or(0, |from| from.iteration);
    let journal = Journal::open(&config.output, u64::from(done), Probe::new(false))?;
    events.send(&RankEvent::Phase { phase: Phase::Training, step: i64::from(done) });
    let rate = settings.trees.learning_rate;
    let mut progress = Progress::new((saved, journal), (train.rows(), rate), stop, events);
    let asked = Fit {
        train: &train,
        held_out: held_out.as_ref(),
        rules: rules.as_ref(),
        checkpoint: checkpoint.as_ref(),
    };
    let fitted = fit(&asked, &settings, |iteration| progress.take(&iteration));
    // A model of a part of its trees is none: what else went wrong with it does not count.
    let (journal, last) = progress.end()?;
    Ok((fitted?, last.max(done), journal))
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
