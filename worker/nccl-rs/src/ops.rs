//! Operators over lists of tensors, which tch leaves out.

use std::ffi::c_char;
use std::ptr;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, checked, take_text};
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
    for list in [gradients, exp_avgs, exp_avg_sqs, steps] {
        if list.len() != count {
            return Err(Error::InvalidArgument(format!(
                "{OPERATION}: lists of {count} and of {} tensors",
                list.len()
            )));
        }
    }
    let Some(first) = parameters.first() else { return Ok(()) };
    let device = device_of(OPERATION, first)?;
    for i in 0..count {
        let parameter = &parameters[i];
        ensure_dense(OPERATION, parameter, device)?;
        for other in [&gradients[i], &exp_avgs[i], &exp_avg_sqs[i]] {
            ensure_dense(OPERATION, other, device)?;
            if (other.kind(), other.size()) != (parameter.kind(), parameter.size()) {
                return Err(Error::InvalidTensor {
                    operation: OPERATION,
                    detail: format!(
                        "parameter {i} is {:?} {:?}, but one of its gradient and running means \
                         is {:?} {:?}",
                        parameter.kind(),
                        parameter.size(),
                        other.kind(),
                        other.size()
                    ),
                });
            }
        }
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
        // SAFETY: five lists of `count` tensors, checked above and borrowed
        // through `lists` until the call returns.
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

/// The 2-norm of all tensors' elements together; 0 for none. They are of one
/// device and floating-point kind.
pub fn total_norm(tensors: &[Tensor]) -> Result<f64> {
    let Some(first) = tensors.first() else { return Ok(0.0) };
    let device = device_of("total_norm", first)?;
    for tensor in tensors {
        ensure_dense("total_norm", tensor, device)?;
    }
    let list = pointers(tensors);
    let mut norm = 0.0;
    checked("total_norm", |message| {
        // SAFETY: `list` points to `tensors`, which were checked.
        unsafe { sys::hearth_total_norm(list.as_ptr(), list.len(), &raw mut norm, message) }
    })?;
    Ok(norm)
}

/// Scales all gradients, in place, so that their [`total_norm`] is at most
/// `max_norm`, as `torch.nn.utils.clip_grad_norm_` does; gives the norm before.
///
/// Gradients whose norm is not finite are left as they are, for the caller to
/// skip the step.
pub fn clip_grad_norm_(gradients: &[Tensor], max_norm: f64) -> Result<f64> {
    let norm = total_norm(gradients)?;
    let factor = max_norm / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        let list = pointers(gradients);
        checked("clip_grad_norm_", |message| {
            // SAFETY: `list` points to `gradients`, which total_norm checked.
            unsafe { sys::hearth_scale(list.as_ptr(), list.len(), factor, message) }
        })?;
    }
    Ok(norm)
}

/// The CPU's vector instructions that libtorch's own kernels use: `AVX512`,
/// `AVX2` or `DEFAULT`.
pub fn cpu_capability() -> Result<String> {
    let mut name: *mut c_char = ptr::null_mut();
    checked("cpu_capability", |message| {
        // SAFETY: both out-pointers are live.
        unsafe { sys::hearth_cpu_capability(&raw mut name, message) }
    })?;
    Ok(take_text(name).unwrap_or_default())
}
