//! AdamW (Loshchilov and Hutter 2019) over a model's parameters, by
//! libtorch's fused kernel.

use nccl_rs::ops::{self, AdamW, AdamWLists};
use tch::{Kind, Tensor};

use crate::config::Adam;
use crate::error::Error;
use crate::model::{Parameter, Role};

/// Parameters that share settings.
struct Group {
    weight_decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    /// f32 scalars, as the kernel wants them: one for each parameter.
    steps: Vec<Tensor>,
}

/// The optimizer and its moments.
pub struct Optimizer {
    adam: Adam,
    groups: Vec<Group>,
}

impl Optimizer {
    /// Moments of 0 for `parameters`, after `steps_done` steps.
    pub fn new(parameters: &[Parameter], adam: Adam, steps_done: u64) -> Result<Self, Error> {
        let (decayed, others): (Vec<_>, Vec<_>) =
            parameters.iter().partition(|parameter| parameter.role == Role::Decayed);
        let groups = [(decayed, adam.weight_decay), (others, 0.0)]
            .into_iter()
            .map(|(members, weight_decay)| Group::new(&members, weight_decay, steps_done))
            .collect::<Result<_, _>>()?;
        Ok(Self { adam, groups })
    }

    /// One step at learning rate `rate`, from the parameters' gradients.
    pub fn step(&mut self, rate: f64) -> Result<(), Error> {
        for group in &self.groups {
            let settings = AdamW {
                learning_rate: rate,
                beta1: self.adam.beta1,
                beta2: self.adam.beta2,
                eps: self.adam.epsilon,
                weight_decay: group.weight_decay,
            };
            let gradients: Vec<Tensor> = group.parameters.iter().map(Tensor::grad).collect();
            // As in PyTorch, a parameter without a gradient is left alone.
            let has = |index: &usize| gradients[*index].defined();
            let moved: Vec<usize> = (0..gradients.len()).filter(has).collect();
            let pick = |all: &[Tensor]| -> Vec<Tensor> {
                moved.iter().map(|index| all[*index].shallow_clone()).collect()
            };
            let lists = AdamWLists {
                parameters: &pick(&group.parameters),
                gradients: &pick(&gradients),
                exp_avgs: &pick(&group.exp_avgs),
                exp_avg_sqs: &pick(&group.exp_avg_sqs),
                steps: &pick(&group.steps),
            };
            ops::fused_adamw_(&settings, &lists)?;
        }
        Ok(())
    }

    /// The moments, named for a checkpoint.
    pub fn moments(&self) -> Vec<(String, Tensor)> {
        let mut found = Vec::new();
        for group in &self.groups {
            let moments = group.exp_avgs.iter().zip(&group.exp_avg_sqs);
            for (name, (mean, square)) in group.names.iter().zip(moments) {
                found.push((format!("exp_avg.{name}"), mean.shallow_clone()));
                found.push((format!("exp_avg_sq.{name}"), square.shallow_clone()));
            }
        }
        found
    }
}

impl Group {
    fn new(members: &[&Parameter], weight_decay: f64, steps_done: u64) -> Result<Self, Error> {
        let parameters: Vec<Tensor> =
            members.iter().map(|parameter| parameter.tensor.shallow_clone()).collect();
        let zeros = || -> Result<Vec<Tensor>, tch::TchError> {
            tch::no_grad(|| parameters.iter().map(Tensor::f_zeros_like).collect())
        };
        let step = |parameter: &Tensor| {
            Tensor::f_full([] as [i64; 0], steps_done as f64, (Kind::Float, parameter.device()))
        };
        Ok(Self {
            weight_decay,
            names: members.iter().map(|parameter| parameter.name.clone()).collect(),
            exp_avgs: zeros()?,
            exp_avg_sqs: zeros()?,
            steps: parameters.iter().map(step).collect::<Result<_, _>>()?,
            parameters,
        })
    }
}
