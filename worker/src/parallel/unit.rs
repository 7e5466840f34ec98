//! The tensors of one stage whose gradients are summed over the same ranks.
//!
//! What ranks share (Rajbhandari et al. 2020, ZeRO) is cut by rows, as FSDP2 does it: of a tensor
//! of `n` rows, rank `r` of `w` has rows `r c .. (r + 1) c`, `c = ceil(n / w)`, as far as they
//! exist. So a rank's part is a box, which checkpoints know, and an optimizer works on it as on
//! any tensor. On the network, all parts of a rank lie one behind the other.

use hearth_crds::training_job::Sharding;
use nccl_rs::autograd::set_grad;
use nccl_rs::{ReduceOp, Work, storage};
use tch::{Kind, Tensor};

use super::groups::{SharedGroup, locked};
use super::{OverTensor, Piece};
use crate::model::{ModelError, Parameter, Role};

/// The tensors of a stage that the same ranks hold.
#[derive(Debug)]
pub struct Unit {
    mode: Sharding,
    group: Option<SharedGroup>,
    /// Of partial gradients.
    tensor: Option<SharedGroup>,
    place: i64,
    ranks: i64,
    members: Vec<Member>,
    /// Elements of this rank's parts, and of those that are trained, which come first.
    elements: i64,
    trained: i64,
    /// Full sharding: this rank's parts, `[elements]`.
    values: Option<Tensor>,
    weights: Weights,
    /// With shared gradients: those of this rank's parts, `[trained]`.
    gradient: Option<Tensor>,
    reducing: Option<Work<Tensor>>,
    /// Whether experts are among the members, which may have no gradient.
    may_lack: bool,
    peak: usize,
}

/// Where the whole weights are.
#[derive(Debug)]
enum Weights {
    Away,
    Coming(Work<Tensor>),
    Here,
}

/// A tensor of a unit.
#[derive(Debug)]
pub struct Member {
    /// As the model holds it.
    pub piece: Piece,
    /// What the optimizer changes: the tensor, or this rank's rows of it. None of a frozen one,
    /// and where no row is this rank's.
    pub own: Option<Parameter>,
    /// First row of it.
    pub first: i64,
    trained: bool,
    /// Elements of a row.
    row: i64,
    /// Rows of a rank's part.
    chunk: i64,
    /// Where the part starts among this rank's elements.
    start: i64,
    /// Whether any rank has a gradient of it in this step.
    seen: bool,
}

impl Member {
    /// Rows of the part of rank `place`, first and number.
    fn rows_of(&self, place: i64) -> (i64, i64) {
        let rows = self.piece.parameter.tensor.size()[0];
        let first = (place * self.chunk).min(rows);
        (first, self.chunk.min(rows - first))
    }
}

impl Unit {
    /// Of `pieces`, shared among `group`. Values are those in the model now.
    pub fn new(
        pieces: Vec<Piece>,
        mode: Sharding,
        group: Option<SharedGroup>,
        tensor: Option<SharedGroup>,
    ) -> Result<Self, ModelError> {
        let (place, ranks) = group.as_ref().map_or((0, 1), |group| {
            let group = locked(group);
            (signed(group.rank()), signed(group.size()))
        });
        let mode = if ranks == 1 { Sharding::None } else { mode };
        let may_lack = pieces.iter().any(|piece| piece.parameter.name.contains(".experts."));
        let trains = |piece: &Piece| piece.parameter.tensor.requires_grad();
        let (trained, frozen): (Vec<_>, Vec<_>) = pieces.into_iter().partition(trains);
        let mut unit = Self {
            mode,
            group,
            tensor,
            place,
            ranks,
            members: Vec::new(),
            elements: 0,
            trained: 0,
            values: None,
            weights: Weights::Here,
            gradient: None,
            reducing: None,
            may_lack,
            peak: 0,
        };
        for piece in trained {
            unit.add(piece, true);
        }
        unit.trained = unit.elements;
        if mode == Sharding::Full {
            for piece in frozen {
                unit.add(piece, false);
            }
        }
        unit.cut()?;
        Ok(unit)
    }

