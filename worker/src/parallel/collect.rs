//! A whole model again, on rank 0: to be exported, or to take up the best checkpoint's weights.

use tch::Tensor;

use super::Chain;
use super::groups::{SharedGroup, locked};
use super::layout::{DATA, EXPERT, PIPELINE, TENSOR};
use crate::error::Error;
use crate::model::{Model, ModelError, Parameter};

impl Chain {
    /// Puts all weights in their places on rank 0, where `model` then runs as it was read. All
    /// ranks take part; on others the model is of no more use.
    pub fn collect(&self, model: &mut Model) -> Result<(), Error> {
        let at = |axis| self.layout.along(axis).0;
        self.state().units.iter_mut().flatten().try_for_each(super::unit::Unit::collect)?;
        if at(DATA) == 0 {
            for tensor in self.present(model) {
                let own = at(EXPERT) == 0 || tensor.name.contains(".experts.");
                if let Some(group) = self.groups.tensor.as_ref().filter(|_| own) {
                    self.join_parts(group, &tensor)?;
                }
            }
            if at(TENSOR) == 0 {
                if let Some(group) = &self.groups.expert {
                    self.fetch_experts(group, model)?;
                }
                if let Some(group) = self.groups.forward.as_ref().filter(|_| at(EXPERT) == 0) {
                    self.fetch_stages(group, model)?;
                }
            }
        }
        for (_, mixture) in model.network_mut().mixtures() {
            mixture.spread = None;
            mixture.dealt = None;
        }
        model.run_by(None);
        Ok(())
    }

    /// Tensors of this rank's stages that it holds.
    fn present(&self, model: &Model) -> Vec<Parameter> {
        let mut all = model.tensors();
        all.retain(|tensor| {
            self.stages.contains(&tensor.stage) && !self.absent.contains(&tensor.name)
        });
        all
    }

    /// Joins what the ranks that split layers hold of a tensor, on the first of them.
    fn join_parts(&self, group: &SharedGroup, tensor: &Parameter) -> Result<(), ModelError> {
        let (whole, _) = self.splits.place(&tensor.name, &tensor.tensor);
        let part = tensor.tensor.detach();
        let Some(dimension) = whole.iter().zip(part.size()).position(|(all, own)| *all != own)
        else {
            return Ok(());
        };
        if let Some(parts) = locked(group).gather(&part.f_contiguous()?, 0)? {
            let dimension = i64::try_from(dimension).unwrap_or(0);
            let joined = Tensor::f_cat(&parts.f_unbind(0)?, dimension)?;
            nccl_rs::storage::replace(&tensor.tensor, &joined)?;
        }
        Ok(())
    }

    /// Experts of other ranks, on the first.
    fn fetch_experts(&self, group: &SharedGroup, model: &mut Model) -> Result<(), ModelError> {
        let (place, ways) = self.layout.along(EXPERT);
        for (stage, mixture) in model.network_mut().mixtures() {
            if !self.stages.contains(&stage) {
                continue;
            }
            let of_rank = mixture.experts.len() / ways;
            for (index, expert) in mixture.experts.iter().enumerate().skip(of_rank) {
                for (name, tensor) in super::expert::tensors_of(expert) {
                    self.fetch(group, (place, index / of_rank), (&name, &tensor))?;
                }
            }
        }
        Ok(())
    }

    /// Stages of other ranks, on the first.
    fn fetch_stages(&self, group: &SharedGroup, model: &Model) -> Result<(), ModelError> {
        let (place, ways) = self.layout.along(PIPELINE);
        let stages = model.network().stages();
        let owner = |stage: usize| {
            (0..ways).find(|place| self.layout.stages_of(*place, stages).contains(&stage))
        };
        for tensor in model.tensors() {
            if let Some(from) = owner(tensor.stage).filter(|from| *from > 0) {
                self.fetch(group, (place, from), (&tensor.name, &tensor.tensor))?;
            }
        }
        Ok(())
    }

    /// Sends a whole tensor from place `from` of a group to its first.
    fn fetch(
        &self,
        group: &SharedGroup,
        (place, from): (usize, usize),
        (name, tensor): (&str, &Tensor),
    ) -> Result<(), ModelError> {
        if place == from {
            locked(group).send(&tensor.detach().f_contiguous()?, 0, 0)?;
        } else if place == 0 {
            let (whole, _) = self.splits.place(name, tensor);
            let mut there = Tensor::f_empty(whole, (tensor.kind(), tensor.device()))?;
            locked(group).recv(&mut there, from, 0)?;
            nccl_rs::storage::replace(tensor, &there)?;
        }
        Ok(())
    }
}
