//! One optimizer step: forward and backward over a rank's share of the global
//! batch, clip, update.

use std::time::{Duration, Instant};

use nccl_rs::{Reducer, ReducerOptions, ops};
use tch::{Device, Kind, Tensor};

use super::evaluate::cross_entropy_sum;
use super::gang::Gang;
use super::optimizer::Optimizer;
use crate::data::order::generator;
use crate::data::{Batch, Samples, collate};
use crate::error::Error;
use crate::model::{Dropout, Model, Parameter};

/// What makes steps.
pub struct Trainer {
    /// The model; its parameters want gradients.
    pub model: Model,
    /// Its parameters in the order of the forward pass.
    pub parameters: Vec<Parameter>,
    /// The optimizer over them.
    pub optimizer: Optimizer,
    reducer: Option<Reducer>,
    /// Spent on making batches since it was last asked for.
    waited: Duration,
    device: Device,
    pad: u32,
    seed: i64,
}

/// A rank's share of one global batch.
#[derive(Debug)]
pub struct Share {
    /// Optimizer steps done before this one.
    pub step: u64,
    /// Samples by forward pass. The last may be empty.
    pub passes: Vec<Vec<u32>>,
    /// Samples of the global batch.
    pub global_samples: u64,
}

impl Trainer {
    /// Makes all ranks start from rank 0's weights and prepares gradient
    /// reduction.
    pub fn new(
        model: Model,
        optimizer: Optimizer,
        gang: &mut Gang,
        (device, pad, seed): (Device, u32, i64),
    ) -> Result<Self, Error> {
        let parameters = model.parameters();
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
                Some(Reducer::new(&named, group, &ReducerOptions::default())?)
            }
        };
        Ok(Self {
            model,
            parameters,
            optimizer,
            reducer,
            waited: Duration::ZERO,
            device,
            pad,
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
        // The reducer averages over ranks; a mean over samples is wanted.
        let scale = gang.world_size() as f64 / share.global_samples as f64;
        let last = share.passes.len().saturating_sub(1);
        let mut loss_sum = Tensor::f_zeros([], (Kind::Float, self.device))?;
        for (pass, rows) in share.passes.iter().enumerate() {
            self.seed_dropout(share.step, pass, gang.rank());
            // A rank without rows still takes part in the reduction, with a
            // gradient of 0.
            let (rows, scale) = match rows.as_slice() {
                [] => (&[0][..], 0.0),
                rows => (rows, scale),
            };
            let started = Instant::now();
            let (batch, targets) = self.batch(samples, rows)?;
            self.waited += started.elapsed();
            let losses = cross_entropy_sum(&self.model.logits(&batch, Dropout::On)?, &targets)?;
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
        let gradients: Vec<Tensor> =
            self.parameters.iter().map(|parameter| parameter.tensor.grad()).collect();
        Ok(match max_norm {
            Some(max_norm) => ops::clip_grad_norm_(&gradients, max_norm)?,
            None => ops::total_norm(&gradients)?,
        })
    }

    /// Tensors of a checkpoint: weights and moments.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let weights = self
            .parameters
            .iter()
            .map(|parameter| (format!("model.{}", parameter.name), parameter.tensor.detach()));
        weights.chain(self.optimizer.moments()).collect()
    }

    /// Time spent waiting for batches since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }

    /// Some samples on the device: token ids, and classes i64 `[B]`.
    fn batch(&self, samples: &Samples, rows: &[u32]) -> Result<(Batch, Tensor), Error> {
        let ids: Vec<&[u32]> = rows.iter().map(|row| samples.ids(*row)).collect();
        let classes: Vec<i64> = rows.iter().map(|row| samples.class(*row)).collect();
        let batch = collate(&ids, self.pad, self.device)?;
        Ok((batch, Tensor::f_from_slice(&classes)?.f_to_device(self.device)?))
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
