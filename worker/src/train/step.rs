//! One optimizer step: forward and backward over a rank's share of the global
//! batch, clip, update.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nccl_rs::autograd::set_grad;
use nccl_rs::ops;
use tch::{Kind, Tensor};

use super::gang::Gang;
use super::optimizer::Optimizer;
use super::team::{Team, whole};
use crate::checkpoint::part::Part;
use crate::data::order::generator;
use crate::data::{Fetched, Samples};
use crate::error::Error;
use crate::model::{Dropout, Model, ModelError, Parameter, Watch};
use crate::objective::{Objective, Place};
use crate::parallel::Chain;
use crate::parallel::layout::PIPELINE;
use crate::parallel::pipeline::{Action, one_forward_one_backward};
use crate::prune::Zeros;

/// What makes steps.
pub struct Trainer {
    /// The model; its parameters want gradients.
    pub model: Model,
    /// What it learns.
    pub objective: Objective,
    /// Where batches go.
    pub place: Place,
    /// What the optimizer changes, in the order of the forward pass: parameters, or this rank's
    /// parts of them.
    pub parameters: Vec<Parameter>,
    /// What passes change besides: running means. Rank 0's are the run's.
    pub statistics: Vec<Parameter>,
    /// The optimizer over them.
    pub optimizer: Optimizer,
    /// Weights of which some are 0 for good, and where.
    zeros: Vec<(Tensor, Tensor)>,
    team: Team,
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
    /// Losses are multiplied by this, and gradients then averaged over ranks.
    pub scale: f64,
}

impl Trainer {
    /// Makes all ranks start from the same weights and prepares gradient
    /// reduction.
    pub fn new(
        (model, objective): (Model, Objective),
        (mut team, parameters, optimizer): (Team, Vec<Parameter>, Optimizer),
        gang: &mut Gang,
        (place, seed): (Place, i64),
    ) -> Result<Self, Error> {
        team.begin(&parameters, gang)?;
        let statistics = model.statistics();
        Ok(Self {
            model,
            objective,
            place,
            parameters,
            statistics,
            optimizer,
            zeros: Vec::new(),
            team,
            fetched: Fetched::default(),
            waited: Duration::ZERO,
            seed,
        })
    }

    /// Keeps these weights at 0 from now on: they get no gradient, so no optimizer moves them.
    pub fn keep_zero(&mut self, zeros: &Zeros) -> Result<(), Error> {
        for (layer, gone) in zeros {
            let name = format!("{layer}.weight");
            let found = self.parameters.iter().find(|parameter| parameter.name == name);
            let Some(weight) = found.filter(|found| found.tensor.size() == gone.size()) else {
                return Err(Error::Internal(format!("{name} is not whole on this rank")));
            };
            self.zeros.push((weight.tensor.shallow_clone(), gone.shallow_clone()));
        }
        Ok(())
    }

    /// Gradients of the mean loss over the global batch, in every parameter's
    /// `.grad` and equal on all ranks that hold it. Returns the sum of this
    /// rank's losses; 0 where another rank counts them.
    /// `after_pass` is called after each forward and backward pass.
    pub fn forward_backward(
        &mut self,
        samples: &Samples,
        share: &Share,
        gang: &Gang,
        after_pass: &mut dyn FnMut(),
    ) -> Result<f64, Error> {
        let loss_sum = match self.team.chain.clone() {
            Some(chain) => self.by_stages(&chain, (samples, share), after_pass)?,
            None => self.by_copies((samples, share), gang, after_pass)?,
        };
        for (weight, gone) in &self.zeros {
            let mut gradient = weight.grad();
            if gradient.defined() {
                let _ = gradient.f_masked_fill_(gone, 0.0)?;
            }
        }
        Ok(loss_sum)
    }

