//! What a decoder's last stage gives: logits, or what a loss makes of them.
//!
//! Losses are computed where the head's weight is, by blocks of rows ([`nccl_rs::head`]), so that
//! the logits of a whole batch are nowhere in memory. A head with an adapter has no weight by
//! itself; then they are computed from its logits.
//!
//! Shapes: `N` selected positions, `D` width, `V` tokens of the vocabulary.

use nccl_rs::head::{Head, Teacher, block_rows};
use tch::{Kind, Reduction, Tensor};

use crate::model::ModelError;

/// What is wanted of the positions that a pass selects.
#[derive(Debug, Default)]
pub enum Output {
    /// `[N, V]`, or `[N, C]` of a classifier.
    #[default]
    Logits,
    /// What the head reads, `[N, D]`.
    Hidden,
    /// Sum of the cross-entropies, a scalar in f32.
    CrossEntropy {
        /// i64 `[N]`.
        targets: Tensor,
        /// Share of each target that is spread over the vocabulary.
        label_smoothing: f64,
    },
    /// Logarithms of the targets' probabilities, f32 `[N]`.
    LogProbs {
        /// i64 `[N]`.
        targets: Tensor,
    },
    /// Sum of the cross-entropies and number of right answers, f64 `[2]`, without a gradient.
    Score {
        /// i64 `[N]`.
        targets: Tensor,
    },
    /// Sum of `alpha T² KL(teacher ‖ own)` at temperature `T` and `1 - alpha` times the
    /// cross-entropies, a scalar in f32.
    Distillation {
        /// i64 `[N]`.
        targets: Tensor,
        /// Share of each target that is spread over the vocabulary.
        label_smoothing: f64,
        /// What the teacher says of the same positions.
        teacher: TeacherOutput,
    },
}

/// What a teacher says, before its head: `E` is its width.
#[derive(Debug)]
pub struct TeacherOutput {
    /// `[N, E]`.
    pub hidden: Tensor,
    /// `[V, E]`.
    pub weight: Tensor,
    /// `T`, which divides the logits of both.
    pub temperature: f64,
    /// The teacher's share of the loss.
    pub alpha: f64,
}

impl Output {
    /// From `hidden [N, D]` by the head's weight `[V, D]`, or by what gives its logits where it is
    /// more than a product.
    pub fn of(
        &self,
        hidden: &Tensor,
        weight: Option<&Tensor>,
        logits: impl FnOnce() -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let Some(targets) = self.targets() else {
            return if matches!(self, Self::Hidden) {
                Ok(hidden.shallow_clone())
            } else {
                logits()
            };
        };
        let Some(weight) = weight else { return self.of_logits(logits()?) };
        let head = Head { hidden, weight, targets, block: block_rows(weight.size()[0]) };
        Ok(match self {
            Self::LogProbs { .. } => head.log_probs()?,
            Self::Score { .. } => {
                let (loss, hits) = head.score()?;
                both(&loss, &hits)?
            }
            Self::Distillation { label_smoothing, teacher, .. } => {
                let TeacherOutput { hidden, weight, temperature, alpha } = teacher;
                let (temperature, alpha) = (*temperature, *alpha);
                let teacher = Teacher { hidden, weight, temperature, alpha };
                head.distillation(*label_smoothing, teacher)?
            }
            Self::CrossEntropy { label_smoothing, .. } => head.cross_entropy(*label_smoothing)?,
            Self::Logits | Self::Hidden => return Err(ModelError::Pass("no loss is wanted")),
        })
    }

