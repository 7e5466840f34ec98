//! The training loop of a rank, from its configuration to its exit code.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hearth_crds::training_arguments::OnNonFinite;
use hearth_crds::worker_config::TrainConfig;

use super::finite::{self, Place};
use super::horizon::Horizon;
use super::schedule;
use super::session::{Pulse, Session, note, signed};
use super::step::Share;
use crate::config::Interval;
use crate::data::order::{Cursor, Shape};
use crate::error::Error;
use crate::event::{EventSink, JsonLines, Phase, RankEvent, StepReport};

/// Runs `hearth-worker train`: one rank. Returns the process's exit code.
pub fn run(config: &Path) -> i32 {
    let mut events = JsonLines::new(std::io::stdout().lock());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let asked: TrainConfig = crate::config::read(config)?;
        if asked.task.is_tabular() {
            return crate::tabular::train(asked, &mut events);
        }
        Session::prepare(asked, &mut events)?.train()
    }));
    let ended = ended.unwrap_or_else(|panic| Err(Error::Internal(panic_text(panic.as_ref()))));
    let Err(error) = ended else { return 0 };
    let (reason, message) = (error.reason(), error.sentence());
    let exit_code = error.exit_code() as i32;
    tracing::error!(reason, exit_code, "{message}");
    events.send(&RankEvent::Failed { reason: reason.into(), message, exit_code });
    exit_code
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// What a finished step tells the loop.
struct StepEnd {
    report: StepReport,
    epoch_done: bool,
    /// Some rank was asked to stop; all ranks see the same.
    stop: bool,
}

/// Samples and tokens since the start of this generation.
#[derive(Default)]
struct Totals {
    tokens: u64,
    samples: u64,
}

/// Skipped steps in a row after which training ends.
const MOST_SKIPPED: u32 = 10;