    fn add(&mut self, piece: Piece, trained: bool) {
        let size = piece.parameter.tensor.size();
        let rows = size.first().copied().unwrap_or(1);
        let row: i64 = size.iter().skip(1).product();
        let chunk = (rows + self.ranks - 1) / self.ranks;
        let start = self.elements;
        self.elements += chunk * row;
        let own = None;
        let seen = false;
        self.members.push(Member { piece, own, first: 0, trained, row, chunk, start, seen });
    }

    /// Makes what the optimizer works on.
    fn cut(&mut self) -> Result<(), ModelError> {
        let (place, mode) = (self.place, self.mode);
        if mode == Sharding::Full && self.elements > 0 {
            self.values = Some(self.gathered_rows()?);
        }
        for member in self.members.iter_mut().filter(|member| member.trained) {
            let whole = &member.piece.parameter;
            let tensor = if mode == Sharding::None {
                whole.tensor.shallow_clone()
            } else {
                let (first, rows) = member.rows_of(place);
                if rows == 0 {
                    continue;
                }
                member.first = first;
                let part = match &self.values {
                    Some(values) => {
                        let mut shape = whole.tensor.size();
                        shape[0] = rows;
                        let flat = values.f_narrow(0, member.start, rows * member.row)?;
                        flat.f_view(shape.as_slice())?
                    }
                    None => whole.tensor.detach().f_narrow(0, first, rows)?,
                };
                part.detach().f_set_requires_grad(true)?
            };
            let (name, role, stage) = (whole.name.clone(), whole.role, whole.stage);
            member.own = Some(Parameter { name, tensor, role, stage });
        }
        Ok(())
    }

