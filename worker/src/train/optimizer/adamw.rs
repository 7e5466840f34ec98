//! AdamW (Loshchilov and Hutter 2019), by libtorch's fused kernel.

use nccl_rs::ops::{self, AdamWLists};
use tch::Tensor;

use super::{Moved, by_decay, names_and_tensors, own_steps, step_count, zeros_like};
use crate::config::Adam;
use crate::error::Error;
use crate::model::Parameter;

/// AdamW and its moments.
pub struct AdamW {
    adam: Adam,
    groups: Vec<Group>,
}

/// Parameters that share settings.
struct Group {
    weight_decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    steps: Vec<Tensor>,
}

impl AdamW {
    pub(super) fn new(
        parameters: &[Parameter],
        adam: Adam,
        steps_done: u64,
    ) -> Result<Self, Error> {
        let groups = by_decay(parameters, adam.weight_decay)
            .into_iter()
            .map(|(members, weight_decay)| Group::new(&members, weight_decay, steps_done))
            .collect::<Result<_, _>>()?;
        Ok(Self { adam, groups })
    }

    pub(super) fn step(&mut self, rate: f64) -> Result<(), Error> {
        for group in &self.groups {
            let settings = ops::AdamW {
                learning_rate: rate,
                beta1: self.adam.beta1,
                beta2: self.adam.beta2,
                eps: self.adam.epsilon,
                weight_decay: group.weight_decay,
            };
            let moved = Moved::of(&group.parameters);
            let lists = AdamWLists {
                parameters: &moved.pick(&group.parameters),
                gradients: &moved.gradients,
                exp_avgs: &moved.pick(&group.exp_avgs),
                exp_avg_sqs: &moved.pick(&group.exp_avg_sqs),
                steps: &moved.pick(&group.steps),
            };
            ops::fused_adamw_(&settings, &lists)?;
        }
        Ok(())
    }

    pub(super) fn moments(&self) -> Vec<(String, Tensor)> {
        let mut found = Vec::new();
        for group in &self.groups {
            let moments = group.exp_avgs.iter().zip(&group.exp_avg_sqs);
            for (name, (mean, square)) in group.names.iter().zip(moments) {
                found.push((format!("exp_avg.{name}"), mean.shallow_clone()));
                found.push((format!("exp_avg_sq.{name}"), square.shallow_clone()));
            }
            found.extend(own_steps(&group.names, &group.steps));
        }
        found
    }
}

impl Group {
    fn new(members: &[&Parameter], weight_decay: f64, steps_done: u64) -> Result<Self, Error> {
        let (names, parameters) = names_and_tensors(members);
        Ok(Self {
            weight_decay,
            names,
            exp_avgs: zeros_like(&parameters)?,
            exp_avg_sqs: zeros_like(&parameters)?,
            steps: parameters
                .iter()
                .map(|parameter| step_count(steps_done, parameter.device()))
                .collect::<Result<_, _>>()?,
            parameters,
        })
    }
}