impl Session<'_> {
    /// Makes the steps that are left, then exports.
    pub(super) fn train(mut self) -> Result<(), Error> {
        let (mut totals, mut course) = (Totals::default(), self.course());
        if self.state.step == 0 {
            self.look_at_classes();
            if self.config.range_test {
                self.test_learning_rates()?;
            }
        }
        if self.state.evaluation_due {
            self.evaluate(true)?;
        } else if self.state.step == 0 && self.config.eval_on_start {
            self.evaluate(false)?;
        }
        self.enter(Phase::Training);
        while self.state.step < self.last_step() && !self.state.stopped_early {
            if self.epoch.number() != self.state.cursor.epoch {
                self.epoch = self.draw(self.state.cursor.epoch);
            }
            let end = self.step(&mut totals).map_err(|error| self.explain(error))?;
            self.watch(&mut course, &end.report);
            self.look_after_save()?;
            let last = self.state.step == self.last_step();
            let evaluate = self.evaluates(end.epoch_done, last);
            let save = is_due(self.config.save, self.state.step, end.epoch_done, last);
            if end.stop || evaluate || save {
                self.trainer.share_statistics(&mut self.gang)?;
            }
            if end.stop {
                self.state.evaluation_due = evaluate;
                self.save()?;
                self.settle()?;
                return Err(Error::Terminated { step: self.state.step });
            }
            if evaluate {
                self.evaluate(save)?;
            }
            if save {
                self.save()?;
            }
            if (evaluate || save) && !last {
                self.enter(Phase::Training);
            }
        }
        self.finish()
    }

    /// The step after which training ends.
    fn last_step(&self) -> u64 {
        self.config.stop_at_step.map_or(self.horizon.total, |stop| stop.min(self.horizon.total))
    }

    /// One optimizer step.
    fn step(&mut self, totals: &mut Totals) -> Result<StepEnd, Error> {
        let (started, waited) = (Instant::now(), nccl_rs::waited());
        let (batch, own_part) = self.deal(self.state.step, self.state.cursor);
        let dealt = started.elapsed();

        let mut pulse = Pulse::new(Phase::Training, self.state.step);
        let loss_sum =
            self.trainer.forward_backward(&self.data.train, &own_part, &self.gang, &mut || {
                pulse.beat(self.events);
            })?;
        let asked_to_stop = f64::from(u8::from(self.stop.load(Ordering::Relaxed)));
        let sums = self.gang.start_sum(&[loss_sum * own_part.scale, asked_to_stop])?;
        let rate = schedule::rate(&self.config.schedule, self.state.step, self.horizon.total);
        let grad_norm = self.trainer.clip(self.config.max_grad_norm, &mut self.gang)?;
        let sums = sums.wait()?;
        let loss = sums[0] / self.gang.layout().shares() as f64;
        // Both are the same on all ranks: all update, or none.
        if grad_norm.is_finite() && loss.is_finite() {
            self.trainer.update(rate)?;
            self.state.skipped_in_a_row = 0;
        } else {
            self.skip_or_stop(loss, &own_part)?;
        }

        let tokens: usize = batch.iter().map(|row| self.data.train.length(*row)).sum();
        totals.tokens += tokens as u64;
        totals.samples += batch.len() as u64;
        let blocked = nccl_rs::waited().saturating_sub(waited);
        let on_gpu = self.trainer.place.device.is_cuda();
        let report = StepReport {
            loss,
            learning_rate: rate,
            grad_norm,
            tokens: tokens as u64,
            samples: batch.len() as u64,
            data_seconds: (dealt + self.trainer.take_waited()).as_secs_f64(),
            blocked_seconds: (!on_gpu).then_some(blocked.as_secs_f64()),
            tokens_total: totals.tokens,
            samples_total: totals.samples,
            ..StepReport::default()
        };
        self.advance(report, started, sums[1] > 0.0)
    }

    /// The samples of the step after `cursor`, and this rank's share of them.
    pub(super) fn deal(&self, step: u64, cursor: Cursor) -> (Vec<u32>, Share) {
        let range = self.horizon.next(cursor, self.epoch.len());
        let batch = self.epoch.samples(&range);
        let shape = Shape {
            rank: self.gang.layout().share(),
            world_size: self.gang.layout().shares(),
            per_device: self.micro_batch,
        };
        let passes = self.epoch.passes(&range, |row| self.data.train.length(row), shape);
        let scale = self.scale(&batch, &passes);
        (batch, Share { step, passes, scale })
    }

    /// What this rank's losses are multiplied by, before gradients are averaged over ranks: for
    /// a mean over all that counts in the step, or over what counts on this rank.
    fn scale(&self, batch: &[u32], passes: &[Vec<u32>]) -> f64 {
        let objective = &self.trainer.objective;
        let weight = |rows: &mut dyn Iterator<Item = &u32>| -> f64 {
            rows.map(|row| objective.weight(&self.data.train, *row)).sum()
        };
        let (shares, weight) = if self.config.average_tokens {
            (self.gang.layout().shares() as f64, weight(&mut batch.iter()))
        } else {
            (1.0, weight(&mut passes.iter().flatten()))
        };
        if weight > 0.0 { shares / weight } else { 0.0 }
    }

    /// The step's numbers are not finite: no rank updates.
    fn skip_or_stop(&mut self, loss: f64, share: &Share) -> Result<(), Error> {
        let step = self.state.step + 1;
        let names = self.trainer.model.trainable();
        let place = finite::locate(&names, &self.trainer.parameters, &mut self.gang)?;
        let stage = match place {
            Place::Forward => self.trainer.overflowed(&self.data.train, share, &mut self.gang)?,
            Place::Told(_) => None,
        };
        let place = place.sentence(stage.as_deref());
        self.state.skipped += 1;
        self.state.skipped_in_a_row += 1;
        let in_a_row = self.state.skipped_in_a_row;
        if self.config.on_non_finite == OnNonFinite::Stop || in_a_row >= MOST_SKIPPED {
            return Err(Error::NotFinite { step, loss, place, in_a_row });
        }
        if self.gang.leads() {
            let message = format!("step {step} was left out: its loss is {loss}, and {place}");
            note(self.events, "StepSkipped", message);
        }
        Ok(())
    }

    /// Moves the state past a step and reports it.
    fn advance(
        &mut self,
        report: StepReport,
        started: Instant,
        stop: bool,
    ) -> Result<StepEnd, Error> {
        let state = &mut self.state;
        let items = self.epoch.len();
        state.cursor = self.horizon.after(state.cursor, items);
        state.step += 1;
        if report.loss.is_finite() {
            state.loss_sum += report.loss;
            state.logged_loss_sum += report.loss;
            state.logged_steps += 1;
        }
        let report = StepReport {
            step: signed(state.step),
            total: signed(self.horizon.total),
            epoch: Horizon::epochs(state.cursor, items),
            seconds: started.elapsed().as_secs_f64(),
            ..report
        };
        let last = state.step == self.config.stop_at_step.unwrap_or(self.horizon.total);
        let first = state.step == 1 && self.config.log_first_step;
        if state.step.is_multiple_of(self.config.logging_steps) || first || last {
            let mean = state.logged_loss_sum / state.logged_steps.max(1) as f64;
            (state.logged_loss_sum, state.logged_steps) = (0.0, 0);
            self.log(&serde_json::json!({
                "step": report.step,
                "epoch": report.epoch,
                "loss": mean,
                "learningRate": report.learning_rate,
                "gradNorm": report.grad_norm,
                "tokensPerSecond": report.tokens as f64 / report.seconds,
                "samplesPerSecond": report.samples as f64 / report.seconds,
                "dataWaitRatio": report.data_seconds / report.seconds,
            }))?;
        }
        self.events.send(&RankEvent::Step(report));
        if !self.events.has_reader() {
            return Err(Error::Orphaned);
        }
        Ok(StepEnd { report, epoch_done: self.state.cursor.offset == 0, stop })
    }

    fn evaluates(&self, epoch_done: bool, last: bool) -> bool {
        let passed = match self.config.evaluate {
            Interval::Epoch => Horizon::epochs(self.state.cursor, self.epoch.len()),
            Interval::Never | Interval::Steps(_) => self.state.step as f64,
        };
        passed >= self.config.eval_delay
            && is_due(self.config.evaluate, self.state.step, epoch_done, last)
    }
}

fn is_due(interval: Interval, step: u64, epoch_done: bool, last: bool) -> bool {
    match interval {
        Interval::Never => false,
        Interval::Steps(every) => last || step.is_multiple_of(every),
        Interval::Epoch => last || epoch_done,
    }
}
