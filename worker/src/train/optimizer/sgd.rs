//! Stochastic gradient descent with momentum, as `torch.optim.SGD`.

use nccl_rs::ops::{self, SgdLists};
use tch::Tensor;

use super::{Moved, by_decay, names_and_tensors, zeros_like};
use crate::config::SgdSettings;
use crate::error::Error;
use crate::model::Parameter;

/// SGD and its velocities.
pub struct Sgd {
    momentum: f64,
    groups: Vec<Group>,
}

/// Parameters that share settings.
struct Group {
    weight_decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    /// None without momentum. From 0, the first step's velocity is its gradient.
    velocities: Vec<Tensor>,
}

impl Sgd {
    pub(super) fn new(parameters: &[Parameter], settings: SgdSettings) -> Result<Self, Error> {
        let has_momentum = settings.momentum > 0.0;
        let groups = by_decay(parameters, settings.weight_decay)
            .into_iter()
            .map(|(members, weight_decay)| Group::new(&members, weight_decay, has_momentum))
            .collect::<Result<_, _>>()?;
        Ok(Self { momentum: settings.momentum, groups })
    }

    pub(super) fn step(&mut self, rate: f64) -> Result<(), Error> {
        for group in &self.groups {
            let settings = ops::Sgd {
                learning_rate: rate,
                momentum: self.momentum,
                dampening: 0.0,
                weight_decay: group.weight_decay,
                nesterov: false,
            };
            let moved = Moved::of(&group.parameters);
            let lists = SgdLists {
                parameters: &moved.pick(&group.parameters),
                gradients: &moved.gradients,
                velocities: &moved.pick(&group.velocities),
            };
            ops::fused_sgd_(&settings, &lists, false)?;
        }
        Ok(())
    }

    pub(super) fn moments(&self) -> Vec<(String, Tensor)> {
        let of_group = |group: &Group| -> Vec<(String, Tensor)> {
            let named = group.names.iter().zip(&group.velocities);
            named
                .map(|(name, velocity)| {
                    (format!("momentum_buffer.{name}"), velocity.shallow_clone())
                })
                .collect()
        };
        self.groups.iter().flat_map(of_group).collect()
    }
}

impl Group {
    fn new(members: &[&Parameter], weight_decay: f64, momentum: bool) -> Result<Self, Error> {
        let (names, parameters) = names_and_tensors(members);
        Ok(Self {
            weight_decay,
            names,
            velocities: if momentum { zeros_like(&parameters)? } else { Vec::new() },
            parameters,
        })
    }
}
