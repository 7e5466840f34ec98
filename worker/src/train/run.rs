//! The training loop of a rank, from its configuration to its exit code.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::schedule;
use super::session::{Pulse, Session, signed};
use super::step::Share;
use crate::config::Interval;
use crate::data::order::{Shape, micro_batches, permutation};
use crate::error::Error;
use crate::event::{EventSink, JsonLines, Phase, RankEvent, StepReport};

/// Runs `hearth-worker train`: one rank. Returns the process's exit code.
pub fn run(config: &Path) -> i32 {
    let mut events = JsonLines::new(std::io::stdout().lock());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Session::prepare(config, &mut events)?.train()
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

impl Session<'_> {
    /// Makes the steps that are left, then exports.
    pub(super) fn train(mut self) -> Result<(), Error> {
        let mut totals = Totals::default();
        let mut order = (self.state.cursor.epoch, self.epoch_order());
        if self.state.evaluation_due {
            self.evaluate(true)?;
        }
        self.enter(Phase::Training);
        while self.state.step < self.horizon.total {
            if order.0 != self.state.cursor.epoch {
                order = (self.state.cursor.epoch, self.epoch_order());
            }
            let end = self.step(&order.1, &mut totals)?;
            self.look_after_save()?;
            let last = self.state.step == self.horizon.total;
            let evaluate = self.is_due(self.config.evaluate, end.epoch_done, last);
            let save = self.is_due(self.config.save, end.epoch_done, last);
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

    /// One optimizer step.
    fn step(&mut self, order: &[u32], totals: &mut Totals) -> Result<StepEnd, Error> {
        let started = Instant::now();
        let samples = &self.data.train;
        let range = self.horizon.next(self.state.cursor);
        let batch = &order[to_index(range.start)..to_index(range.end)];
        let shape = Shape {
            rank: self.gang.rank(),
            world_size: self.gang.world_size(),
            per_device: self.config.train_batch.get(),
        };
        let own_part = Share {
            step: self.state.step,
            passes: micro_batches(batch, |row| samples.length(row), shape),
            global_weight: batch
                .iter()
                .map(|row| self.trainer.objective.weight(samples, *row))
                .sum(),
        };
        let dealt = started.elapsed();

        let mut pulse = Pulse::new(Phase::Training, self.state.step);
        let loss_sum =
            self.trainer.forward_backward(samples, &own_part, &self.gang, &mut || {
                pulse.beat(self.events);
            })?;
        let asked_to_stop = f64::from(u8::from(self.stop.load(Ordering::Relaxed)));
        let sums = self.gang.start_sum(&[loss_sum, asked_to_stop])?;
        let rate = schedule::rate(&self.config.schedule, self.state.step, self.horizon.total);
        let grad_norm = self.trainer.clip(self.config.max_grad_norm)?;
        if grad_norm.is_finite() {
            self.trainer.optimizer.step(rate)?;
        }
        let sums = sums.wait()?;
        let loss = sums[0] / own_part.global_weight;
        if !grad_norm.is_finite() || !loss.is_finite() {
            return Err(Error::NotFinite { step: self.state.step + 1, loss });
        }

        let tokens: usize = batch.iter().map(|row| samples.length(*row)).sum();
        totals.tokens += tokens as u64;
        totals.samples += batch.len() as u64;
        let report = StepReport {
            loss,
            learning_rate: rate,
            grad_norm,
            tokens: tokens as u64,
            samples: batch.len() as u64,
            data_seconds: (dealt + self.trainer.take_waited()).as_secs_f64(),
            tokens_total: totals.tokens,
            samples_total: totals.samples,
            ..StepReport::default()
        };
        self.advance(report, started, sums[1] > 0.0)
    }

    /// Moves the state past a step and reports it.
    fn advance(
        &mut self,
        report: StepReport,
        started: Instant,
        stop: bool,
    ) -> Result<StepEnd, Error> {
        let state = &mut self.state;
        state.cursor = self.horizon.after(state.cursor);
        state.step += 1;
        state.loss_sum += report.loss;
        state.logged_loss_sum += report.loss;
        state.logged_steps += 1;
        let report = StepReport {
            step: signed(state.step),
            total: signed(self.horizon.total),
            epoch: self.horizon.epochs(state.cursor),
            seconds: started.elapsed().as_secs_f64(),
            ..report
        };
        let last = state.step == self.horizon.total;
        if state.step.is_multiple_of(self.config.logging_steps) || last {
            let mean = state.logged_loss_sum / state.logged_steps as f64;
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
        Ok(StepEnd { epoch_done: self.state.cursor.offset == 0, stop })
    }

    /// Rows of the present epoch in their order.
    fn epoch_order(&self) -> Vec<u32> {
        permutation(self.config.seed, self.state.cursor.epoch, self.data.train.len())
    }

    fn is_due(&self, interval: Interval, epoch_done: bool, last: bool) -> bool {
        match interval {
            Interval::Never => false,
            Interval::Steps(every) => last || self.state.step.is_multiple_of(every),
            Interval::Epoch => last || epoch_done,
        }
    }
}

/// Offsets within an epoch are row counts, which are `u32`.
fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