    /// [`Self::forward_backward`] of a whole model.
    fn by_copies(
        &mut self,
        (samples, share): (&Samples, &Share),
        gang: &Gang,
        after_pass: &mut dyn FnMut(),
    ) -> Result<f64, Error> {
        self.clear_gradients(share.passes.len())?;
        let last = share.passes.len().saturating_sub(1);
        let mut loss_sum = Tensor::f_zeros([], (Kind::Float, self.place.device))?;
        for (pass, rows) in share.passes.iter().enumerate() {
            self.seed_dropout(share.step, pass, gang.rank());
            let (rows, scale) = rows_or_one(rows, share.scale);
            let losses = self.losses(samples, rows)?;
            if scale > 0.0 {
                let _ = loss_sum.f_add_(&losses.detach())?;
            }
            let loss = losses.f_mul_scalar(scale)?;
            match &mut self.team.reducer {
                None => loss.f_backward()?,
                Some(reducer) if pass == last => reducer.backward(&loss)?,
                Some(reducer) => reducer.backward_no_sync(&loss)?,
            }
            after_pass();
        }
        Ok(f64::try_from(&loss_sum)?)
    }

    /// [`Self::forward_backward`] of a chain, which sums gradients itself.
    fn by_stages(
        &mut self,
        chain: &Arc<Chain>,
        (samples, share): (&Samples, &Share),
        after_pass: &mut dyn FnMut(),
    ) -> Result<f64, Error> {
        chain.zero()?;
        let layout = chain.layout();
        let (place, ranks) = layout.along(PIPELINE);
        // The chain sums gradients over ranks.
        let sum_scale = share.scale / layout.shares() as f64;
        let passes = share.passes.len();
        let mut loss_sum = Tensor::f_zeros([], (Kind::Float, self.place.device))?;
        let mut open: VecDeque<Option<Tensor>> = VecDeque::new();
        for action in one_forward_one_backward(place, ranks, passes) {
            match action {
                Action::Forward(pass) => {
                    self.seed_dropout(share.step, pass, layout.share());
                    let (rows, scale) = rows_or_one(&share.passes[pass], sum_scale);
                    chain.begin_pass();
                    let loss = match self.losses(samples, rows) {
                        Ok(losses) => {
                            if scale > 0.0 {
                                let _ = loss_sum.f_add_(&losses.detach())?;
                            }
                            Some(losses.f_mul_scalar(scale)?)
                        }
                        Err(Error::Model(ModelError::Elsewhere)) => None,
                        Err(error) => return Err(error),
                    };
                    open.push_back(loss);
                }
                Action::Backward(pass) => {
                    let loss = open.pop_front().flatten();
                    chain.backward(self.model.network(), loss.as_ref(), pass + 1 == passes)?;
                    after_pass();
                }
            }
        }
        if layout.reports() { Ok(f64::try_from(&loss_sum)?) } else { Ok(0.0) }
    }

