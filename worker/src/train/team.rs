//! How the ranks of a gang share a model: by copies whose gradients are averaged while backward
//! makes them (DDP), or by a [`Chain`] of stages.

use std::collections::BTreeMap;
use std::sync::Arc;

use nccl_rs::{Mesh, Reducer, ReducerOptions};
use tch::Tensor;

use super::gang::Gang;
use super::optimizer::Optimizer;
use super::rank::Rank;
use crate::checkpoint::part::Part;
use crate::error::Error;
use crate::model::{Model, Parameter};
use crate::parallel::chain::Recipe;
use crate::parallel::{Chain, Owned};

/// A rank's part in the gang's work.
#[derive(Default)]
pub struct Team {
    pub(super) reducer: Option<Reducer>,
    pub(super) chain: Option<Arc<Chain>>,
    owned: Vec<Owned>,
    /// Whether a step may pass by a parameter: experts to which no token goes.
    pub(super) may_lack_gradients: bool,
    /// Of gradients that copies exchange at once, where it was said.
    bucket_bytes: Option<usize>,
}

impl Team {
    /// Splits `model` over the ranks as the gang's layout says, and has its stages run as the
    /// recipe says.
    pub fn form(
        model: &mut Model,
        gang: &Gang,
        rank: &Rank,
        recipe: Recipe,
        bucket_bytes: Option<usize>,
    ) -> Result<Self, Error> {
        if gang.layout().is_plain() && !recipe.recompute {
            return Ok(Self { bucket_bytes, ..Self::default() });
        }
        let join = |mesh: &Mesh, name: &str, over: &[&str]| gang.join(rank, (mesh, name, over));
        let chain = Chain::new(model, gang.layout().clone(), &join, recipe)?;
        let owned = chain.owned();
        Ok(Self { chain: Some(chain), owned, ..Self::default() })
    }

    /// What this rank's optimizer changes.
    pub fn parameters(&self, model: &Model) -> Vec<Parameter> {
        if self.chain.is_none() {
            return model.trainable();
        }
        let seen = |parameter: &Parameter| Parameter {
            name: parameter.name.clone(),
            tensor: parameter.tensor.shallow_clone(),
            ..*parameter
        };
        self.owned.iter().map(|owned| seen(&owned.parameter)).collect()
    }

    /// What a checkpoint holds of this rank: weights and moments.
    pub fn parts(
        &self,
        parameters: &[Parameter],
        optimizer: &Optimizer,
    ) -> Result<Vec<Part>, Error> {
        self.parts_of(parameters, optimizer, Owned::part)
    }

    /// Where a checkpoint's values go.
    pub fn targets(
        &self,
        parameters: &[Parameter],
        optimizer: &Optimizer,
    ) -> Result<Vec<Part>, Error> {
        self.parts_of(parameters, optimizer, Owned::target)
    }

    fn parts_of(
        &self,
        parameters: &[Parameter],
        optimizer: &Optimizer,
        of_weight: fn(&Owned) -> Part,
    ) -> Result<Vec<Part>, Error> {
        let moments = optimizer.moments();
        if self.chain.is_none() {
            let moments = moments.into_iter().map(|(name, tensor)| Part::whole(name, tensor));
            return Ok(whole(parameters).chain(moments).collect());
        }
        let by_name: BTreeMap<&str, &Owned> =
            self.owned.iter().map(|owned| (owned.parameter.name.as_str(), owned)).collect();
        let mut parts: Vec<Part> = self.owned.iter().map(of_weight).collect();
        for (name, tensor) in moments {
            let of = name.split_once('.').and_then(|(_, parameter)| by_name.get(parameter));
            let Some(owned) = of else {
                return Err(Error::Internal(format!("{name} is of no parameter of this rank")));
            };
            parts.push(owned.moment(name, tensor)?);
        }
        Ok(parts)
    }

    /// Makes all copies start from rank 0's weights and prepares the reduction of gradients. A
    /// chain's ranks have read the same files.
    pub fn begin(&mut self, parameters: &[Parameter], gang: &mut Gang) -> Result<(), Error> {
        let Some(group) = gang.group().filter(|_| self.chain.is_none()) else { return Ok(()) };
        let mut values: Vec<Tensor> =
            parameters.iter().map(|parameter| parameter.tensor.detach()).collect();
        group.broadcast_all(&mut values, 0)?;
        let named: Vec<(String, Tensor)> = parameters
            .iter()
            .map(|parameter| (parameter.name.clone(), parameter.tensor.shallow_clone()))
            .collect();
        self.may_lack_gradients = named.iter().any(|(name, _)| name.contains(".experts."));
        let defaults = ReducerOptions::default();
        let options = ReducerOptions {
            bucket_bytes: self.bucket_bytes.unwrap_or(defaults.bucket_bytes),
            find_unused_parameters: self.may_lack_gradients,
            ..defaults
        };
        self.reducer = Some(Reducer::new(&named, group, &options)?);
        Ok(())
    }

    /// Sum of squares of this rank's share of the gradient; `None` where it has all of it.
    pub(super) fn squares(&self) -> Result<Option<f64>, Error> {
        self.chain.as_ref().map(|_| Owned::squares(&self.owned)).transpose()
    }
}

/// Tensors of the model that this rank holds whole, as parts of a checkpoint.
pub(super) fn whole(tensors: &[Parameter]) -> impl Iterator<Item = Part> {
    tensors.iter().map(|one| Part::whole(format!("model.{}", one.name), one.tensor.detach()))
}
