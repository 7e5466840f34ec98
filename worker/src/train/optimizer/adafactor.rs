//! Adafactor (Shazeer and Stern 2018, algorithms 4 and 5), as transformers' Trainer sets it: at
//! the learning rate that is given, without scaling by the parameter and without momentum
//! (`transformers/optimization.py`, `Adafactor`).

use tch::{Device, Kind, Tensor};

use super::{by_decay, own_steps, step_count};
use crate::error::Error;
use crate::model::Parameter;

/// Keeps squares from 0 (`eps[0]` of transformers).
const EPSILON: f64 = 1e-30;
/// Most root mean square of an update, before the learning rate (`clip_threshold`).
const CLIP_THRESHOLD: f64 = 1.0;
/// The means decay by `1 - step^DECAY_RATE` (`decay_rate`).
const DECAY_RATE: f64 = -0.8;

/// Adafactor and its second moments.
pub struct Adafactor {
    members: Vec<Member>,
    names: Vec<String>,
    /// On the CPU: the decay is computed from them there.
    steps: Vec<Tensor>,
}

struct Member {
    parameter: Tensor,
    weight_decay: f64,
    second: Second,
}

/// Decaying means of squared gradients.
enum Second {
    /// Of a matrix's (or a stack of matrices') rows `[.., R]` and columns `[.., C]`.
    Factored { row: Tensor, column: Tensor },
    /// Of each element.
    Whole(Tensor),
}

impl Adafactor {
    pub(super) fn new(
        parameters: &[Parameter],
        weight_decay: f64,
        steps_done: u64,
    ) -> Result<Self, Error> {
        let mut new = Self { members: Vec::new(), names: Vec::new(), steps: Vec::new() };
        for (group, weight_decay) in by_decay(parameters, weight_decay) {
            for parameter in group {
                let tensor = parameter.tensor.shallow_clone();
                let second = Second::of(&tensor)?;
                new.members.push(Member { parameter: tensor, weight_decay, second });
                new.names.push(parameter.name.clone());
                new.steps.push(step_count(steps_done, Device::Cpu)?);
            }
        }
        Ok(new)
    }

    pub(super) fn step(&mut self, rate: f64) -> Result<(), Error> {
        tch::no_grad(|| {
            for (member, step) in self.members.iter_mut().zip(&mut self.steps) {
                let gradient = member.parameter.grad();
                if gradient.defined() {
                    let _ = step.f_add_scalar_(1.0)?;
                    let decay = 1.0 - f64::try_from(&*step)?.powf(DECAY_RATE);
                    member.step(&gradient, rate, decay)?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn moments(&self) -> Vec<(String, Tensor)> {
        let mut found = Vec::new();
        for (name, member) in self.names.iter().zip(&self.members) {
            match &member.second {
                Second::Factored { row, column } => {
                    found.push((format!("exp_avg_sq_row.{name}"), row.shallow_clone()));
                    found.push((format!("exp_avg_sq_col.{name}"), column.shallow_clone()));
                }
                Second::Whole(square) => {
                    found.push((format!("exp_avg_sq.{name}"), square.shallow_clone()));
                }
            }
        }
        found.extend(own_steps(&self.names, &self.steps));
        found
    }
}

impl Member {
    fn step(&mut self, gradient: &Tensor, rate: f64, decay: f64) -> Result<(), Error> {
        let square = gradient.f_square()?.f_add_scalar(EPSILON)?;
        let mut update = self.second.scale(gradient, &square, decay)?;
        let root_mean_square =
            update.f_norm()?.f_div_scalar((update.numel().max(1) as f64).sqrt())?;
        let clip = root_mean_square.f_div_scalar(CLIP_THRESHOLD)?.f_clamp_min(1.0)?;
        let _ = update.f_div_(&clip)?.f_mul_scalar_(rate)?;
        if self.weight_decay > 0.0 {
            let _ = self.parameter.f_mul_scalar_(1.0 - self.weight_decay * rate)?;
        }
        let _ = self.parameter.f_sub_(&update)?;
        Ok(())
    }
}

impl Second {
    fn of(parameter: &Tensor) -> Result<Self, tch::TchError> {
        let options = (Kind::Float, parameter.device());
        let shape = parameter.size();
        let [stack @ .., rows, columns] = shape.as_slice() else {
            return Ok(Self::Whole(Tensor::f_zeros(shape.as_slice(), options)?));
        };
        let of = |length: &i64| Tensor::f_zeros([stack, &[*length]].concat(), options);
        Ok(Self::Factored { row: of(rows)?, column: of(columns)? })
    }

    /// Takes `square` in, and gives the gradient over the root of the means.
    fn scale(
        &mut self,
        gradient: &Tensor,
        square: &Tensor,
        decay: f64,
    ) -> Result<Tensor, tch::TchError> {
        let fold = |mean: &mut Tensor, new: &Tensor| -> Result<(), tch::TchError> {
            let _ = mean.f_mul_scalar_(decay)?.f_add_(&new.f_mul_scalar(1.0 - decay)?)?;
            Ok(())
        };
        match self {
            Self::Factored { row, column } => {
                let mean = |of: &Tensor, axis: i64| of.f_mean_dim(axis, false, Kind::Float);
                fold(row, &mean(square, -1)?)?;
                fold(column, &mean(square, -2)?)?;
                let rows = row.f_div(&row.f_mean_dim(-1, true, Kind::Float)?)?;
                let rows = rows.f_rsqrt()?.f_unsqueeze(-1)?;
                let columns = column.f_unsqueeze(-2)?.f_rsqrt()?;
                rows.f_mul(&columns)?.f_mul(gradient)
            }
            Self::Whole(mean) => {
                fold(mean, square)?;
                mean.f_rsqrt()?.f_mul(gradient)
            }
        }
    }
}
