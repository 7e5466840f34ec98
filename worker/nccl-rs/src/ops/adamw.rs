//! AdamW in one pass over memory.

use tch::{Device, Kind, Tensor};

use super::ensure_lengths;
use crate::error::{Error, Result, checked};
use crate::sys;
use crate::tensor::{device_of, ensure_dense, pointers};

/// AdamW's hyperparameters; see [`fused_adamw_`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// The step size.
    pub learning_rate: f64,
    /// The decay of the gradients' running mean, usually 0.9.
    pub beta1: f64,
    /// The decay of the squared gradients' running mean, usually 0.999.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// How much of a parameter a step takes off, times the learning rate.
    pub weight_decay: f64,
}

/// The tensors that [`fused_adamw_`] works on: five lists of one length, entry i
/// of each belonging to parameter i.
#[derive(Debug, Clone, Copy)]
pub struct AdamWLists<'a> {
    /// Changed in place.
    pub parameters: &'a [Tensor],
    /// Only read.
    pub gradients: &'a [Tensor],
    /// Running means of the gradients, changed in place; zeros at first.
    pub exp_avgs: &'a [Tensor],
    /// Running means of their squares, changed in place; zeros at first.
    pub exp_avg_sqs: &'a [Tensor],
    /// Steps taken so far, each an f32 scalar, raised by one in place.
    pub steps: &'a [Tensor],
}

/// One step of AdamW (Loshchilov and Hutter, "Decoupled Weight Decay
/// Regularization", algorithm 2) over all parameters, in place and without
/// autograd: one pass over memory where op-by-op code makes ten.
///
/// With `t` the step, `m` and `v` the running means, and `d` the weight decay:
/// `p = p * (1 - lr * d) - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)`.
///
/// The four tensors of a parameter have one kind, device and shape (libtorch's
/// kernel takes no mixed precision), and all parameters one device.
pub fn fused_adamw_(hyper: &AdamW, lists: &AdamWLists<'_>) -> Result<()> {
    const OPERATION: &str = "fused_adamw_";
    let AdamWLists { parameters, gradients, exp_avgs, exp_avg_sqs, steps } = *lists;
    let count = parameters.len();
    ensure_lengths(OPERATION, count, &[gradients, exp_avgs, exp_avg_sqs, steps])?;
    let Some(first) = parameters.first() else { return Ok(()) };
    let device = device_of(OPERATION, first)?;
    for i in 0..count {
        let parameter = &parameters[i];
        ensure_dense(OPERATION, parameter, device)?;
        let alike = |what: &str, other: &Tensor| {
            ensure_dense(OPERATION, other, device)?;
            if other.kind() == parameter.kind() && other.size() == parameter.size() {
                return Ok(());
            }
            Err(Error::InvalidTensor {
                operation: OPERATION,
                detail: format!(
                    "parameter {i} is {:?} {:?}, but its {what} is {:?} {:?}",
                    parameter.kind(),
                    parameter.size(),
                    other.kind(),
                    other.size()
                ),
            })
        };
        alike("gradient", &gradients[i])?;
        alike("running mean", &exp_avgs[i])?;
        alike("running mean of squares", &exp_avg_sqs[i])?;
        ensure_step(OPERATION, &steps[i], device)?;
    }

    let raw = sys::AdamW {
        learning_rate: hyper.learning_rate,
        beta1: hyper.beta1,
        beta2: hyper.beta2,
        eps: hyper.eps,
        weight_decay: hyper.weight_decay,
    };
    let [parameters, gradients, exp_avgs, exp_avg_sqs, steps] =
        [parameters, gradients, exp_avgs, exp_avg_sqs, steps].map(pointers);
    checked(OPERATION, |message| {
        // SAFETY: lists of `count` tensors, checked above and borrowed until the
        // call returns.
        unsafe {
            sys::hearth_fused_adamw(
                &raw const raw,
                parameters.as_ptr(),
                gradients.as_ptr(),
                exp_avgs.as_ptr(),
                exp_avg_sqs.as_ptr(),
                steps.as_ptr(),
                count,
                message,
            )
        }
    })
}

fn ensure_step(operation: &'static str, step: &Tensor, device: Device) -> Result<()> {
    ensure_dense(operation, step, device)?;
    if step.kind() == Kind::Float && step.size().is_empty() {
        return Ok(());
    }
    let detail = format!("a step is {:?} {:?}, not an f32 scalar", step.kind(), step.size());
    Err(Error::InvalidTensor { operation, detail })
}
