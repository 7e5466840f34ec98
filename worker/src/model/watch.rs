//! Where a forward pass stops being finite.

use std::sync::{Mutex, PoisonError};

use tch::Tensor;

use super::network::{Network, Pass, Runner};
use super::{Model, ModelError};

/// Runs stages one after another and keeps the first whose output is not finite.
#[derive(Debug, Default)]
pub struct Watch {
    first: Mutex<Option<usize>>,
}

impl Watch {
    /// Looks at what a stage gave.
    pub fn look(&self, stage: usize, output: &Tensor) -> Result<(), ModelError> {
        let finite = i64::try_from(output.f_isfinite()?.f_all()?)? != 0;
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if !finite && first.is_none_or(|first| stage < first) {
            *first = Some(stage);
        }
        Ok(())
    }

    /// The first stage, over all passes.
    pub fn first(&self) -> Option<usize> {
        *self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runner for Watch {
    fn forward(
        &self,
        network: &dyn Network,
        input: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        (0..network.stages()).try_fold(input.shallow_clone(), |hidden, stage| {
            let output = network.forward(stage, &hidden, pass)?;
            self.look(stage, &output)?;
            Ok(output)
        })
    }
}

impl Model {
    /// What a stage is called, by the names that its tensors have in common, such as
    /// `model.layers.3`; by its last layer where they have none.
    pub fn stage_name(&self, stage: usize) -> String {
        let mut tensors = self.tensors();
        tensors.retain(|tensor| tensor.stage == stage);
        let parts = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
        let mut names = tensors.iter().map(|tensor| parts(&tensor.name));
        let Some(first) = names.next() else { return format!("stage {stage}") };
        let common = names.fold(first, |common, name| {
            common.into_iter().zip(name).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
        });
        let last = || parts(&tensors[tensors.len() - 1].name);
        // `model` alone says nothing.
        let mut name = if common.len() < 2 { last() } else { common };
        if name.last().is_some_and(|part| part == "weight" || part == "bias") {
            name.pop();
        }
        name.join(".")
    }
}