    /// This rank's rows of all members, one part behind the other; zeros where there are none.
    fn gathered_rows(&self) -> Result<Tensor, ModelError> {
        let first = &self.members[0].piece.parameter.tensor;
        let flat = Tensor::f_zeros([self.elements], (Kind::Float, first.device()))?;
        for member in &self.members {
            let (first, rows) = member.rows_of(self.place);
            if rows > 0 {
                let own = member.piece.parameter.tensor.detach().f_narrow(0, first, rows)?;
                flat.f_narrow(0, member.start, rows * member.row)?
                    .f_copy_(&own.f_reshape([-1])?)?;
            }
        }
        Ok(flat)
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether this rank's parts are of its own.
    pub fn is_cut(&self) -> bool {
        self.mode != Sharding::None
    }

    /// Begins to gather the weights, where they are away.
    pub fn start_gather(&mut self) -> Result<(), ModelError> {
        if let (Weights::Away, Some(values), Some(group)) =
            (&self.weights, &self.values, &self.group)
        {
            let work = locked(group).all_gather_async(values.shallow_clone())?;
            self.weights = Weights::Coming(work);
        }
        Ok(())
    }

    /// Has the weights here; whether they were away.
    pub fn gather(&mut self) -> Result<bool, ModelError> {
        self.start_gather()?;
        match std::mem::replace(&mut self.weights, Weights::Here) {
            Weights::Coming(work) => self.fill(&work.wait()?).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Puts what all ranks gave, `[ranks, elements]`, in the weights' places.
    fn fill(&self, all: &Tensor) -> Result<(), ModelError> {
        let (mut to, mut from) = (Vec::new(), Vec::new());
        for member in &self.members {
            let tensor = member.piece.parameter.tensor.detach();
            let shape = tensor.size();
            let parts = all.f_narrow(1, member.start, member.chunk * member.row)?;
            let rows = parts.f_reshape([-1, member.row])?.f_narrow(0, 0, shape[0])?;
            storage::restore(&tensor)?;
            // With one row a rank, reshaping copies nothing.
            from.push(rows.f_contiguous()?.f_view(shape.as_slice())?);
            to.push(tensor);
        }
        Ok(storage::refill(&to, &from)?)
    }

    /// Lets go of the weights, where full sharding has them; whether they were here.
    pub fn release(&mut self) -> Result<bool, ModelError> {
        if self.values.is_none() || !matches!(self.weights, Weights::Here) {
            return Ok(false);
        }
        for member in &self.members {
            storage::release(&member.piece.parameter.tensor)?;
        }
        self.weights = Weights::Away;
        Ok(true)
    }

    /// Has the weights here on the first rank of the group, for good. All take part.
    pub fn collect(&mut self) -> Result<(), ModelError> {
        let (Some(values), Some(group)) = (&self.values, &self.group) else { return Ok(()) };
        if let Some(all) = locked(group).gather(values, 0)? {
            self.fill(&all)?;
        }
        self.values = None;
        self.weights = Weights::Here;
        Ok(())
    }

    /// Begins a step: there are no gradients.
    pub fn zero(&mut self) -> Result<(), ModelError> {
        self.gradient = None;
        for member in &mut self.members {
            member.seen = !member.piece.parameter.name.contains(".experts.");
            if !member.trained {
                continue;
            }
            if self.mode == Sharding::None {
                set_grad(&member.piece.parameter.tensor, None)?;
            } else if let Some(own) = &member.own {
                set_grad(&own.tensor, None)?;
            }
        }
        Ok(())
    }

    /// Begins to sum what backward left in the tensors' `.grad` over the ranks, once a step
    /// (`last`), or after each pass where gradients are shared.
    pub fn start_reduce(&mut self, last: bool) -> Result<(), ModelError> {
        let each_pass = matches!(self.mode, Sharding::Gradients | Sharding::Full);
        if self.trained == 0 || !(last || each_pass) {
            return Ok(());
        }
        self.sum_partial()?;
        self.agree_on_seen()?;
        let Some(group) = self.group.clone() else { return Ok(()) };
        self.finish_reduce()?;
        if self.mode == Sharding::None {
            let gradients = self.gradients(|member| member.seen)?;
            if gradients.is_empty() {
                return Ok(());
            }
            let flat: Vec<Tensor> = gradients
                .iter()
                .map(|gradient| gradient.f_reshape([-1]))
                .collect::<Result<_, _>>()?;
            let flat = Tensor::f_cat(&flat, 0)?;
            self.reducing = Some(locked(&group).all_reduce_async(flat, ReduceOp::Sum)?);
            return Ok(());
        }
        let parts = self.by_rank()?;
        self.peak = self.peak.max(4 * parts.numel());
        let summed = locked(&group).reduce_scatter_async(parts, ReduceOp::Sum)?;
        self.reducing = Some(summed);
        for member in self.members.iter().filter(|member| member.trained) {
            set_grad(&member.piece.parameter.tensor, None)?;
        }
        Ok(())
    }

    /// Waits for the sum that is under way.
    pub fn finish_reduce(&mut self) -> Result<(), ModelError> {
        let Some(work) = self.reducing.take() else { return Ok(()) };
        let sum = work.wait()?;
        if self.mode == Sharding::None {
            return tch::no_grad(|| spread_back(&sum, &self.gradients(|member| member.seen)?));
        }
        let sum = sum.f_view([-1])?;
        match &mut self.gradient {
            Some(gradient) => {
                let _ = gradient.f_add_(&sum)?;
            }
            None => self.gradient = Some(sum),
        }
        Ok(())
    }

    /// Ends a step's backward: each part has its gradient in `.grad`.
    pub fn deliver(&mut self) -> Result<(), ModelError> {
        self.finish_reduce()?;
        let Some(gradient) = &self.gradient else { return Ok(()) };
        for member in self.members.iter().filter(|member| member.seen) {
            if let Some(own) = &member.own {
                let shape = own.tensor.size();
                let flat = gradient.f_narrow(0, member.start, shape[0] * member.row)?;
                set_grad(&own.tensor, Some(&flat.f_view(shape.as_slice())?))?;
            }
        }
        Ok(())
    }

    /// Gives all ranks the rows that each has changed, where each holds all weights.
    pub fn share_update(&mut self) -> Result<(), ModelError> {
        if !matches!(self.mode, Sharding::Optimizer | Sharding::Gradients) || self.trained == 0 {
            return Ok(());
        }
        let Some(group) = self.group.clone() else { return Ok(()) };
        let own = self.gathered_rows()?;
        let all = locked(&group).all_gather(&own)?;
        self.fill(&all)
    }

    /// Bytes of weights that full sharding holds besides this rank's parts while they are here.
    pub fn whole_bytes(&self) -> usize {
        match self.values {
            Some(_) => {
                self.members.iter().map(|member| 4 * member.piece.parameter.tensor.numel()).sum()
            }
            None => 0,
        }
    }

    /// Bytes that are held from step to step besides the model's tensors and their `.grad`.
    pub fn held_bytes(&self) -> usize {
        [&self.values, &self.gradient].into_iter().flatten().map(|tensor| 4 * tensor.numel()).sum()
    }

    /// Most bytes of a sum under way.
    pub fn peak_bytes(&self) -> usize {
        self.peak
    }

    /// Gradients of the trained members that `wanted` picks; zeros where there are none yet.
    fn gradients(&self, wanted: impl Fn(&Member) -> bool) -> Result<Vec<Tensor>, ModelError> {
        let trained = self.members.iter().filter(|member| member.trained && wanted(member));
        trained
            .map(|member| {
                let tensor = &member.piece.parameter.tensor;
                let gradient = tensor.grad();
                if gradient.defined() {
                    return Ok(gradient);
                }
                let zeros = Tensor::f_zeros(tensor.size(), (tensor.kind(), tensor.device()))?;
                set_grad(tensor, Some(&zeros))?;
                Ok(zeros)
            })
            .collect()
    }

    /// Gradients of tensors that are whole on each of the ranks that split layers, of which each
    /// has a part of the gradient.
    fn sum_partial(&self) -> Result<(), ModelError> {
        let Some(group) = &self.tensor else { return Ok(()) };
        let gradients = self.gradients(|member| member.piece.over_tensor == OverTensor::Partial)?;
        if gradients.is_empty() {
            return Ok(());
        }
        let flat: Vec<Tensor> =
            gradients.iter().map(|gradient| gradient.f_reshape([-1])).collect::<Result<_, _>>()?;
        let mut flat = Tensor::f_cat(&flat, 0)?;
        locked(group).all_reduce(&mut flat, ReduceOp::Sum)?;
        tch::no_grad(|| spread_back(&flat, &gradients))
    }

    /// Experts that no rank sends a token to in a step have no gradient, as in a run of one rank.
    fn agree_on_seen(&mut self) -> Result<(), ModelError> {
        if !self.may_lack || self.members.iter().all(|member| member.seen) {
            return Ok(());
        }
        let here = |member: &Member| member.seen || member.piece.parameter.tensor.grad().defined();
        let flags: Vec<f32> =
            self.members.iter().map(|member| f32::from(u8::from(here(member)))).collect();
        let flags = match &self.group {
            Some(group) => {
                let mut group = locked(group);
                let mut all = Tensor::f_from_slice(&flags)?.f_to_device(group.device())?;
                group.all_reduce(&mut all, ReduceOp::Max)?;
                Vec::<f32>::try_from(all.f_to_device(tch::Device::Cpu)?)?
            }
            None => flags,
        };
        for (member, flag) in self.members.iter_mut().zip(flags) {
            member.seen = flag > 0.0;
        }
        Ok(())
    }

    /// Gradients laid out by the rank that will have them, `[ranks · trained]`.
    fn by_rank(&self) -> Result<Tensor, ModelError> {
        let first = &self.members[0].piece.parameter.tensor;
        let all = Tensor::f_zeros([self.ranks, self.trained], (Kind::Float, first.device()))?;
        for member in self.members.iter().filter(|member| member.trained) {
            let gradient = member.piece.parameter.tensor.grad();
            if !gradient.defined() {
                continue;
            }
            for place in 0..self.ranks {
                let (first, rows) = member.rows_of(place);
                if rows > 0 {
                    let part = gradient.f_narrow(0, first, rows)?.f_reshape([-1])?;
                    all.f_select(0, place)?
                        .f_narrow(0, member.start, rows * member.row)?
                        .f_copy_(&part)?;
                }
            }
        }
        Ok(all.f_view([-1])?)
    }
}

/// The tensors that are no weights and are never cut: running means, a router's bias.
pub fn is_buffer(piece: &Piece) -> bool {
    !matches!(piece.parameter.role, Role::Decayed | Role::Plain)
}

/// Copies the elements of `flat` into `tensors`, one behind the other.
fn spread_back(flat: &Tensor, tensors: &[Tensor]) -> Result<(), ModelError> {
    let mut start = 0;
    for tensor in tensors {
        let count = signed(tensor.numel());
        let values = flat.f_narrow(0, start, count)?.f_view(tensor.size().as_slice())?;
        tensor.shallow_clone().f_copy_(&values)?;
        start += count;
    }
    Ok(())
}

/// Sizes of tensors in memory fit `i64`.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
