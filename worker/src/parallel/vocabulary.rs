//! Embeddings, head and loss over a vocabulary whose tokens are split over ranks, as Megatron-LM's
//! `vocab_parallel_cross_entropy` has it: no rank ever sees the logits of all tokens. What ranks
//! tell each other of a row is its largest logit, and three sums.
//!
//! Shapes: `N` rows, `D` width, `V` tokens of which this rank has `V / w`.

use std::sync::Arc;

use nccl_rs::ReduceOp;
use nccl_rs::autograd;
use nccl_rs::head::block_rows;
use tch::{Kind, Tensor};

use super::groups::{SharedGroup, locked};
use crate::model::parts::output::{Output, TeacherOutput};
use crate::model::{ModelError, Network, Pass};

/// This rank's tokens.
#[derive(Debug)]
pub struct Vocabulary {
    group: SharedGroup,
    start: i64,
    tokens: i64,
    whole: i64,
}

/// What a loss wants of the logits, beside the targets.
struct Wanted<'a> {
    smoothing: f64,
    teacher: Option<&'a TeacherOutput>,
}

/// A block of this rank's logits, as probabilities need them.
struct Block {
    /// `exp(logit - largest)`, `[n, V / w]`.
    mass: Tensor,
    /// Over all tokens: sum of the masses, the target's logit, sum of logits; the largest
    /// subtracted. `[3, n]`.
    sums: Tensor,
}

impl Vocabulary {
    /// The tokens `start .. start + tokens` of `whole`, among the ranks of `group`.
    pub fn new(group: &SharedGroup, start: i64, tokens: i64, whole: i64) -> Self {
        Self { group: Arc::clone(group), start, tokens, whole }
    }

    /// Embeddings of ids i64 `[B, T]`, zeros for tokens of other ranks: `[B, T, D]`.
    pub fn embed(
        &self,
        network: &dyn Network,
        ids: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let (own, others) = self.own(ids)?;
        let known = network.forward(0, &own, pass)?;
        Ok(known.f_masked_fill(&others.f_unsqueeze(-1)?, 0.0)?)
    }

    /// What the pass wants of the last stage, for the whole output of the stage before it.
    pub fn output(
        &self,
        network: &dyn Network,
        hidden: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let read = network.head_input(hidden, pass)?;
        let weight = network
            .head_weight()
            .ok_or(ModelError::Pass("a head with an adapter is not split; remove peft"))?;
        let loss = |smoothing: f64, teacher| {
            self.loss(&read, &weight, pass.output.targets(), &Wanted { smoothing, teacher })
        };
        match &pass.output {
            Output::Logits => {
                let logits = read.f_linear(&weight, None::<&Tensor>)?;
                Ok(locked(&self.group).join_of_ranks(&logits, -1)?)
            }
            Output::Hidden => Ok(read),
            Output::CrossEntropy { label_smoothing, .. } => loss(*label_smoothing, None),
            Output::Distillation { label_smoothing, teacher, .. } => {
                loss(*label_smoothing, Some(teacher))
            }
            Output::LogProbs { targets } => {
                let logits = read.f_linear(&weight, None::<&Tensor>)?.f_to_kind(Kind::Float)?;
                let Block { sums, .. } = self.block(logits, targets, false)?;
                Ok(sums.f_select(0, 1)?.f_sub(&sums.f_select(0, 0)?.f_log()?)?)
            }
            Output::Score { targets } => self.score(&read, &weight, targets),
        }
    }

    /// Where this rank's tokens are among `ids`, counted from its first; 0 where they are not, and
    /// there the mask is set.
    fn own(&self, ids: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
        let own = ids.f_sub_scalar(self.start)?;
        let others = own.f_lt(0)?.f_logical_or(&own.f_ge(self.tokens)?)?;
        Ok((own.f_masked_fill(&others, 0)?, others))
    }

