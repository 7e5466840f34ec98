//! The layers of a stage that are to be rounded, and what they read: in the original model, and in
//! the one that is rounded as far as it goes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::Tensor;

use super::gptq::{self, Moments};
use super::scheme::Scheme;
use super::smooth::by_token;
use super::tensors::Rounded;
use crate::model::{Dropout, LinearKind, LinearOp, Model, ModelError};

/// What a watched stage computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Track {
    /// The original: no layer is rounded.
    #[default]
    Exact,
    /// Layers that are settled are rounded, and so is what a layer reads whose scheme rounds that.
    Rounded,
}

/// The watched layers of one stage. Each belongs to a step: those of one step read the same, and
/// what a step reads depends on the steps before it.
#[derive(Debug)]
pub(super) struct Watch {
    board: Arc<Mutex<Board>>,
    layers: BTreeMap<String, Arc<Mutex<Layer>>>,
}

/// What all layers of a stage look at.
#[derive(Debug, Default)]
struct Board {
    track: Track,
    /// On the rounded track, the step whose inputs are counted; later ones are not computed.
    counted: Option<usize>,
    /// A later one was asked.
    is_enough: bool,
    /// Names of layers and what they read, as they are asked.
    asked: Option<Vec<(String, Tensor)>>,
    steps: Vec<Step>,
}

/// What the layers of a step have in common.
#[derive(Debug, Default)]
struct Step {
    /// What they read in the original model, a tensor for each row that was shown.
    exact: VecDeque<Tensor>,
    moments: Option<Moments>,
    /// Some layer has taken down what this row has them read.
    is_counted: bool,
}

#[derive(Debug)]
struct Layer {
    name: String,
    scheme: Scheme,
    weight: Tensor,
    bias: Option<Tensor>,
    step: usize,
    /// Of an expert, whose tokens are its own.
    own: Option<Moments>,
    /// What its rounded weight stands for.
    rounded: Option<Tensor>,
}

#[derive(Debug)]
struct Op {
    board: Arc<Mutex<Board>>,
    layer: Arc<Mutex<Layer>>,
}

impl LinearOp for Op {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let (mut board, mut layer) = (locked(&self.board), locked(&self.layer));
        if let Some(asked) = &mut board.asked {
            asked.push((layer.name.clone(), input.shallow_clone()));
        }
        if board.track == Track::Exact {
            let is_first = !layer.is_expert() && board.takes_down(layer.step);
            if is_first {
                board.steps[layer.step].exact.push_back(input.f_detach_copy()?);
            }
            return Ok(input.f_linear(&layer.weight, layer.bias.as_ref())?);
        }
        if board.counted.is_some_and(|counted| layer.step > counted) {
            board.is_enough = true;
            return Err(ModelError::Pass("no more than the watched layers is computed"));
        }
        let read = layer.read(input)?;
        if board.counted == Some(layer.step) {
            if layer.is_expert() {
                layer.count(&read)?;
            } else if board.takes_down(layer.step) {
                board.steps[layer.step].count(&read)?;
            }
        }
        let weight = layer.rounded.as_ref().unwrap_or(&layer.weight);
        Ok(read.f_linear(weight, layer.bias.as_ref())?)
    }
}

impl Board {
    /// Whether what a step reads is still to be taken down for this row; it is, once.
    fn takes_down(&mut self, step: usize) -> bool {
        let step = self.steps.get_mut(step).filter(|step| !step.is_counted);
        step.is_some_and(|step| {
            step.is_counted = true;
            true
        })
    }
}

impl Step {
    fn count(&mut self, read: &Tensor) -> Result<(), ModelError> {
        let exact = self.exact.pop_front().filter(|exact| exact.size() == read.size());
        counted(&mut self.moments, read, exact.as_ref())
    }
}

impl Layer {
    fn is_expert(&self) -> bool {
        self.name.contains(".experts.")
    }

