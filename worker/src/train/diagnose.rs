//! Tells what a run's figures say about its settings.

use hearth_crds::training_job::Sharding;

use super::memory::{self, FittingBatch};
use super::optimizer::Optimizer;
use super::session::{Session, note};
use crate::data::order::Cursor;
use crate::diagnosis::course::{self, Course};
use crate::diagnosis::memory::{Footprint, Settings, tells_of_memory};
use crate::diagnosis::range::{self, RangeTest};
use crate::diagnosis::{Advice, imbalance};
use crate::error::Error;
use crate::event::{Phase, StepReport};
use crate::model::Head;
use crate::objective::{Classification, Objective};

impl Session<'_> {
    /// What a run of these settings is watched by.
    pub(super) fn course(&self) -> Course {
        Course::new(course::Settings {
            learning_rate: self.config.schedule.peak,
            warmup: super::schedule::warmup(&self.config.schedule, self.horizon.total),
            total: self.horizon.total,
            max_grad_norm: self.config.max_grad_norm,
        })
    }

    /// Looks at a step, on rank 0.
    pub(super) fn watch(&mut self, course: &mut Course, report: &StepReport) {
        let found = course.observe(course::Step {
            step: self.state.step,
            loss: report.loss,
            grad_norm: report.grad_norm,
            data_wait: report.data_seconds / report.seconds.max(f64::MIN_POSITIVE),
        });
        self.tell(found);
    }

    /// Looks at the classes, on rank 0.
    pub(super) fn look_at_classes(&mut self) {
        let plain = matches!(
            &self.trainer.objective,
            Objective::Classification(Classification { class_weights: None, .. })
        );
        if plain {
            let mut counts = self.data.train.class_counts();
            counts.resize(self.data.labels.len(), 0);
            let names = self.data.labels.names().iter().cloned();
            let classes: Vec<(String, u64)> = names.zip(counts).collect();
            self.tell(imbalance(&classes));
        }
    }

    fn tell(&mut self, found: Option<Advice>) {
        if let Some(Advice { reason, message }) = found.filter(|_| self.gang.leads()) {
            note(self.events, reason, message);
        }
    }

    /// An error with what memory went into, where that ran out. With `autoFindBatchSize` the
    /// ranks that start next take half the batch.
    pub(super) fn explain(&self, error: Error) -> Error {
        if !tells_of_memory(&error.sentence()) {
            return error;
        }
        let (step, batch) = (self.state.step + 1, self.micro_batch);
        if self.config.auto_find_batch_size && batch > 1 {
            let half = batch.div_ceil(2);
            let fits = FittingBatch {
                settings: self.config.fingerprint.clone(),
                per_device_train_batch_size: half,
            };
            return match fits.write(&self.config.output) {
                Ok(()) => Error::BatchHalved { step, from: batch, to: half },
                Err(error) => error,
            };
        }
        Error::OutOfMemory { step, explanation: self.footprint().explain(&self.memory_settings()) }
    }

    fn footprint(&self) -> Footprint {
        let bytes = |tensors: &mut dyn Iterator<Item = tch::Tensor>| -> u64 {
            tensors.map(|tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64).sum()
        };
        let model = &self.trainer.model;
        let trained = &self.trainer.parameters;
        let vocabulary = match model.head {
            Head::CausalLm => model.config.vocab_size.unsigned_abs(),
            Head::Classifier(_) => 0,
        };
        Footprint {
            limit: self.memory_limit,
            peak: memory::peak(),
            weights: bytes(&mut model.tensors().into_iter().map(|tensor| tensor.tensor)),
            gradients: bytes(&mut trained.iter().map(|one| one.tensor.shallow_clone())),
            optimizer: bytes(
                &mut self.trainer.optimizer.moments().into_iter().map(|(_, tensor)| tensor),
            ),
            logits: (self.micro_batch * self.encoder.max_length() * 4) as u64 * vocabulary,
        }
    }

    fn memory_settings(&self) -> Settings {
        let config = &self.config;
        let passes = config.train_batch.get() * config.accumulation.get();
        Settings {
            batch: self.micro_batch,
            accumulation: passes.div_ceil(self.micro_batch),
            max_length: self.encoder.max_length(),
            gradient_checkpointing: config.gradient_checkpointing,
            adapters: config.peft.is_some(),
            sharded: self.gang.layout().sharding() != Sharding::None,
            several_ranks: self.gang.world_size() > 1,
            auto_find_batch_size: config.auto_find_batch_size,
            cuda: self.trainer.place.device.is_cuda(),
        }
    }

    /// Finds the learning rate at which the loss falls fastest, by steps at growing rates from
    /// the start weights, which are put back. All ranks call it together.
    pub(super) fn test_learning_rates(&mut self) -> Result<(), Error> {
        self.enter(Phase::Training);
        let kept: Vec<(tch::Tensor, tch::Tensor)> = self
            .trainer
            .tensors()
            .into_iter()
            .map(|tensor| Ok((tensor.f_detach_copy()?, tensor)))
            .collect::<Result<_, tch::TchError>>()?;
        let mut test = RangeTest::default();
        let mut cursor = Cursor::default();
        for step in 0..range::STEPS {
            let (_, part) = self.deal(step, cursor);
            cursor = Cursor { epoch: 0, ..self.horizon.after(cursor, self.epoch.len()) };
            let loss = self
                .trainer
                .forward_backward(&self.data.train, &part, &self.gang, &mut || {})
                .map_err(|error| self.explain(error))?;
            let sum = self.gang.sum(&[loss * part.scale])?[0];
            let loss = sum / self.gang.layout().shares() as f64;
            let norm = self.trainer.clip(self.config.max_grad_norm, &mut self.gang)?;
            let rate = range::rate(step);
            if !test.observe(rate, loss) || !norm.is_finite() {
                break;
            }
            self.trainer.update(rate)?;
            self.enter(Phase::Training);
        }
        tch::no_grad(|| {
            kept.into_iter().try_for_each(|(old, mut tensor)| {
                tensor.f_copy_(&old)?;
                Ok::<_, tch::TchError>(())
            })
        })?;
        self.trainer.share_update()?;
        self.trainer.optimizer = Optimizer::new(&self.trainer.parameters, &self.config.optim, 0)?;
        self.trainer.take_waited();
        let peak = self.config.schedule.peak;
        let message = match test.found() {
            Some(found) => format!(
                "the loss falls fastest at a learning rate of {:.1e}, and rises beyond {:.1e}; training.learningRate is {peak:e}",
                found.steepest, found.lowest
            ),
            None => format!(
                "the loss fell at no learning rate from {:e} to {}; look at the data and the start weights (training.learningRate is {peak:e})",
                range::FIRST,
                range::LAST
            ),
        };
        self.tell(Some(Advice { reason: "LearningRateRange", message }));
        Ok(())
    }
}