    /// Clips to `max_norm` and returns the norm before. The norm is that of
    /// the reduced gradient and so the same on all ranks: where it is not
    /// finite, all ranks see it and none updates.
    pub fn clip(&self, max_norm: Option<f64>, gang: &mut Gang) -> Result<f64, Error> {
        // An expert that no token went to has none.
        let gradients: Vec<Tensor> = self
            .parameters
            .iter()
            .map(|parameter| parameter.tensor.grad())
            .filter(Tensor::defined)
            .collect();
        if let Some(squares) = self.team.squares()? {
            let norm = gang.sum(&[squares])?[0].sqrt();
            if let Some(max_norm) = max_norm {
                ops::clip_by_norm_(&gradients, norm, max_norm)?;
            }
            return Ok(norm);
        }
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

    /// One step of the optimizer at learning rate `rate`.
    pub fn update(&mut self, rate: f64) -> Result<(), Error> {
        self.optimizer.step(rate)?;
        self.share_update()
    }

    /// The name of the first stage whose output is not finite in a step's passes, which are made
    /// once more, without gradients. All ranks call it together.
    pub fn overflowed(
        &mut self,
        samples: &Samples,
        share: &Share,
        gang: &mut Gang,
    ) -> Result<Option<String>, Error> {
        let watch = Arc::new(Watch::default());
        let chain = self.team.chain.clone();
        match &chain {
            Some(chain) => chain.watch_by(Some(Arc::clone(&watch))),
            None => self.model.run_by(Some(Arc::<Watch>::clone(&watch))),
        }
        let looked = share.passes.iter().enumerate().try_for_each(|(pass, rows)| {
            self.seed_dropout(share.step, pass, gang.layout().share());
            let (rows, _) = rows_or_one(rows, share.scale);
            match tch::no_grad(|| self.losses(samples, rows)) {
                Ok(_) | Err(Error::Model(ModelError::Elsewhere)) => Ok(()),
                Err(error) => Err(error),
            }
        });
        match &chain {
            Some(chain) => chain.watch_by(None),
            None => self.model.run_by(None),
        }
        looked?;
        let mut seen = vec![0.0; self.model.network().stages()];
        if let Some(stage) = watch.first() {
            seen[stage] = 1.0;
        }
        let first = gang.sum(&seen)?.iter().position(|ranks| *ranks > 0.0);
        Ok(first.map(|stage| self.model.stage_name(stage)))
    }

    /// What passes and this rank's optimizer change.
    pub fn tensors(&self) -> Vec<Tensor> {
        let own = self.parameters.iter().chain(&self.statistics);
        let moments = self.optimizer.moments().into_iter().map(|(_, tensor)| tensor);
        own.map(|parameter| parameter.tensor.detach()).chain(moments).collect()
    }

    /// Has all ranks see what each has changed of its part.
    pub fn share_update(&self) -> Result<(), Error> {
        self.team.chain.as_ref().map_or(Ok(()), |chain| Ok(chain.share_update()?))
    }

    /// What a checkpoint holds of this rank: weights, running statistics and moments.
    pub fn parts(&self) -> Result<Vec<Part>, Error> {
        let mut parts = self.team.parts(&self.parameters, &self.optimizer)?;
        parts.extend(whole(&self.statistics));
        Ok(parts)
    }

    /// Has the whole model on rank 0, for export. All ranks take part, and train no more.
    pub fn collect(&mut self) -> Result<(), Error> {
        let Some(chain) = self.team.chain.take() else { return Ok(()) };
        chain.collect(&mut self.model)
    }

    /// Bytes of parameters, gradients and moments that this rank holds between steps, and the
    /// most that gathered weights and sums took besides in a step.
    pub fn bytes(&self) -> Result<(usize, usize), Error> {
        let moments: usize =
            self.optimizer.moments().iter().map(|(_, tensor)| 4 * tensor.numel()).sum();
        if let Some(chain) = &self.team.chain {
            let (held, besides) = chain.bytes(&self.model)?;
            return Ok((held + moments, besides));
        }
        let tensors = self.model.tensors();
        let weights: usize = tensors.iter().map(|tensor| 4 * tensor.tensor.numel()).sum();
        let gradients: usize =
            self.parameters.iter().map(|parameter| 4 * parameter.tensor.numel()).sum();
        Ok((weights + gradients + moments, 0))
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
        let place = self.place;
        Ok(place
            .compute(|| self.objective.loss_sum(&self.model, &self.fetched, place, Dropout::On))?)
    }

    /// Dropout depends on the position in the run alone, so that a resumed
    /// run needs no saved generator.
    fn seed_dropout(&self, step: u64, pass: usize, rank: usize) {
        use rand_chacha::rand_core::RngCore;
        let purpose = format!("dropout rank {rank} pass {pass}");
        let seed = generator(self.seed, &purpose, step).next_u64();
        tch::manual_seed(i64::from_le_bytes(seed.to_le_bytes()));
    }

    /// Before a step of `passes`. Gradients are let go, so that the first pass makes them and
    /// experts without a token have none. Those of several passes stay where the reducer has them,
    /// which would copy them otherwise.
    fn clear_gradients(&self, passes: usize) -> Result<(), Error> {
        if self.team.reducer.is_some() && passes > 1 && !self.team.may_lack_gradients {
            let gradients: Vec<Tensor> =
                self.parameters.iter().map(|parameter| parameter.tensor.grad()).collect();
            return Ok(ops::zero_(&gradients)?);
        }
        for parameter in &self.parameters {
            set_grad(&parameter.tensor, None)?;
        }
        Ok(())
    }
}

/// A rank without rows still takes part in collectives, with a gradient of 0.
fn rows_or_one(rows: &[u32], scale: f64) -> (&[u32], f64) {
    if rows.is_empty() { (&[0], 0.0) } else { (rows, scale) }
}
