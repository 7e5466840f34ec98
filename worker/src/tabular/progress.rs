//! What is told of each tree, and what is kept for a restart.

use std::fs;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hearth_crds::worker_config::TrainConfig;
use hearth_tabular::{Checkpoint, Iteration};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Error;
use crate::event::{EventSink, RankEvent, StepReport};
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
    /// Of a job, and of the prepared rows in `data`, whose name follows from their content.
    pub(super) fn new(config: &TrainConfig, data: &Path) -> Result<Self, Error> {
        let decides = json!([
            config.task,
            config.tabular,
            config.objective,
            config.training.seed,
            config.data.train.label,
            data.file_name().map(|name| name.to_string_lossy()),
        ]);
        let text = decides.to_string();
        let fingerprint = blake3::hash(text.as_bytes()).to_hex().to_string();
        let directory = config.output.join("checkpoints");
        let made = fs::create_dir_all(&directory);
        made.map_err(|source| Error::Output { path: directory.clone(), source })?;
        Ok(Self { path: directory.join("trees.json"), fingerprint })
    }

    /// The checkpoint to go on from; one of other settings or rows is not taken up.
    pub(super) fn read(&self, events: &mut dyn EventSink) -> Option<Checkpoint> {
        let bytes = fs::read(&self.path).ok()?;
        let mut note = |why: String| {
            let message = format!("{}: {why}; training begins anew", self.path.display());
            events.send(&RankEvent::Note { reason: "CheckpointCorrupt".to_owned(), message });
        };
        match serde_json::from_slice::<Written>(&bytes) {
            Err(error) => {
                note(error.to_string());
                None
            }
            Ok(found) if found.fingerprint != self.fingerprint => {
                note("it is of other settings or rows".to_owned());
                None
            }
            Ok(Written { checkpoint, .. }) => {
                let (step, path) = (i64::from(checkpoint.iteration), self.path.clone());
                events.send(&RankEvent::Resumed { step, path });
                Some(checkpoint)
            }
        }
    }

    fn write(&self, checkpoint: Checkpoint) -> Result<u64, Error> {
        let fingerprint = self.fingerprint.clone();
        let failed = |source| Error::Output { path: self.path.clone(), source };
        let bytes = serde_json::to_vec(&Written { fingerprint, checkpoint })
            .map_err(|error| failed(error.into()))?;
        write_atomically(&self.path, |out| out.write_all(&bytes)).map_err(failed)?;
        Ok(bytes.len() as u64)
    }
}

/// Tells of trees as they grow.
pub(super) struct Progress<'a> {
    saved: Saved,
    journal: Journal,
    rows: usize,
    learning_rate: f64,
    stop: &'a AtomicBool,
    events: &'a mut dyn EventSink,
    step: u32,
    samples: u64,
    began: Instant,
    saved_at: Instant,
    failed: Option<Error>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(
        (saved, journal): (Saved, Journal),
        (rows, learning_rate): (usize, f64),
        stop: &'a AtomicBool,
        events: &'a mut dyn EventSink,
    ) -> Self {
        let began = Instant::now();
        Self {
            saved,
            journal,
            rows,
            learning_rate,
            stop,
            events,
            step: 0,
            samples: 0,
            began,
            saved_at: began,
            failed: None,
        }
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
            None => Ok((self.journal, self.step)),
        }
    }

    fn tell(&mut self, iteration: &Iteration<'_>) -> Result<(), Error> {
        let rows = self.rows as u64;
        self.step = iteration.number;
        self.samples += rows;
        let report = StepReport {
            step: i64::from(iteration.number),
            total: i64::from(iteration.of),
            epoch: f64::from(iteration.number) / f64::from(iteration.of),
            loss: iteration.train_loss,
            learning_rate: self.learning_rate,
            // Trees have none.
            grad_norm: f64::NAN,
            samples: rows,
            samples_total: self.samples,
            seconds: self.began.elapsed().as_secs_f64(),
            ..StepReport::default()
        };
        self.began = Instant::now();
        if iteration.number.is_multiple_of(LOG_EVERY) || iteration.of <= 100 * LOG_EVERY {
            self.journal.append(&json!({
                "step": report.step,
                "epoch": report.epoch,
                "loss": report.loss,
                "learningRate": report.learning_rate,
                "samplesPerSecond": rows as f64 / report.seconds,
            }))?;
        }
        self.events.send(&RankEvent::Step(report));
        if !self.events.has_reader() {
            return Err(Error::Orphaned);
        }
        let stops = self.stop.load(Ordering::Relaxed);
        if stops || self.saved_at.elapsed() > SAVE_EVERY {
            self.save(iteration)?;
        }
        if stops { Err(Error::Terminated { step: iteration.number.into() }) } else { Ok(()) }
    }

    fn save(&mut self, iteration: &Iteration<'_>) -> Result<(), Error> {
        let began = Instant::now();
        let bytes = self.saved.write(iteration.checkpoint()?)?;
        self.saved_at = Instant::now();
        let seconds = began.elapsed().as_secs_f64();
        self.events.send(&RankEvent::Checkpoint {
            step: i64::from(iteration.number),
            path: self.saved.path.clone(),
            best: iteration.best.map(|best| i64::from(best.iteration)),
            seconds,
            stall_seconds: seconds,
            bytes,
        });
        Ok(())
    }
}