    /// Works in `logits [n, V / w]`, f32. Autograd goes back through it.
    fn block(&self, logits: Tensor, targets: &Tensor, smooth: bool) -> Result<Block, ModelError> {
        let mut largest = logits.detach().f_amax(1, true)?;
        locked(&self.group).all_reduce(&mut largest, ReduceOp::Max)?;
        let mut shifted = logits;
        let _ = shifted.f_sub_(&largest)?;
        let (own, others) = self.own(targets)?;
        let at = shifted.f_gather(1, &own.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
        let at = at.f_masked_fill(&others, 0.0)?;
        let all = if smooth { sum(&shifted)? } else { at.f_zeros_like()? };
        // Autograd keeps it.
        let mass = if shifted.requires_grad() { shifted.f_exp()? } else { shifted.f_exp_()? };
        let sums = Tensor::f_stack(&[sum(&mass)?, at, all], 0)?;
        let sums = locked(&self.group).sum_of_ranks(&sums)?;
        Ok(Block { mass, sums })
    }

    /// A scalar in f32, by blocks of rows. Its gradients are computed at once, and wait for
    /// backward's factor as those of [`nccl_rs::head`] do.
    fn loss(
        &self,
        read: &Tensor,
        weight: &Tensor,
        targets: Option<&Tensor>,
        wanted: &Wanted<'_>,
    ) -> Result<Tensor, ModelError> {
        let targets = targets.ok_or(ModelError::Pass("no loss is wanted"))?;
        let learns = autograd::is_enabled() && (read.requires_grad() || weight.requires_grad());
        let (rows, block) = (read.size()[0], block_rows(self.tokens));
        let (loss, by_read, by_weight) = tch::no_grad(|| -> Result<_, ModelError> {
            let mut loss = Tensor::f_zeros([], (Kind::Float, read.device()))?;
            let (mut by_read, mut by_weight) = (Vec::new(), None::<Tensor>);
            for start in (0..rows).step_by(usize::try_from(block).unwrap_or(1)) {
                let part = |all: &Tensor| all.f_narrow(0, start, block.min(rows - start));
                let hidden = part(read)?;
                let teacher = match wanted.teacher {
                    Some(teacher) => Some(self.teacher_logits(teacher, &part(&teacher.hidden)?)?),
                    None => None,
                };
                let logits = hidden.f_linear(weight, None::<&Tensor>)?.f_to_kind(Kind::Float)?;
                let (value, slope) = self.block_loss(logits, &part(targets)?, wanted, teacher)?;
                let _ = loss.f_add_(&value)?;
                if learns {
                    by_read.push(slope.f_matmul(weight)?.f_to_kind(read.kind())?);
                }
                if learns && weight.requires_grad() {
                    let product = slope.f_transpose(0, 1)?.f_matmul(&hidden)?;
                    by_weight = Some(match by_weight {
                        Some(mut sum) => sum.f_add_(&product)?,
                        None => product.f_to_kind(weight.kind())?,
                    });
                }
            }
            Ok((loss, by_read, by_weight))
        })?;
        if by_read.is_empty() {
            return Ok(loss);
        }
        // A value of 0 that has the gradients.
        let mut with = read.f_mul(&Tensor::f_cat(&by_read, 0)?)?.f_sum(Kind::Float)?;
        if let Some(by_weight) = by_weight {
            with = with.f_add(&weight.f_mul(&by_weight)?.f_sum(Kind::Float)?)?;
        }
        Ok(loss.f_add(&with.f_sub(&with.detach())?)?)
    }

    /// Sum over the rows of a block, and its gradient by the logits. `logits` is this rank's, f32.
    fn block_loss(
        &self,
        logits: Tensor,
        targets: &Tensor,
        wanted: &Wanted<'_>,
        teacher: Option<Tensor>,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let (smoothing, whole) = (wanted.smoothing, self.whole as f64);
        let soft = match (wanted.teacher, teacher) {
            (Some(of), Some(teacher)) => Some((of.alpha, self.divergence(&logits, &teacher, of)?)),
            _ => None,
        };
        let Block { mut mass, sums } = self.block(logits, targets, smoothing > 0.0)?;
        let log_mass = sums.f_select(0, 0)?.f_log()?;
        let hard = log_mass.f_sub(&sums.f_select(0, 1)?.f_mul_scalar(1.0 - smoothing)?)?;
        let hard = hard.f_sub(&sums.f_select(0, 2)?.f_mul_scalar(smoothing / whole)?)?;
        let mut value = hard.f_sum(Kind::Float)?;

        let mut slope = mass.f_div_(&sums.f_select(0, 0)?.f_unsqueeze(1)?)?;
        if smoothing > 0.0 {
            slope = slope.f_sub_scalar_(smoothing / whole)?;
        }
        let (own, others) = self.own(targets)?;
        let less =
            others.f_to_kind(Kind::Float)?.f_sub_scalar(1.0)?.f_mul_scalar(1.0 - smoothing)?;
        slope = slope.f_scatter_add_(1, &own.f_unsqueeze(1)?, &less.f_unsqueeze(1)?)?;
        if let Some((alpha, (apart, by_logits))) = soft {
            value = value.f_mul_scalar(1.0 - alpha)?.f_add(&apart.f_mul_scalar(alpha)?)?;
            slope = slope.f_mul_scalar_(1.0 - alpha)?;
            slope = slope.f_add_(&by_logits.f_mul_scalar(alpha)?)?;
        }
        Ok((value, slope))
    }

    /// `T² KL(teacher ‖ own)` summed over rows, and its gradient by the logits.
    fn divergence(
        &self,
        logits: &Tensor,
        teacher: &Tensor,
        of: &TeacherOutput,
    ) -> Result<(Tensor, Tensor), ModelError> {
        let temperature = of.temperature;
        let (own, own_log) = self.probabilities(&logits.f_div_scalar(temperature)?)?;
        let (wants, wants_log) = self.probabilities(&teacher.f_div_scalar(temperature)?)?;
        let mut apart = wants.f_mul(&wants_log.f_sub(&own_log)?)?.f_sum(Kind::Float)?;
        locked(&self.group).all_reduce(&mut apart, ReduceOp::Sum)?;
        let value = apart.f_mul_scalar(temperature * temperature)?;
        Ok((value, own.f_sub(&wants)?.f_mul_scalar(temperature)?))
    }

    /// Of this rank's tokens, and their logarithms.
    fn probabilities(&self, logits: &Tensor) -> Result<(Tensor, Tensor), ModelError> {
        let mut group = locked(&self.group);
        let mut largest = logits.f_amax(1, true)?;
        group.all_reduce(&mut largest, ReduceOp::Max)?;
        let shifted = logits.f_sub(&largest)?;
        let mut mass = shifted.f_exp()?.f_sum_dim_intlist(&[1i64][..], true, Kind::Float)?;
        group.all_reduce(&mut mass, ReduceOp::Sum)?;
        let log = shifted.f_sub(&mass.f_log()?)?;
        Ok((log.f_exp()?, log))
    }

    fn teacher_logits(
        &self,
        teacher: &TeacherOutput,
        hidden: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let weight = teacher.weight.f_narrow(0, self.start, self.tokens)?;
        Ok(hidden.f_linear(&weight, None::<&Tensor>)?.f_to_kind(Kind::Float)?)
    }

    /// Sum of the cross-entropies and number of right answers, f64 `[2]`, by blocks.
    fn score(
        &self,
        read: &Tensor,
        weight: &Tensor,
        targets: &Tensor,
    ) -> Result<Tensor, ModelError> {
        let (rows, block) = (read.size()[0], block_rows(self.tokens));
        let mut both = Tensor::f_zeros([2], (Kind::Double, read.device()))?;
        for start in (0..rows).step_by(usize::try_from(block).unwrap_or(1)) {
            let part = |all: &Tensor| all.f_narrow(0, start, block.min(rows - start));
            let (hidden, targets) = (part(read)?, part(targets)?);
            let logits = hidden.f_linear(weight, None::<&Tensor>)?.f_to_kind(Kind::Float)?;
            let hits = self.answers(&logits)?.f_eq_tensor(&targets)?.f_sum(Kind::Double)?;
            let Block { sums, .. } = self.block(logits, &targets, false)?;
            let loss = sums.f_select(0, 0)?.f_log()?.f_sub(&sums.f_select(0, 1)?)?;
            let _ = both.f_add_(&Tensor::f_stack(&[loss.f_sum(Kind::Double)?, hits], 0)?)?;
        }
        Ok(both)
    }

    /// Tokens with the largest logits, i64 `[n]`; the first one of equals.
    fn answers(&self, logits: &Tensor) -> Result<Tensor, ModelError> {
        let (values, tokens) = logits.f_max_dim(1, false)?;
        let tokens = tokens.f_add_scalar(self.start)?;
        let mut group = locked(&self.group);
        let (values, tokens) = (group.all_gather(&values)?, group.all_gather(&tokens)?);
        let rank = values.f_argmax(0, true)?;
        Ok(tokens.f_gather(0, &rank, false)?.f_squeeze_dim(0)?)
    }
}

fn sum(rows: &Tensor) -> Result<Tensor, ModelError> {
    Ok(rows.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?)
}