    /// An input as a server's layer reads it.
    fn read(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        if self.scheme != Scheme::Int8 {
            return Ok(input.shallow_clone());
        }
        let size = input.size();
        let width = size.last().copied().unwrap_or(1);
        Ok(by_token(&input.f_reshape([-1, width])?)?.f_view(&size[..])?)
    }

    /// Where the router decides otherwise than in the original, an expert's tokens are others.
    fn count(&mut self, read: &Tensor) -> Result<(), ModelError> {
        counted(&mut self.own, read, None)
    }

    fn settle(&mut self, shared: Option<&Moments>) -> Result<Option<Rounded>, ModelError> {
        let Some((bits, group)) = self.scheme.whole() else { return Ok(None) };
        let rounded = match self.own.take().as_ref().or(shared.filter(|_| !self.is_expert())) {
            Some(moments) => gptq::round(&self.weight, moments, bits, group)?,
            // An expert that no token came to.
            None => super::tensors::round(&self.weight, bits, group)?,
        };
        self.rounded = Some(rounded.dequantize()?);
        Ok(Some(rounded))
    }
}

fn counted(
    moments: &mut Option<Moments>,
    read: &Tensor,
    exact: Option<&Tensor>,
) -> Result<(), ModelError> {
    let moments = match moments {
        Some(moments) => moments,
        none => none.insert(Moments::new(read.size().last().copied().unwrap_or(1))?),
    };
    moments.add(read, exact)
}

impl Watch {
    /// Puts watched layers in the place of those of a stage that get whole numbers; `None` where it
    /// has none. `ask` has the stage compute once, by which the order of its layers is found.
    pub(super) fn of(
        model: &mut Model,
        stage: usize,
        schemes: &BTreeMap<String, Option<Scheme>>,
        ask: impl Fn(&Model) -> Result<(), ModelError>,
    ) -> Result<Option<Self>, ModelError> {
        let board = Arc::new(Mutex::new(Board::default()));
        let mut layers = BTreeMap::new();
        model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
            let LinearKind::Dense { weight, bias } = &linear.kind else { return };
            let scheme = schemes.get(&linear.name).copied().flatten();
            let Some(scheme) = scheme.filter(|scheme| scheme.whole().is_some()) else { return };
            let layer = Arc::new(Mutex::new(Layer {
                name: linear.name.clone(),
                scheme,
                weight: weight.shallow_clone(),
                bias: bias.as_ref().map(Tensor::shallow_clone),
                step: 0,
                own: None,
                rounded: None,
            }));
            layers.insert(linear.name.clone(), layer.clone());
            linear.kind = LinearKind::Other(Box::new(Op { board: board.clone(), layer }));
        });
        if layers.is_empty() {
            return Ok(None);
        }
        locked(&board).asked = Some(Vec::new());
        ask(model)?;
        let asked = locked(&board).asked.take().unwrap_or_default();
        let (of, steps) = steps(&asked);
        for (name, layer) in &layers {
            locked(layer).step = of.get(&kin(name)).copied().unwrap_or(steps - 1);
        }
        locked(&board).steps = (0..steps).map(|_| Step::default()).collect();
        Ok(Some(Self { board, layers }))
    }

    /// How many steps there are, one or more.
    pub(super) fn steps(&self) -> usize {
        locked(&self.board).steps.len()
    }

    /// What the original stage gives for a row by `compute`; what its layers read is taken down.
    pub(super) fn exactly<T>(
        &self,
        compute: impl FnOnce() -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        self.turn(Track::Exact, None);
        compute()
    }

    /// Has `compute` show the rounded stage a row, in the order of [`Self::exactly`], and the layers of a
    /// step count what they read.
    pub(super) fn count<T>(
        &self,
        step: usize,
        compute: impl FnOnce() -> Result<T, ModelError>,
    ) -> Result<(), ModelError> {
        self.turn(Track::Rounded, Some(step));
        match compute() {
            Err(_) if locked(&self.board).is_enough => Ok(()),
            computed => computed.map(drop),
        }
    }

    /// What the rounded stage gives for a row by `compute`.
    pub(super) fn rounded<T>(
        &self,
        compute: impl FnOnce() -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        self.turn(Track::Rounded, None);
        compute()
    }

    fn turn(&self, track: Track, counted: Option<usize>) {
        let mut board = locked(&self.board);
        (board.track, board.counted, board.is_enough) = (track, counted, false);
        board.steps.iter_mut().for_each(|step| step.is_counted = false);
    }

    /// Rounds the layers of a step by what they have read.
    pub(super) fn settle(&self, step: usize) -> Result<Vec<(String, Rounded)>, ModelError> {
        let shared = std::mem::take(&mut locked(&self.board).steps[step]).moments;
        let mut settled = Vec::new();
        for (name, layer) in &self.layers {
            let mut layer = locked(layer);
            if layer.step == step
                && let Some(rounded) = layer.settle(shared.as_ref())?
            {
                settled.push((name.clone(), rounded));
            }
        }
        Ok(settled)
    }

    /// Puts dense layers of the rounded weights in the place of the watched ones.
    pub(super) fn leave(self, model: &mut Model, stage: usize) {
        model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
            let Some(layer) = self.layers.get(&linear.name) else { return };
            let layer = locked(layer);
            let weight = layer.rounded.as_ref().unwrap_or(&layer.weight).shallow_clone();
            let bias = layer.bias.as_ref().map(Tensor::shallow_clone);
            linear.kind = LinearKind::Dense { weight, bias };
        });
    }
}

