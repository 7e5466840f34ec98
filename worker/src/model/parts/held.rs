//! Linear layers whose weight is held in few bits, for inference on the CPU.

use nccl_rs::narrow::Narrow;
use tch::{Device, Kind, Tensor};

use super::dropout::Dropout;
use super::linear::{LinearKind, LinearOp};
use crate::model::{Model, ModelError};

/// A linear layer that is read in bf16 or int8, and computed in f32.
#[derive(Debug)]
pub struct Held(pub Narrow);

impl LinearOp for Held {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        Ok(self.0.forward(&input.f_contiguous()?)?)
    }

    fn narrow(&self) -> Option<&Narrow> {
        Some(&self.0)
    }
}

/// Holds weights in bf16 where they are numbers of bf16, as those of most checkpoints are: half the
/// memory, and half the time of a pass over few tokens, for the same results. The model is good for
/// inference alone afterwards.
pub fn hold(model: &mut Model) -> Result<(), ModelError> {
    let network = model.network_mut();
    network.untie();
    let mut outcome = Ok(());
    for stage in 0..network.stages() {
        network.stage_mut(stage).linears_mut(&mut |linear| {
            let LinearKind::Dense { weight, bias } = &linear.kind else { return };
            match held(weight, bias.as_ref()) {
                Ok(Some(held)) => linear.kind = LinearKind::Other(Box::new(held)),
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
        });
    }
    outcome
}

fn held(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Held>, ModelError> {
    if weight.device() != Device::Cpu || weight.kind() != Kind::Float {
        return Ok(None);
    }
    let halves = weight.f_to_kind(Kind::BFloat16)?;
    if !halves.f_to_kind(Kind::Float)?.f_equal(weight)? {
        return Ok(None);
    }
    Ok(Some(Held(Narrow::halves(&halves, bias)?)))
}
