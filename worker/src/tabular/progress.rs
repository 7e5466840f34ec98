//! What is told of each tree or step, and what is kept for a restart.

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_crds::worker_config::TrainConfig;
use hearth_tabular::{Checkpoint, Iteration};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::neural;
use crate::error::Error;
use crate::event::{EvalMetrics, EventSink, RankEvent, StepReport};
use crate::files::write_atomically;
use crate::train::journal::Journal;

/// Time between two checkpoints.
const SAVE_EVERY: Duration = Duration::from_secs(30);
/// Iterations between two lines of the journal, where there are many.
const LOG_EVERY: u32 = 10;

/// The newest checkpoint, on the output's volume.
pub(super) struct Saved {
    path: PathBuf,
    /// Of what the checkpoint follows from.
    fingerprint: String,
}

/// What its file holds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    fingerprint: String,
    checkpoint: Checkpoint,
}

impl Saved {
    /// Of a job, and of the prepared rows in `data`, whose name follows from their content; in the
    /// file `name`.
    pub(super) fn new(config: &TrainConfig, data: &Path, name: &str) -> Result<Self, Error> {
        let mut decides = vec![
            json!(config.task),
            json!(config.tabular),
            json!(config.objective),
            json!(config.training.seed),
            json!(config.data.train.label),
            json!(data.file_name().map(|name| name.to_string_lossy())),
        ];
        if config.tabular.as_ref().is_some_and(|tabular| tabular.neural.is_some()) {
            decides.push(json!(config.training));
        }
        let text = Value::Array(decides).to_string();
        let fingerprint = blake3::hash(text.as_bytes()).to_hex().to_string();
        let directory = config.output.join("checkpoints");
        let made = fs::create_dir_all(&directory);
        made.map_err(|source| Error::Output { path: directory.clone(), source })?;
        Ok(Self { path: directory.join(name), fingerprint })
    }

    /// Of what the checkpoint follows from.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The trees to go on from; those of other settings or rows are not taken up.
    pub(super) fn trees(&self, events: &mut dyn EventSink) -> Option<Checkpoint> {
        let read = |bytes: &[u8]| match serde_json::from_slice::<Written>(bytes) {
            Err(error) => Err(error.to_string()),
            Ok(found) if found.fingerprint != self.fingerprint => {
                Err("it is of other settings or rows".to_owned())
            }
            Ok(Written { checkpoint, .. }) => Ok((i64::from(checkpoint.iteration), checkpoint)),
        };
        self.read(read, events)
    }

    /// The network to go on from; one of other settings or rows is not taken up.
    pub(super) fn network(&self, events: &mut dyn EventSink) -> Option<neural::Checkpoint> {
        let read = |bytes: &[u8]| {
            let found = neural::Checkpoint::read(bytes, &self.fingerprint)?;
            Ok((found.position().step().cast_signed(), found))
        };
        self.read(read, events)
    }

    /// What `read` makes of the file's bytes, where there is one, with its step.
    fn read<C>(
        &self,
        read: impl FnOnce(&[u8]) -> Result<(i64, C), String>,
        events: &mut dyn EventSink,
    ) -> Option<C> {
        let bytes = fs::read(&self.path).ok()?;
        match read(&bytes) {
            Ok((step, checkpoint)) => {
                events.send(&RankEvent::Resumed { step, path: self.path.clone() });
                Some(checkpoint)
            }
            Err(why) => {
                let message = format!("{}: {why}; training begins anew", self.path.display());
                events.send(&RankEvent::Note { reason: "CheckpointCorrupt".to_owned(), message });
                None
            }
        }
    }

    fn trees_of(&self, checkpoint: Checkpoint) -> Result<Vec<u8>, Error> {
        let fingerprint = self.fingerprint.clone();
        serde_json::to_vec(&Written { fingerprint, checkpoint })
            .map_err(|error| Error::Output { path: self.path.clone(), source: error.into() })
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        write_atomically(&self.path, |out| out.write_all(bytes))
            .map_err(|source| Error::Output { path: self.path.clone(), source })
    }
}

/// What is told of a tree, or of some steps of a network.
#[derive(Clone, Copy)]
pub(super) struct Done {
    /// Number of the last, from 1.
    pub(super) step: i64,
    /// Most of them.
    pub(super) of: i64,
    /// Passes over the rows, or the share of the trees.
    pub(super) epoch: f64,
    /// How many are told of together.
    pub(super) steps: u64,
    /// Training loss.
    pub(super) loss: f64,
    /// Learning rate.
    pub(super) learning_rate: f64,
    /// L2 norm of the gradient; NaN of trees, which have none.
    pub(super) grad_norm: f64,
    /// Rows that they took.
    pub(super) rows: u64,
}