/// The step of each kin of layers, and how many steps there are: a layer that reads what the one before
/// it read is of the same step, and so are layers whose names differ by numbers alone.
fn steps(asked: &[(String, Tensor)]) -> (BTreeMap<String, usize>, usize) {
    let mut steps = BTreeMap::new();
    let mut next = 0;
    let mut before: Option<(&Tensor, usize)> = None;
    for (name, input) in asked {
        let same = before.filter(|(read, _)| read.data_ptr() == input.data_ptr());
        let step = *steps.entry(kin(name)).or_insert_with(|| same.map_or(next, |(_, step)| step));
        next = next.max(step + 1);
        before = Some((input, step));
    }
    (steps, next.max(1))
}

/// A layer's name without its numbers.
fn kin(name: &str) -> String {
    let is_word = |part: &&str| part.parse::<usize>().is_err();
    name.split('.').filter(is_word).collect::<Vec<_>>().join(".")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn layers_that_read_the_same_are_of_one_step() {
        let tensors: Vec<Tensor> =
            (0..5).map(|_| Tensor::zeros([2], (Kind::Float, Device::Cpu))).collect();
        let asked: Vec<(String, Tensor)> = [
            ("model.layers.3.self_attn.q_proj", 0),
            ("model.layers.3.self_attn.k_proj", 0),
            ("model.layers.3.self_attn.o_proj", 1),
            ("model.layers.3.mlp.experts.0.gate_proj", 2),
            ("model.layers.3.mlp.experts.0.up_proj", 2),
            ("model.layers.3.mlp.experts.0.down_proj", 3),
            ("model.layers.3.mlp.experts.7.gate_proj", 4),
            ("model.layers.3.mlp.experts.7.up_proj", 4),
        ]
        .map(|(name, read)| (name.to_owned(), tensors[read].shallow_clone()))
        .into();
        let (steps, count) = steps(&asked);
        assert_eq!(count, 4);
        for (name, step) in [
            ("model.layers.self_attn.q_proj", 0),
            ("model.layers.self_attn.k_proj", 0),
            ("model.layers.self_attn.o_proj", 1),
            ("model.layers.mlp.experts.gate_proj", 2),
            ("model.layers.mlp.experts.up_proj", 2),
            ("model.layers.mlp.experts.down_proj", 3),
        ] {
            assert_eq!(steps.get(name), Some(&step), "{name}");
        }
        assert_eq!(super::steps(&[]).1, 1);
    }
}
