//! Forward and backward over the stages of a model, one graph a stage.
//!
//! Between two stages the graph is cut: backward of a stage starts from the gradient that the
//! stage after it left at its input. So it is known when a stage's weights are needed and when all
//! of its gradients are made, without a hook, and whatever part of it took part: that is when
//! weights are gathered and released, sums over ranks begin, and activations are made anew
//! (gradient checkpointing, Chen et al. 2016: of a stage only its input is kept).

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nccl_rs::autograd::{self, RandomState};
use nccl_rs::storage;
use tch::{Kind, Tensor};

use super::groups::{Groups, Join};
use super::layout::Layout;
use super::pipeline::Pipes;
use super::tensor::Splits;
use super::unit::Unit;
use super::{build, expert, tensor};
use crate::error::Error;
use crate::model::{Model, ModelError, Network, Pass, Runner, Watch};

/// Runs a model's stages.
#[derive(Debug)]
pub struct Chain {
    pub(super) layout: Layout,
    pub(super) groups: Groups,
    /// This rank's.
    pub(super) stages: Range<usize>,
    /// Names of tensors that other ranks hold, and this one does not.
    pub(super) absent: BTreeSet<String>,
    pub(super) splits: Splits,
    recipe: Recipe,
    /// Stage 0 is needed by the last one, too.
    tied: bool,
    state: Mutex<State>,
}

/// How stages are run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recipe {
    /// Make activations anew in backward instead of keeping them.
    pub recompute: bool,
    /// Kind of matrix products and attention, where it is not that of the weights.
    pub precision: Option<Kind>,
}

/// What changes from pass to pass.
#[derive(Debug)]
pub(super) struct State {
    /// By stage.
    pub(super) units: Vec<Vec<Unit>>,
    pipes: Option<Pipes>,
    /// Forward passes whose backward is to come, oldest first, by the call of the trainer that
    /// made them.
    open: VecDeque<Vec<Run>>,
    gathered_bytes: usize,
    peak_bytes: usize,
    /// Looks at what stages give.
    watch: Option<Arc<Watch>>,
}

/// One forward pass: a record for each stage of this rank.
type Run = Vec<Record>;

/// One stage of one forward pass.
#[derive(Debug)]
struct Record {
    /// A leaf that takes the gradient up, but for the first stage.
    input: Tensor,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    /// The graph.
    Output(Tensor),
    /// What makes the graph anew.
    Pass(Box<Pass>, RandomState),
}

impl Chain {
    /// Splits `model`, of which every rank has read the whole, as `layout` says, and runs it from
    /// now on.
    pub fn new(
        model: &mut Model,
        layout: Layout,
        join: &Join<'_>,
        recipe: Recipe,
    ) -> Result<Arc<Self>, Error> {
        let groups = Groups::join(&layout, join)?;
        let stages = layout.own_stages(model.network().stages());
        let tied = model.network().is_tied();
        let mut splits = Splits::default();
        if let Some(group) = &groups.tensor {
            splits = tensor::split(model, group)?;
        }
        let mut absent = BTreeSet::new();
        if groups.forward.is_some() {
            absent = build::leave_to_others(model, &stages)?;
        }
        if let Some(group) = &groups.expert {
            absent.append(&mut expert::spread(model, group)?);
        }
        let units = build::units(model, &splits, &absent, (&layout, &groups))?;
        let pipes = groups.forward.as_ref().zip(groups.backward.as_ref());
        let pipes = pipes.map(|(forward, backward)| Pipes::new(forward, backward));
        let state = State {
            units,
            pipes,
            open: VecDeque::new(),
            gathered_bytes: 0,
            peak_bytes: 0,
            watch: None,
        };
        let chain = Arc::new(Self {
            layout,
            groups,
            stages,
            absent,
            splits,
            recipe,
            tied,
            state: Mutex::new(state),
        });
        let runner: Arc<dyn Runner> = Arc::<Self>::clone(&chain);
        model.run_by(Some(runner));
        chain.release_all()?;
        Ok(chain)
    }

    /// The grid of ranks.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Has `watch` look at what the stages of this rank give from now on.
    pub fn watch_by(&self, watch: Option<Arc<Watch>>) {
        self.state().watch = watch;
    }