/// Tells of trees as they grow, or of the steps of a network.
pub(super) struct Progress<'a> {
    saved: Saved,
    journal: Journal,
    stop: &'a AtomicBool,
    events: &'a mut dyn EventSink,
    samples: u64,
    began: Instant,
    saved_at: Instant,
}

impl<'a> Progress<'a> {
    pub(super) fn new(
        (saved, journal): (Saved, Journal),
        stop: &'a AtomicBool,
        events: &'a mut dyn EventSink,
    ) -> Self {
        let began = Instant::now();
        Self { saved, journal, stop, events, samples: 0, began, saved_at: began }
    }

    /// The journal, once nothing more is told.
    pub(super) fn end(self) -> Journal {
        self.journal
    }

    /// Tells, and writes a line of the journal where `logs` says so.
    pub(super) fn tell(&mut self, done: &Done, logs: bool) -> Result<(), Error> {
        self.samples += done.rows;
        let steps = done.steps.max(1);
        let seconds = self.began.elapsed().as_secs_f64() / steps as f64;
        self.began = Instant::now();
        let report = StepReport {
            step: done.step,
            total: done.of,
            epoch: done.epoch,
            loss: done.loss,
            learning_rate: done.learning_rate,
            grad_norm: done.grad_norm,
            samples: done.rows / steps,
            samples_total: self.samples,
            seconds,
            ..StepReport::default()
        };
        if logs {
            self.journal.append(&json!({
                "step": report.step,
                "epoch": report.epoch,
                "loss": report.loss,
                "learningRate": report.learning_rate,
                "samplesPerSecond": report.samples as f64 / report.seconds,
            }))?;
        }
        self.events.send(&RankEvent::Step(report));
        if self.events.has_reader() { Ok(()) } else { Err(Error::Orphaned) }
    }

    /// Writes down how good a network is on held-out rows at the end of an epoch.
    pub(super) fn evaluated(
        &mut self,
        (step, epoch): (i64, f64),
        metrics: &EvalMetrics,
    ) -> Result<(), Error> {
        self.journal.append(&json!({"step": step, "epoch": epoch, "eval": metrics}))
    }

    /// Keeps a checkpoint where it is time for one, and ends training where that is asked for.
    pub(super) fn keep(
        &mut self,
        step: i64,
        best: Option<i64>,
        checkpoint: impl FnOnce(&Saved) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        let stops = self.stop.load(Ordering::Relaxed);
        if !stops && self.saved_at.elapsed() <= SAVE_EVERY {
            return Ok(());
        }
        let began = Instant::now();
        let bytes = checkpoint(&self.saved)?;
        self.saved.write(&bytes)?;
        self.saved_at = Instant::now();
        let seconds = began.elapsed().as_secs_f64();
        self.events.send(&RankEvent::Checkpoint {
            step,
            path: self.saved.path.clone(),
            best,
            seconds,
            stall_seconds: seconds,
            bytes: bytes.len() as u64,
        });
        if stops { Err(Error::Terminated { step: step.cast_unsigned() }) } else { Ok(()) }
    }
}

/// Tells of trees as they grow.
pub(super) struct TreeProgress<'a> {
    progress: Progress<'a>,
    rows: u64,
    learning_rate: f64,
    step: u32,
    failed: Option<Error>,
}

impl<'a> TreeProgress<'a> {
    pub(super) fn new(progress: Progress<'a>, rows: usize, learning_rate: f64) -> Self {
        Self { progress, rows: rows as u64, learning_rate, step: 0, failed: None }
    }

    /// Takes an iteration; breaks where training is to end.
    pub(super) fn take(&mut self, iteration: &Iteration<'_>) -> ControlFlow<()> {
        match self.tell(iteration) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// The journal and the iterations done, or why training ended before its time.
    pub(super) fn end(self) -> Result<(Journal, u32), Error> {
        match self.failed {
            Some(error) => Err(error),
            None => Ok((self.progress.end(), self.step)),
        }
    }

    fn tell(&mut self, iteration: &Iteration<'_>) -> Result<(), Error> {
        self.step = iteration.number;
        let done = Done {
            step: i64::from(iteration.number),
            of: i64::from(iteration.of),
            epoch: f64::from(iteration.number) / f64::from(iteration.of),
            steps: 1,
            loss: iteration.train_loss,
            learning_rate: self.learning_rate,
            grad_norm: f64::NAN,
            rows: self.rows,
        };
        let logs = iteration.number.is_multiple_of(LOG_EVERY) || iteration.of <= 100 * LOG_EVERY;
        self.progress.tell(&done, logs)?;
        let best = iteration.best.map(|best| i64::from(best.iteration));
        self.progress.keep(done.step, best, |saved| saved.trees_of(iteration.checkpoint()?))
    }
}