    /// The same from whole logits `[N, V]`.
    pub fn of_logits(&self, logits: Tensor) -> Result<Tensor, ModelError> {
        let Some(targets) = self.targets() else { return Ok(logits) };
        let logits = logits.f_to_kind(Kind::Float)?;
        let cross_entropy = |smoothing: f64| {
            logits.f_cross_entropy_loss::<Tensor>(targets, None, Reduction::Sum, -100, smoothing)
        };
        Ok(match self {
            Self::LogProbs { .. } => {
                let all = logits.f_log_softmax(1, Kind::Float)?;
                all.f_gather(1, &targets.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?
            }
            Self::Score { .. } => {
                let answers = logits.f_argmax(1, false)?;
                let hits = answers.f_eq_tensor(targets)?.f_sum(Kind::Int64)?;
                both(&cross_entropy(0.0)?, &hits)?
            }
            Self::Distillation { label_smoothing, teacher, .. } => {
                let TeacherOutput { hidden, weight, temperature, alpha } = teacher;
                let other = hidden.f_linear(weight, None::<&Tensor>)?;
                let apart = divergence(&logits, &other, *temperature)?.f_sum(Kind::Float)?;
                let hard = cross_entropy(*label_smoothing)?.f_mul_scalar(1.0 - alpha)?;
                hard.f_add(&apart.f_mul_scalar(*alpha)?)?
            }
            Self::CrossEntropy { label_smoothing, .. } => cross_entropy(*label_smoothing)?,
            Self::Logits | Self::Hidden => return Err(ModelError::Pass("no loss is wanted")),
        })
    }

    /// The same, of the same tensors.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        match self {
            Self::Logits => Self::Logits,
            Self::Hidden => Self::Hidden,
            Self::CrossEntropy { targets, label_smoothing } => Self::CrossEntropy {
                targets: targets.shallow_clone(),
                label_smoothing: *label_smoothing,
            },
            Self::LogProbs { targets } => Self::LogProbs { targets: targets.shallow_clone() },
            Self::Score { targets } => Self::Score { targets: targets.shallow_clone() },
            Self::Distillation { targets, label_smoothing, teacher } => Self::Distillation {
                targets: targets.shallow_clone(),
                label_smoothing: *label_smoothing,
                teacher: TeacherOutput {
                    hidden: teacher.hidden.shallow_clone(),
                    weight: teacher.weight.shallow_clone(),
                    ..*teacher
                },
            },
        }
    }

    /// i64 `[N]`, where a loss is wanted.
    pub fn targets(&self) -> Option<&Tensor> {
        match self {
            Self::Logits | Self::Hidden => None,
            Self::CrossEntropy { targets, .. }
            | Self::LogProbs { targets }
            | Self::Score { targets }
            | Self::Distillation { targets, .. } => Some(targets),
        }
    }
}

/// `T² KL(teacher ‖ own)` of each row at temperature `T` (Hinton et al. 2015), f32 `[N]`: logits
/// `[N, C]` of both. The factor keeps gradients of one size whatever `T` is.
pub fn divergence(own: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor, ModelError> {
    let soft = |logits: &Tensor| {
        logits.f_to_kind(Kind::Float)?.f_div_scalar(temperature)?.f_log_softmax(1, Kind::Float)
    };
    let apart = soft(own)?.f_kl_div(&soft(teacher)?, Reduction::None, true)?;
    let rows = apart.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?;
    Ok(rows.f_mul_scalar(temperature * temperature)?)
}

fn both(loss: &Tensor, hits: &Tensor) -> Result<Tensor, ModelError> {
    let pair = [loss.f_to_kind(Kind::Double)?, hits.f_to_kind(Kind::Double)?];
    Ok(Tensor::f_stack(&pair, 0)?.f_detach()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).abs().max()).unwrap()
    }

    #[test]
    fn a_head_with_an_adapter_gives_what_its_weight_alone_would() {
        tch::manual_seed(9);
        let options = (Kind::Float, Device::Cpu);
        let weight = Tensor::randn([50, 8], options);
        let targets = || Tensor::arange(7, (Kind::Int64, Device::Cpu)) * 5;
        let teacher = || TeacherOutput {
            hidden: Tensor::ones([7, 3], options) * Tensor::arange(7, options).unsqueeze(1) * 0.1,
            weight: Tensor::arange(150, options).view([50, 3]).sin(),
            temperature: 2.0,
            alpha: 0.4,
        };
        for output in [
            Output::CrossEntropy { targets: targets(), label_smoothing: 0.1 },
            Output::LogProbs { targets: targets() },
            Output::Score { targets: targets() },
            Output::Distillation { targets: targets(), label_smoothing: 0.1, teacher: teacher() },
        ] {
            let run = |weight_alone: Option<&Tensor>| {
                tch::manual_seed(10);
                let hidden = Tensor::randn([7, 8], options).set_requires_grad(true);
                let logits = || Ok(hidden.linear::<Tensor>(&weight, None));
                let value = output.of(&hidden, weight_alone, logits).unwrap();
                if value.requires_grad() {
                    value.sum(Kind::Float).backward();
                    (value.detach(), hidden.grad())
                } else {
                    (value, Tensor::zeros([1], options))
                }
            };
            let (by_weight, by_logits) = (run(Some(&weight)), run(None));
            assert!(distance(&by_weight.0, &by_logits.0) < 1e-4, "{output:?}");
            assert!(distance(&by_weight.1, &by_logits.1) < 1e-5, "{output:?}");
        }
    }
}
