//! Operators over lists of tensors, which tch leaves out.

mod adamw;
mod sgd;

use std::ffi::c_char;
use std::ptr;

use tch::Tensor;

use crate::error::{Error, Result, checked, take_text};
use crate::sys;
use crate::tensor::{device_of, ensure_dense, pointers};

pub use adamw::{AdamW, AdamWLists, fused_adamw_};
pub use sgd::{Sgd, SgdLists, fused_sgd_};

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
    clip_by_norm_(gradients, norm, max_norm)?;
    Ok(norm)
}

/// [`clip_grad_norm_`] of gradients that are parts of those whose norm is `norm`.
pub fn clip_by_norm_(gradients: &[Tensor], norm: f64, max_norm: f64) -> Result<()> {
    let factor = max_norm / (norm + 1e-6);
    let Some(first) = gradients.first().filter(|_| norm.is_finite() && factor < 1.0) else {
        return Ok(());
    };
    let device = device_of("clip_by_norm_", first)?;
    for tensor in gradients {
        ensure_dense("clip_by_norm_", tensor, device)?;
    }
    let list = pointers(gradients);
    checked("clip_by_norm_", |message| {
        // SAFETY: `list` points to `gradients`, which were checked.
        unsafe { sys::hearth_scale(list.as_ptr(), list.len(), factor, message) }
    })
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

/// From now on only deterministic kernels, for this whole process: an operation that has none
/// fails (`torch.use_deterministic_algorithms`). cuBLAS wants `CUBLAS_WORKSPACE_CONFIG=:4096:8`
/// in the environment besides, before its first use.
pub fn use_deterministic_algorithms() -> Result<()> {
    checked("use_deterministic_algorithms", |message| {
        // SAFETY: it takes nothing and sets flags of libtorch's context.
        unsafe { sys::hearth_use_deterministic_algorithms(message) }
    })
}

/// Sets all elements of all tensors to 0, in place and without autograd. They are of
/// one device; undefined ones, of parameters without a gradient, are passed over.
pub fn zero_(tensors: &[Tensor]) -> Result<()> {
    let defined = || tensors.iter().filter(|tensor| tensor.defined());
    let Some(first) = defined().next() else { return Ok(()) };
    for tensor in defined() {
        ensure_dense("zero_", tensor, first.device())?;
    }
    let list = pointers(defined());
    checked("zero_", |message| {
        // SAFETY: `list` points to `tensors`, which were checked.
        unsafe { sys::hearth_zero(list.as_ptr(), list.len(), message) }
    })
}

fn ensure_lengths(operation: &str, count: usize, lists: &[&[Tensor]]) -> Result<()> {
    match lists.iter().find(|list| list.len() != count) {
        None => Ok(()),
        Some(list) => Err(Error::InvalidArgument(format!(
            "{operation}: lists of {count} and of {} tensors",
            list.len()
        ))),
    }
}
