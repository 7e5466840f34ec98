//! What tch lacks of autograd: [backward](backward()) from given gradients,
//! [activation checkpointing](checkpoints), [hooks](Hook) and
//! [mixed precision](autocast()).

mod autocast;
mod callback;
mod checkpoint;
pub(crate) mod gate;
mod hooks;
mod random;

use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::{Error, Result, checked};
use crate::sys;
use crate::tensor::pointers;

pub use autocast::autocast;
pub use checkpoint::{Checkpoints, checkpoints};
pub use hooks::{Hook, on_accumulated, on_gradient};
pub use random::RandomState;

/// Whether this thread records graphs: not within `tch::no_grad`.
pub fn is_enabled() -> bool {
    // SAFETY: it reads a flag of this thread.
    unsafe { sys::hearth_grad_enabled() }
}

/// Makes `gradient`, of the tensor's shape and kind, the `.grad` of `tensor`, or takes
/// it away. No copy: both then share memory.
pub fn set_grad(tensor: &Tensor, gradient: Option<&Tensor>) -> Result<()> {
    const OPERATION: &str = "set a gradient";
    let refuse = |detail: String| Err(Error::InvalidTensor { operation: OPERATION, detail });
    if !tensor.defined() {
        return refuse("the tensor is undefined".to_owned());
    }
    if let Some(gradient) = gradient {
        let like = |tensor: &Tensor| (tensor.size(), tensor.kind(), tensor.device());
        if !gradient.defined() || like(gradient) != like(tensor) {
            return refuse("a gradient is of its tensor's shape, kind and device".to_owned());
        }
    }
    let raw = gradient.map_or(ptr::null(), Tensor::as_ptr);
    checked(OPERATION, |message| {
        // SAFETY: the tensor is defined; the gradient is null or fits it.
        unsafe { sys::hearth_set_grad(tensor.as_ptr(), raw, message) }
    })
}

/// Runs backward from `outputs`, adding to the `.grad` of the leaves.
///
/// `gradients` holds the loss's gradient by each output, of its shape, as a later
/// stage of a pipeline sends it; `None` stands for 1 of a scalar. Without
/// `keep_graph`, the graph is freed on the way.
///
/// What fails within, a collective or a closure, gives the error that it would
/// give alone.
pub fn backward(
    outputs: &[&Tensor],
    gradients: &[Option<&Tensor>],
    keep_graph: bool,
) -> Result<()> {
    let seeds = seeds("backward", outputs, gradients)?;
    let list = pointers(outputs.iter().copied());
    let _waiting = gate::wait_in_backward();
    checked("backward", |message| {
        // SAFETY: both lists hold `list.len()` entries; libtorch checks the rest.
        unsafe {
            sys::hearth_backward(list.as_ptr(), seeds.as_ptr(), list.len(), keep_graph, message)
        }
    })
}

/// How to run [`grad`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GradOptions {
    /// Whether the graph stays for another backward.
    pub keep_graph: bool,
    /// Whether the result has a graph of its own. Then the other stays, too.
    pub create_graph: bool,
    /// Whether an input may take no part in the outputs; an error otherwise.
    pub allow_unused: bool,
}

/// The gradients of `outputs` by `inputs`, given the loss's `gradients` by the
/// outputs as for [`backward`](backward()). No `.grad` changes. An input that
/// took no part has `None`.
pub fn grad(
    outputs: &[&Tensor],
    inputs: &[&Tensor],
    gradients: &[Option<&Tensor>],
    options: GradOptions,
) -> Result<Vec<Option<Tensor>>> {
    let seeds = seeds("grad", outputs, gradients)?;
    if let Some(input) = inputs.iter().position(|input| !input.defined()) {
        return Err(Error::InvalidArgument(format!("grad: input {input} is undefined")));
    }
    let output_list = pointers(outputs.iter().copied());
    let input_list = pointers(inputs.iter().copied());
    let raw = sys::GradOptions {
        keep_graph: options.keep_graph,
        create_graph: options.create_graph,
        allow_unused: options.allow_unused,
    };
    let mut results: Vec<*mut C_tensor> = vec![ptr::null_mut(); inputs.len()];
    let _waiting = gate::wait_in_backward();
    checked("grad", |message| {
        // SAFETY: the lists hold as many entries as is said; libtorch checks the rest.
        unsafe {
            sys::hearth_grad(
                output_list.as_ptr(),
                seeds.as_ptr(),
                output_list.len(),
                input_list.as_ptr(),
                input_list.len(),
                &raw const raw,
                results.as_mut_ptr(),
                message,
            )
        }
    })?;
    let owned = results.into_iter().map(|result| {
        // SAFETY: what is not null, the shim made for this call.
        (!result.is_null()).then(|| unsafe { Tensor::from_ptr(result) })
    });
    Ok(owned.collect())
}

/// The gradients' pointers, null for `None`, after a look at their shapes.
pub(crate) fn seeds(
    operation: &'static str,
    outputs: &[&Tensor],
    gradients: &[Option<&Tensor>],
) -> Result<Vec<*const C_tensor>> {
    if outputs.len() != gradients.len() {
        return Err(Error::InvalidArgument(format!(
            "{operation}: {} outputs, but {} gradients",
            outputs.len(),
            gradients.len()
        )));
    }
    for (index, (output, gradient)) in outputs.iter().zip(gradients).enumerate() {
        let refuse = |detail: String| Err(Error::InvalidTensor { operation, detail });
        if !output.defined() {
            return refuse(format!("output {index} is undefined"));
        }
        let Some(gradient) = gradient else { continue };
        if !gradient.defined() {
            return refuse(format!("gradient {index} is undefined"));
        }
        if (gradient.size(), gradient.device()) != (output.size(), output.device()) {
            return refuse(format!(
                "output {index} is {:?} on {:?}, but its gradient {:?} on {:?}",
                output.size(),
                output.device(),
                gradient.size(),
                gradient.device()
            ));
        }
    }
    let pointer = |gradient: Option<&Tensor>| gradient.map_or(ptr::null(), Tensor::as_ptr);
    Ok(gradients.iter().copied().map(pointer).collect())
}
