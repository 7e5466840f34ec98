//! One optimizer step: forward and backward over a rank's share of the global
//! batch, clip, update.

use std::time::{Duration, Instant};

use nccl_rs::{Reducer, ReducerOptions, ops};
use tch::{Kind, Tensor};

use super::gang::Gang;
use super::optimizer::Optimizer;
use crate::data::order::generator;
use crate::data::{Fetched, Samples};
use crate::error::Error;
use crate::model::{Dropout, Model, Parameter};
use crate::objective::{Objective, Place};

/// What makes steps.
pub struct Trainer {
    /// The model; its parameters want gradients.
    pub model: Model,
    /// What it learns.
    pub objective: Objective,
    /// Where batches go.
    pub place: Place,
    /// The parameters that are trained, in the order of the forward pass.
    pub parameters: Vec<Parameter>,
    /// What passes change besides: running means. Rank 0's are the run's.
    pub statistics: Vec<Parameter>,
    /// The optimizer over them.
    pub optimizer: Optimizer,
    reducer: Option<Reducer>,
    fetched: Fetched,
    /// Spent on reading samples since it was last asked for.
    waited: Duration,
    seed: i64,
}

/// A rank's share of one global batch.
#[derive(Debug)]
pub struct Share {
    /// Optimizer steps done before this one.
    pub step: u64,
    /// Samples by forward pass. The last may be empty.
    pub passes: Vec<Vec<u32>>,
    /// What the samples of the global batch weigh.
    pub global_weight: f64,
}

impl Trainer {
    /// Makes all ranks start from rank 0's weights and prepares gradient
    /// reduction.
    pub fn new(
        (model, objective): (Model, Objective),
        optimizer: Optimizer,
        gang: &mut Gang,
        (place, seed): (Place, i64),
    ) -> Result<Self, Error> {
        let parameters = model.trainable();
        let reducer = match gang.group() {
            None => None,
            Some(group) => {
                let mut values: Vec<Tensor> =
                    parameters.iter().map(|parameter| parameter.tensor.detach()).collect();
                group.broadcast_all(&mut values, 0)?;
                let named: Vec<(String, Tensor)> = parameters
                    .iter()
                    .map(|parameter| (parameter.name.clone(), parameter.tensor.shallow_clone()))
                    .collect();
                let options = ReducerOptions {
                    // Experts to which no token goes take no part in a step.
                    find_unused_parameters: named
                        .iter()
                        .any(|(name, _)| name.contains(".experts.")),
                    ..ReducerOptions::default()
                };
                Some(Reducer::new(&named, group, &options)?)
            }
        };
        let statistics = model.statistics();
        Ok(Self {
            model,
            objective,
            place,
            parameters,
            statistics,
            optimizer,
            reducer,
            fetched: Fetched::default(),
            waited: Duration::ZERO,
            seed,
        })
    }

    /// Gradients of the mean loss over the global batch, in every parameter's
    /// `.grad` and equal on all ranks. Returns the sum of this rank's losses.
    /// `after_pass` is called after each forward and backward pass.
    pub fn forward_backward(
        &mut self,
        samples: &Samples,
        share: &Share,
        gang: &Gang,
        after_pass: &mut dyn FnMut(),
    ) -> Result<f64, Error> {
        self.zero_gradients()?;
        // The reducer averages over ranks; a mean over all that counts is wanted.
        let scale = gang.world_size() as f64 / share.global_weight;
        let last = share.passes.len().saturating_sub(1);
        let mut loss_sum = Tensor::f_zeros([], (Kind::Float, self.place.device))?;
        for (pass, rows) in share.passes.iter().enumerate() {
            self.seed_dropout(share.step, pass, gang.rank());
            // A rank without rows still takes part in the reduction, with a
            // gradient of 0.
            let (rows, scale) = match rows.as_slice() {
                [] => (&[0][..], 0.0),
                rows => (rows, scale),
            };
            let losses = self.losses(samples, rows)?;
            if scale > 0.0 {
                let _ = loss_sum.f_add_(&losses.detach())?;
            }
            let loss = losses.f_mul_scalar(scale)?;
            match &mut self.reducer {
                None => loss.f_backward()?,
                Some(reducer) if pass == last => reducer.backward(&loss)?,
                Some(reducer) => reducer.backward_no_sync(&loss)?,
            }
            after_pass();
        }
        Ok(f64::try_from(&loss_sum)?)
    }

    /// Clips to `max_norm` and returns the norm before. The norm is that of
    /// the reduced gradient and so the same on all ranks: where it is not
    /// finite, all ranks see it and none updates.
    pub fn clip(&self, max_norm: Option<f64>) -> Result<f64, Error> {
        // An expert that no token went to has none.
        let gradients: Vec<Tensor> = self
            .parameters
            .iter()
            .map(|parameter| parameter.tensor.grad())
            .filter(Tensor::defined)
            .collect();
        Ok(match max_norm {
            Some(max_norm) => ops::clip_grad_norm_(&gradients, max_norm)?,
            None => ops::total_norm(&gradients)?,
        })
    }

    /// Gives all ranks rank 0's running statistics, before they are used or saved. Each rank's
    /// follow from the samples that it saw; as with PyTorch's `DistributedDataParallel`, rank 0's
    /// are the model's.
    pub fn share_statistics(&self, gang: &mut Gang) -> Result<(), Error> {
        if let Some(group) = gang.group()
            && !self.statistics.is_empty()
        {
            let mut values: Vec<Tensor> =
                self.statistics.iter().map(|statistic| statistic.tensor.detach()).collect();
            group.broadcast_all(&mut values, 0)?;
        }
        Ok(())
    }

    /// Tensors of a checkpoint: weights, running statistics and moments.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let weights = self
            .parameters
            .iter()
            .chain(&self.statistics)
            .map(|parameter| (format!("model.{}", parameter.name), parameter.tensor.detach()));
        weights.chain(self.optimizer.moments()).collect()
    }

    /// Time spent waiting for samples since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Sum of the losses of some samples.
    fn losses(&mut self, samples: &Samples, rows: &[u32]) -> Result<Tensor, Error> {
        let began = Instant::now();
        samples.fetch(rows, &mut self.fetched)?;
        self.waited += began.elapsed();
        Ok(self.objective.loss_sum(&self.model, &self.fetched, self.place, Dropout::On)?)
    }

    /// Dropout depends on the position in the run alone, so that a resumed
    /// run needs no saved generator.
    fn seed_dropout(&self, step: u64, pass: usize, rank: usize) {
        use rand_chacha::rand_core::RngCore;
        let purpose = format!("dropout rank {rank} pass {pass}");
        let seed = generator(self.seed, &purpose, step).next_u64();
        tch::manual_seed(i64::from_le_bytes(seed.to_le_bytes()));
    }

    fn zero_gradients(&self) -> Result<(), Error> {
        for parameter in &self.parameters {
            let mut gradient = parameter.tensor.grad();
            if gradient.defined() {
                let _ = gradient.f_zero_()?;
            }
        }
        Ok(())
    }
}
