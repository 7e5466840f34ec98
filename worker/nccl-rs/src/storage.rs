//! Memory of parameters that comes and goes while autograd holds them: full
//! sharding frees a block's parameters after its forward pass, and gathers them
//! again for its backward.

use tch::Tensor;

use crate::error::{Error, Result, checked};
use crate::sys;
use crate::tensor::{device_of, ensure_dense, ensure_strided, pointers};

/// Frees the memory of `tensor` and of all that shares it: views, detached copies,
/// what graphs saved. Its shape stays. Until [`restore`], any use of its elements
/// is an error from libtorch that says so. Does nothing where it was released.
///
/// An error where the memory is not libtorch's own, as of a tensor made over a
/// slice of Rust's.
pub fn release(tensor: &Tensor) -> Result<()> {
    ensure_stored("release a storage", tensor)?;
    checked("release a storage", |message| {
        // SAFETY: the tensor has a storage.
        unsafe { sys::hearth_storage_release(tensor.as_ptr(), message) }
    })
}

/// Gives a [released](release) tensor memory again, of the old size and with any
/// contents: fill it, with [`refill`], before it is read. Does nothing where the
/// memory is there.
pub fn restore(tensor: &Tensor) -> Result<()> {
    ensure_stored("restore a storage", tensor)?;
    checked("restore a storage", |message| {
        // SAFETY: the tensor has a storage.
        unsafe { sys::hearth_storage_restore(tensor.as_ptr(), message) }
    })
}

/// Bytes of memory under `tensor`, shared ones included; 0 while it is released.
pub fn bytes(tensor: &Tensor) -> Result<usize> {
    ensure_stored("measure a storage", tensor)?;
    let mut bytes = 0;
    checked("measure a storage", |message| {
        // SAFETY: the tensor has a storage, and `bytes` is live.
        unsafe { sys::hearth_storage_bytes(tensor.as_ptr(), &raw mut bytes, message) }
    })?;
    Ok(bytes)
}

/// Copies `from[i]` into `to[i]`, of the same shape, without telling autograd:
/// graphs that saved `to[i]` take it for unchanged. So the values have to be those
/// that forward saw, as after [`restore`].
pub fn refill(to: &[Tensor], from: &[Tensor]) -> Result<()> {
    const OPERATION: &str = "refill";
    if to.len() != from.len() {
        return Err(Error::InvalidArgument(format!(
            "{OPERATION}: {} tensors into {}",
            from.len(),
            to.len()
        )));
    }
    let Some(first) = to.first() else { return Ok(()) };
    let device = device_of(OPERATION, first)?;
    for (index, (target, source)) in to.iter().zip(from).enumerate() {
        ensure_dense(OPERATION, target, device)?;
        ensure_dense(OPERATION, source, device)?;
        if target.size() != source.size() {
            let detail = format!("{index} is {:?}, from {:?}", target.size(), source.size());
            return Err(Error::InvalidTensor { operation: OPERATION, detail });
        }
    }
    let (to, from) = (pointers(to), pointers(from));
    checked(OPERATION, |message| {
        // SAFETY: two lists of as many tensors, checked above.
        unsafe { sys::hearth_refill(to.as_ptr(), from.as_ptr(), to.len(), message) }
    })
}

/// Has `tensor`, and everything that refers to it, hold the values of `with`, of any
/// shape, in the memory of `with`; the old memory goes when nothing else uses it. A
/// rank's part of a weight takes the place of the whole so. `tensor` stays the leaf
/// that it is, without its gradient.
pub fn replace(tensor: &Tensor, with: &Tensor) -> Result<()> {
    const OPERATION: &str = "replace a tensor";
    ensure_strided(OPERATION, tensor, device_of(OPERATION, tensor)?)?;
    ensure_dense(OPERATION, with, tensor.device())?;
    if !tensor.is_leaf() || with.kind() != tensor.kind() {
        let detail = format!(
            "a leaf of {:?} is wanted, not {:?} for {}",
            tensor.kind(),
            with.kind(),
            if tensor.is_leaf() { "a leaf" } else { "part of a graph" }
        );
        return Err(Error::InvalidTensor { operation: OPERATION, detail });
    }
    crate::autograd::set_grad(tensor, None)?;
    checked(OPERATION, |message| {
        // SAFETY: both are defined tensors.
        unsafe { sys::hearth_storage_replace(tensor.as_ptr(), with.as_ptr(), message) }
    })
}

fn ensure_stored(operation: &'static str, tensor: &Tensor) -> Result<()> {
    ensure_strided(operation, tensor, device_of(operation, tensor)?)
}
