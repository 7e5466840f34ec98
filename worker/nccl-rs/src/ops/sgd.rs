//! SGD in one pass over memory.

use tch::Tensor;

use super::ensure_lengths;
use crate::error::{Error, Result, checked};
use crate::sys;
use crate::tensor::{device_of, ensure_dense, pointers};

/// SGD's hyperparameters; see [`fused_sgd_`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// The step size.
    pub learning_rate: f64,
    /// The decay of the velocity; 0 for plain SGD.
    pub momentum: f64,
    /// How much of a gradient the velocity leaves out.
    pub dampening: f64,
    /// Times a parameter, this is added to its gradient.
    pub weight_decay: f64,
    /// Whether to look ahead along the velocity (Nesterov). Needs momentum and no
    /// dampening.
    pub nesterov: bool,
}

/// The tensors that [`fused_sgd_`] works on: lists of one length, entry i of each
/// belonging to parameter i.
#[derive(Debug, Clone, Copy)]
pub struct SgdLists<'a> {
    /// Changed in place.
    pub parameters: &'a [Tensor],
    /// Only read.
    pub gradients: &'a [Tensor],
    /// Changed in place; what they hold before the first step does not matter. None
    /// without momentum.
    pub velocities: &'a [Tensor],
}

/// One step of SGD over all parameters, in place and without autograd, as
/// `torch.optim.SGD` does it. With `g` the gradient plus `weight_decay * p`, and
/// `v` the velocity: `v = momentum * v + (1 - dampening) * g` (on the first step
/// `v = g`), and `p = p - lr * v`, or with Nesterov `p = p - lr * (g + momentum * v)`.
///
/// The tensors of a parameter have one kind, device and shape, and all parameters
/// one device.
pub fn fused_sgd_(hyper: &Sgd, lists: &SgdLists<'_>, first_step: bool) -> Result<()> {
    const OPERATION: &str = "fused_sgd_";
    let SgdLists { parameters, gradients, velocities } = *lists;
    let count = parameters.len();
    let has_momentum = hyper.momentum != 0.0;
    ensure_lengths(OPERATION, count, &[gradients])?;
    ensure_lengths(OPERATION, if has_momentum { count } else { 0 }, &[velocities])?;
    if hyper.nesterov && (!has_momentum || hyper.dampening != 0.0) {
        return Err(Error::InvalidArgument(format!(
            "{OPERATION}: Nesterov needs momentum and no dampening, not {} and {}",
            hyper.momentum, hyper.dampening
        )));
    }
    let Some(first) = parameters.first() else { return Ok(()) };
    let device = device_of(OPERATION, first)?;
    for (i, parameter) in parameters.iter().enumerate() {
        ensure_dense(OPERATION, parameter, device)?;
        for other in [Some(&gradients[i]), velocities.get(i)].into_iter().flatten() {
            ensure_dense(OPERATION, other, device)?;
            if (other.kind(), other.size()) != (parameter.kind(), parameter.size()) {
                let detail = format!(
                    "parameter {i} is {:?} {:?}, but its gradient or velocity is {:?} {:?}",
                    parameter.kind(),
                    parameter.size(),
                    other.kind(),
                    other.size()
                );
                return Err(Error::InvalidTensor { operation: OPERATION, detail });
            }
        }
    }

    let raw = sys::Sgd {
        learning_rate: hyper.learning_rate,
        momentum: hyper.momentum,
        dampening: hyper.dampening,
        weight_decay: hyper.weight_decay,
        nesterov: hyper.nesterov,
        first_step,
    };
    let velocity_count = velocities.len();
    let [parameters, gradients, velocities] = [parameters, gradients, velocities].map(pointers);
    checked(OPERATION, |message| {
        // SAFETY: lists of `count` and `velocity_count` tensors, checked above and
        // borrowed until the call returns.
        unsafe {
            sys::hearth_fused_sgd(
                &raw const raw,
                parameters.as_ptr(),
                gradients.as_ptr(),
                count,
                velocities.as_ptr(),
                velocity_count,
                message,
            )
        }
    })
}
