//! What happens between steps: evaluation, checkpoints, and the end.

use std::time::Instant;

use hearth_crds::training_arguments::Metric;
use hearth_tabular::TabularError;

use super::evaluate::{self, EvalOptions};
use super::horizon::Horizon;
use super::inputs;
use super::journal::Journal;
use super::session::{Pulse, Session, note, signed};
use super::state::Best;
use super::team::whole;
use crate::checkpoint::saver::{Finished, Request};
use crate::config::ConfigError;
use crate::data::Samples;
use crate::error::Error;
use crate::event::{EvalMetrics, Phase, RankEvent};
use crate::export::{self, Beside, Decision, ModelCard};
use crate::objective::Place;
use crate::peft;
use crate::tabular::report::{THRESHOLD_CHOSEN, threshold_sentence};

impl Session<'_> {
    /// Evaluates on all ranks. Only a step that is also saved can be the best.
    pub(super) fn evaluate(&mut self, saved: bool) -> Result<(), Error> {
        let Some(samples) = self.data.eval.clone() else { return Ok(()) };
        self.enter(Phase::Evaluating);
        let started = Instant::now();
        let options = EvalOptions {
            batch_size: self.config.eval_batch.get(),
            place: self.trainer.place,
            share: self.gang.layout().share(),
            shares: self.gang.layout().shares(),
            in_lockstep: self.gang.layout().in_lockstep(),
        };
        let mut pulse = Pulse::new(Phase::Evaluating, self.state.step);
        let own = evaluate::tally(
            &self.trainer.model,
            &self.trainer.objective,
            &samples,
            &options,
            &mut || {
                pulse.beat(self.events);
            },
        )?;
        // Several ranks may have seen the same samples.
        let counts = f64::from(u8::from(self.gang.layout().reports()));
        let counted: Vec<f64> = own.to_sums().iter().map(|sum| sum * counts).collect();
        let sums = self.gang.sum(&counted)?;
        let labels = self.trainer.model.labels();
        let tally = own
            .with_sums(&sums)
            .ok_or_else(|| Error::Internal("ranks evaluated different classes".into()))?;
        let metrics = tally.metrics(labels, started.elapsed().as_secs_f64());
        if !metrics.loss.is_finite() {
            let place = "that is its evaluation: the weights are past use".to_owned();
            let (step, loss) = (self.state.step, metrics.loss);
            return Err(Error::NotFinite { step, loss, place, in_a_row: 1 });
        }
        self.judge(metrics, saved)
    }

    /// Takes note of an evaluation.
    fn judge(&mut self, metrics: EvalMetrics, saved: bool) -> Result<(), Error> {
        let metric = self.config.metric;
        let best = saved
            && self.state.best.as_ref().is_none_or(|best| beats(metric, &metrics, &best.metrics));
        if best {
            self.state.best = Some(Best { step: self.state.step, metrics: metrics.clone() });
        }
        self.state.last_evaluation = Some(metrics.clone());
        self.state.evaluation_due = false;
        let epoch = Horizon::epochs(self.state.cursor, self.epoch.len());
        self.lose_patience(&metrics);
        self.log(&serde_json::json!({"step": self.state.step, "epoch": epoch, "eval": metrics}))?;
        if self.gang.leads() {
            let step = signed(self.state.step);
            self.events.send(&RankEvent::Evaluation { step, epoch, metrics, best });
        }
        Ok(())
    }

    /// Ends training where `earlyStoppingPatience` says so.
    fn lose_patience(&mut self, metrics: &EvalMetrics) {
        let (Some(rule), Some(value)) =
            (self.config.early_stopping, metrics.value(self.config.metric))
        else {
            return;
        };
        let greater = self.config.metric.greater_is_better();
        if self.state.patience.observe(rule, value, greater) {
            self.state.stopped_early = true;
            if self.gang.leads() {
                let message = format!(
                    "training ends at step {}: {} evaluations in a row brought no better {} than {:.6}",
                    self.state.step,
                    rule.patience,
                    self.config.metric.as_str(),
                    self.state.patience.best.unwrap_or(value),
                );
                note(self.events, "EarlyStopping", message);
            }
        }
    }

    /// Begins to save a checkpoint: training stands still for a copy of the
    /// state, and until the save before this one is over.
    pub(super) fn save(&mut self) -> Result<(), Error> {
        self.enter(Phase::Saving);
        let requested = Instant::now();
        // A checkpoint must not outlive the figures that led to it.
        self.journal.as_ref().map_or(Ok(()), Journal::sync)?;
        self.settle()?;
        let request = Request {
            state: self.state.clone(),
            parts: self.trainer.parts()?,
            keep: self.config.keep_checkpoints,
        };
        self.saver.save(&request, requested)
    }

    /// Tells of a save that ended since. A failed one ends training here.
    pub(super) fn look_after_save(&mut self) -> Result<(), Error> {
        let finished = self.saver.poll()?;
        self.tell_of_save(finished);
        Ok(())
    }

    /// Waits for the save in flight.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let mut pulse = Pulse::new(Phase::Saving, self.state.step);
        let finished = self.saver.wait(&mut || pulse.beat(self.events))?;
        self.tell_of_save(finished);
        Ok(())
    }

    fn tell_of_save(&mut self, finished: Option<Finished>) {
        let Some(finished) = finished.filter(|_| self.gang.leads()) else { return };
        self.events.send(&RankEvent::Checkpoint {
            step: signed(finished.step),
            path: finished.path,
            best: finished.best.map(signed),
            seconds: finished.seconds,
            stall_seconds: finished.stall_seconds,
            bytes: finished.bytes,
        });
        if let Some(reason) = finished.not_removed {
            let message = format!("older checkpoints were not removed: {reason}");
            note(self.events, "CheckpointNotRemoved", message);
        }
    }

    /// Exports the model, on rank 0.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.enter(Phase::Saving);
        self.settle()?;
        let (held, besides) = self.trainer.bytes()?;
        tracing::info!(held, besides, "bytes of parameters, gradients and moments");
        self.trainer.collect()?;
        let (step, total) = (signed(self.state.step), signed(self.horizon.total));
        if !self.gang.leads() {
            self.events.send(&RankEvent::Finished {
                step,
                total,
                metrics: None,
                train_loss: None,
                model: None,
                digest: None,
            });
            return Ok(());
        }
        let (of_step, metrics) = self.choose_weights()?;
        let apart =
            self.config.peft.as_ref().filter(|peft| !peft.merge_on_export).map(inputs::lora);
        if apart.is_none() {
            // Layers that were split over ranks would wait for these, which have ended.
            peft::merge(&mut self.trainer.model)?;
        }
        let decision = self.decide()?;
        let drift = self.drift_reference(decision.as_ref())?;
        let beside = Beside { decision: decision.as_ref(), drift: drift.as_ref() };
        self.enter(Phase::Exporting);
        let model = &self.trainer.model;
        let card = ModelCard {
            format_version: export::card::FORMAT_VERSION,
            task: self.config.task,
            cleaning: self.config.data.cleaning(),
            max_length: self.encoder.max_length(),
            labels: model.labels().names().to_vec(),
            step: Some(of_step),
            metrics: metrics.clone(),
            files: std::collections::BTreeMap::new(),
        };
        let target = self.config.output.join("model");
        let source = &self.config.model;
        let exported = match &apart {
            Some(lora) => export::export_adapters((model, lora), beside, source, &target, card)?,
            None => export::export(model, beside, source, &target, card)?,
        };
        self.events.send(&RankEvent::Finished {
            step,
            total,
            metrics,
            train_loss: Some(
                self.state.loss_sum / (self.state.step - self.state.skipped).max(1) as f64,
            ),
            model: Some(exported.path),
            digest: Some(exported.digest),
        });
        Ok(())
    }

    /// Puts the weights to export in place: the best checkpoint's where that
    /// is asked for. Returns their step and evaluation.
    fn choose_weights(&mut self) -> Result<(u64, Option<EvalMetrics>), Error> {
        let last = (self.state.step, self.state.last_evaluation.clone());
        let best = match self.state.best.clone() {
            Some(best) if self.config.load_best && best.step != self.state.step => best,
            _ => return Ok(last),
        };
        match self.checkpoints.open(best.step) {
            Ok(checkpoint) => {
                let model = &self.trainer.model;
                let (trained, statistics) = (model.trainable(), model.statistics());
                let parts: Vec<_> = whole(&trained).chain(whole(&statistics)).collect();
                checkpoint.restore_parts(&parts)?;
                Ok((best.step, Some(best.metrics)))
            }
            Err(reason) => {
                let message = format!(
                    "the best checkpoint, of step {}, cannot be used ({reason}); the last weights are exported",
                    best.step
                );
                note(self.events, "BestCheckpointLost", message);
                Ok(last)
            }
        }
    }

    /// Chooses the threshold that was asked for, by what the weights to export say of the rows for
    /// evaluation.
    fn decide(&mut self) -> Result<Option<Decision>, Error> {
        let (Some(target), Some(samples)) = (self.config.threshold, self.data.eval.clone()) else {
            return Ok(None);
        };
        self.enter(Phase::Evaluating);
        let rows: Vec<(f64, bool)> = (0..)
            .zip(self.scores(&samples)?)
            .map(|(row, scores)| (f64::from(scores[1]), samples.class(row) == 1))
            .collect();
        let label = self.trainer.model.labels().names()[1].clone();
        let decision = Decision::choose(label, target, &rows, self.config.seed.unsigned_abs())
            .map_err(|error| match error {
                TabularError::Setting { setting: "threshold", detail } => {
                    Error::from(ConfigError::Setting { field: "objective.threshold", detail })
                }
                other => Error::from(other),
            })?;
        let (value, metrics) = (decision.threshold.value, &decision.metrics);
        if let Some(message) = threshold_sentence(&decision.label, value, metrics) {
            note(self.events, THRESHOLD_CHOSEN, message);
        }
        Ok(Some(decision))
    }

    /// What the weights to export give samples, on this rank alone.
    pub(super) fn scores(&mut self, samples: &Samples) -> Result<Vec<Vec<f32>>, Error> {
        let options = EvalOptions {
            batch_size: self.config.eval_batch.get(),
            // As servers compute.
            place: Place { bf16: false, ..self.trainer.place },
            share: 0,
            shares: 1,
            in_lockstep: false,
        };
        let (model, events) = (&self.trainer.model, &mut *self.events);
        let mut pulse = Pulse::new(Phase::Evaluating, self.state.step);
        evaluate::scores(model, samples, &options, &mut || pulse.beat(&mut *events))
    }

    /// Tells what the rank does from now on.
    pub(super) fn enter(&mut self, phase: Phase) {
        self.events.send(&RankEvent::Phase { phase, step: signed(self.state.step) });
    }

    /// Appends to the run's curves, on rank 0.
    pub(super) fn log(&mut self, line: &serde_json::Value) -> Result<(), Error> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(line))
    }
}

/// Whether `new` is better than `old`; an equal one is not.
fn beats(metric: Metric, new: &EvalMetrics, old: &EvalMetrics) -> bool {
    match (new.value(metric), old.value(metric)) {
        (Some(new), Some(old)) if metric.greater_is_better() => new > old,
        (Some(new), Some(old)) => new < old,
        (new, _) => new.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_better_when_lower_and_all_else_when_higher() {
        let low = EvalMetrics {
            loss: 0.1,
            accuracy: Some(0.1),
            f1: Some(0.1),
            f1_macro: Some(0.1),
            ..Default::default()
        };
        let high = EvalMetrics {
            loss: 0.2,
            accuracy: Some(0.2),
            f1: Some(0.2),
            f1_macro: Some(0.2),
            ..Default::default()
        };
        assert!(beats(Metric::Loss, &low, &high) && !beats(Metric::Loss, &high, &low));
        for metric in [Metric::Accuracy, Metric::F1, Metric::F1Macro] {
            assert!(beats(metric, &high, &low) && !beats(metric, &low, &high), "{metric:?}");
            assert!(!beats(metric, &low, &low), "a tie keeps the earlier one");
        }
    }
}