    /// Begins a step: no gradient is left of the one before.
    pub fn zero(&self) -> Result<(), ModelError> {
        let mut state = self.state();
        state.open.clear();
        state.units.iter_mut().flatten().try_for_each(Unit::zero)
    }

    /// Begins a pass: forward calls from here on are one backward.
    pub fn begin_pass(&self) {
        self.state().open.push_back(Vec::new());
    }

    /// Backward of the oldest pass that is open: from `loss`, where this rank has the last stage.
    /// After the `last` of a step, every parameter has its gradient, summed over ranks.
    pub fn backward(
        &self,
        network: &dyn Network,
        loss: Option<&Tensor>,
        last: bool,
    ) -> Result<(), ModelError> {
        let mut state = self.state();
        let Some(mut runs) = state.open.pop_front() else {
            return Err(ModelError::Pass("backward without a forward pass"));
        };
        if let Some(loss) = loss {
            autograd::backward(&[loss], &[None], false)?;
        }
        for stage in self.stages.clone().rev() {
            state.gather(stage)?;
            if stage > self.stages.start {
                state.start_gather(stage - 1)?;
            }
            for run in &mut runs {
                // The stage behind it was taken off before.
                let Some(record) = run.get(stage - self.stages.start) else { continue };
                let behind = run.get(stage + 1 - self.stages.start).map(|next| next.input.grad());
                self.backward_of(network, (stage, record), behind, &mut state)?;
                run.truncate(stage + 1 - self.stages.start);
            }
            state.reduce(stage, last, self.stages.end)?;
            if !(self.tied && stage == 0) {
                state.release(stage)?;
            }
        }
        if self.tied && self.stages.start == 0 {
            state.release(0)?;
        }
        if let (Some(pipes), Some(first)) = (&mut state.pipes, runs.first().and_then(|r| r.first()))
            && !pipes.is_first()
        {
            let gradient = first.input.grad();
            let zeros = || first.input.f_zeros_like();
            pipes.send_backward(&if gradient.defined() { gradient } else { zeros()? })?;
        }
        if last {
            state.units.iter_mut().flatten().try_for_each(Unit::deliver)?;
            state.pipes.as_mut().map_or(Ok(()), Pipes::settle)?;
        }
        Ok(())
    }

    /// Backward of one stage, given the gradient at the input of the one behind it.
    fn backward_of(
        &self,
        network: &dyn Network,
        (index, record): (usize, &Record),
        behind: Option<Tensor>,
        state: &mut State,
    ) -> Result<(), ModelError> {
        if index + 1 == network.stages() {
            // The loss's backward went through it.
            return Ok(());
        }
        let output = match &record.kept {
            Kept::Output(output) => output.shallow_clone(),
            Kept::Pass(pass, random) => {
                random.restore()?;
                self.stage(network, index, &record.input, pass)?
            }
        };
        let gradient = match (behind, &mut state.pipes) {
            (Some(gradient), _) => gradient,
            (None, Some(pipes)) => pipes.receive_backward(&output)?,
            (None, None) => return Err(ModelError::Pass("a stage's output went nowhere")),
        };
        if output.requires_grad() && gradient.defined() {
            autograd::backward(&[&output], &[Some(&gradient)], false)?;
        }
        Ok(())
    }

    /// Ends a step, after the optimizer's.
    pub fn share_update(&self) -> Result<(), ModelError> {
        self.state().units.iter_mut().flatten().try_for_each(Unit::share_update)
    }

