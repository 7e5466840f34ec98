//! What tch lacks of autograd: [backward](backward()) from given gradients,
//! [random generators' state](RandomState) and [mixed precision](autocast()).

mod autocast;
mod random;

use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use crate::error::{Error, Result, checked};
use crate::sys;
use crate::tensor::pointers;

pub use autocast::autocast;
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
/// A collective that fails within gives the error that it would give alone.
pub fn backward(
    outputs: &[&Tensor],
    gradients: &[Option<&Tensor>],
    keep_graph: bool,
) -> Result<()> {
    let seeds = seeds("backward", outputs, gradients)?;
    let list = pointers(outputs.iter().copied());
    checked("backward", |message| {
        // SAFETY: both lists hold `list.len()` entries; libtorch checks the rest.
        unsafe {
            sys::hearth_backward(list.as_ptr(), seeds.as_ptr(), list.len(), keep_graph, message)
        }
    })
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