    /// Bytes of weights and gradients that this rank holds between steps, and the most that it
    /// held besides in a step for gathered weights and sums.
    pub fn bytes(&self, model: &Model) -> Result<(usize, usize), Error> {
        let state = self.state();
        let held: usize = state.units.iter().flatten().map(Unit::held_bytes).sum();
        let sums = state.units.iter().flatten().map(Unit::peak_bytes).max().unwrap_or(0);
        let mut in_model = 0;
        for tensor in model.tensors() {
            in_model += storage::bytes(&tensor.tensor)?;
            let gradient = tensor.tensor.grad();
            if gradient.defined() {
                in_model += 4 * gradient.numel();
            }
        }
        Ok((held + in_model, state.peak_bytes + sums))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release_all(&self) -> Result<(), ModelError> {
        self.state().units.iter_mut().flatten().try_for_each(|unit| unit.release().map(drop))
    }

    fn stage(
        &self,
        network: &dyn Network,
        stage: usize,
        input: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        // Of a leaf, autocast would keep one cast for all that read it, and their gradients would
        // be added in bfloat16.
        let input = if input.requires_grad() { &input.f_view_as(input)? } else { input };
        let forward = || self.splits.forward(network, stage, input, pass);
        match self.recipe.precision {
            // The casts of a stage's weights go with the stage.
            Some(kind) => autograd::autocast(input.device(), kind, forward)?,
            None => forward(),
        }
    }

    /// A stage with its record.
    fn recorded(
        &self,
        network: &dyn Network,
        stage: usize,
        hidden: &Tensor,
        pass: &Pass,
    ) -> Result<(Tensor, Record), ModelError> {
        // The first stage takes ids or pixels.
        let input = if stage == 0 {
            hidden.shallow_clone()
        } else {
            hidden.detach().f_set_requires_grad(true)?
        };
        // The last stage's backward comes at once.
        if !self.recipe.recompute || stage + 1 == network.stages() {
            let output = self.stage(network, stage, &input, pass)?;
            let kept = Kept::Output(output.shallow_clone());
            return Ok((output, Record { input, kept }));
        }
        let random = RandomState::save(input.device())?;
        let output = tch::no_grad(|| self.stage(network, stage, &input, pass))?;
        Ok((output, Record { input, kept: Kept::Pass(Box::new(pass.again()), random) }))
    }
}

impl Runner for Chain {
    fn forward(
        &self,
        network: &dyn Network,
        input: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let mut state = self.state();
        let recording = autograd::is_enabled() && !state.open.is_empty();
        let mut run = Vec::with_capacity(self.stages.len());
        let mut hidden = match &mut state.pipes {
            Some(pipes) if !pipes.is_first() => pipes.receive_forward()?,
            _ => input.shallow_clone(),
        };
        for stage in self.stages.clone() {
            state.gather(stage)?;
            if self.tied && stage + 1 == network.stages() {
                state.gather(0)?;
            }
            if stage + 1 < self.stages.end {
                state.start_gather(stage + 1)?;
            }
            hidden = if recording {
                let (output, record) = self.recorded(network, stage, &hidden, pass)?;
                run.push(record);
                output
            } else {
                tch::no_grad(|| self.stage(network, stage, &hidden, pass))?
            };
            if let Some(watch) = &state.watch {
                watch.look(stage, &hidden)?;
            }
            // Backward begins with the last.
            let needed = recording && stage + 1 == self.stages.end || self.tied && stage == 0;
            if !needed {
                state.release(stage)?;
            }
        }
        if !recording && self.tied && self.stages.start == 0 {
            state.release(0)?;
        }
        if recording && let Some(open) = state.open.back_mut() {
            open.push(run);
        }
        match &mut state.pipes {
            Some(pipes) if !pipes.is_last() => {
                pipes.send_forward(&hidden)?;
                if !recording {
                    pipes.settle()?;
                }
                Err(ModelError::Elsewhere)
            }
            _ => Ok(hidden),
        }
    }
}

impl State {
    fn start_gather(&mut self, stage: usize) -> Result<(), ModelError> {
        self.units[stage].iter_mut().try_for_each(Unit::start_gather)
    }

    pub(super) fn gather(&mut self, stage: usize) -> Result<(), ModelError> {
        for unit in &mut self.units[stage] {
            if unit.gather()? {
                self.gathered_bytes += unit.whole_bytes();
            }
        }
        self.peak_bytes = self.peak_bytes.max(self.gathered_bytes);
        Ok(())
    }

    fn release(&mut self, stage: usize) -> Result<(), ModelError> {
        for unit in &mut self.units[stage] {
            if unit.release()? {
                self.gathered_bytes -= unit.whole_bytes();
            }
        }
        Ok(())
    }

    /// Begins to sum a stage's gradients, and ends that of the stage behind it, so that few are
    /// under way.
    fn reduce(&mut self, stage: usize, last: bool, end: usize) -> Result<(), ModelError> {
        self.units[stage].iter_mut().try_for_each(|unit| unit.start_reduce(last))?;
        if stage + 1 < end {
            self.units[stage + 1].iter_mut().try_for_each(Unit::finish_reduce)?;
        }
        Ok(())
    }
}
