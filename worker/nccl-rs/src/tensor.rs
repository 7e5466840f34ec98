//! What a tensor must be before it may cross into C++.

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use crate::error::{Error, Result};

/// The element types that the collectives take, in the order of their codes
/// (see [`crate::agreement`]).
pub(crate) const KINDS: [Kind; 8] = [
    Kind::Float,
    Kind::Double,
    Kind::Half,
    Kind::BFloat16,
    Kind::Int8,
    Kind::Uint8,
    Kind::Int,
    Kind::Int64,
];

/// Where a list's tensors have to be: where its first one is.
pub(crate) fn device_of(operation: &'static str, first: &Tensor) -> Result<Device> {
    if first.defined() {
        return Ok(first.device());
    }
    Err(Error::InvalidTensor { operation, detail: UNDEFINED.to_owned() })
}

const UNDEFINED: &str = "the tensor is undefined (a parameter that has no gradient?)";

/// `tensor` is defined, dense and on `device`.
pub(crate) fn ensure_strided(
    operation: &'static str,
    tensor: &Tensor,
    device: Device,
) -> Result<()> {
    let refuse = |detail: String| Err(Error::InvalidTensor { operation, detail });
    if !tensor.defined() {
        return refuse(UNDEFINED.to_owned());
    }
    if tensor.is_sparse() || tensor.is_mkldnn() {
        return refuse("the tensor is not dense; call to_dense() first".to_owned());
    }
    if tensor.device() != device {
        return refuse(format!("the tensor is on {:?}, not {device:?}", tensor.device()));
    }
    Ok(())
}

/// [`ensure_strided`], and contiguous: its elements are one run of memory that C++
/// may read and write.
pub(crate) fn ensure_dense(operation: &'static str, tensor: &Tensor, device: Device) -> Result<()> {
    ensure_strided(operation, tensor, device)?;
    if tensor.is_contiguous() {
        return Ok(());
    }
    let detail = format!(
        "the tensor of shape {:?} is not contiguous; call contiguous() first",
        tensor.size()
    );
    Err(Error::InvalidTensor { operation, detail })
}

/// [`ensure_dense`], and of an element type that can be sent.
pub(crate) fn ensure_sendable(
    operation: &'static str,
    tensor: &Tensor,
    device: Device,
) -> Result<()> {
    ensure_dense(operation, tensor, device)?;
    if KINDS.contains(&tensor.kind()) {
        return Ok(());
    }
    let detail = format!("elements of type {:?} cannot be sent", tensor.kind());
    Err(Error::InvalidTensor { operation, detail })
}

/// `tensor` is dense on the CPU, of type `kind` and shape `shape`, where -1
/// stands for any size.
pub(crate) fn ensure_cpu(
    operation: &'static str,
    tensor: &Tensor,
    kind: Kind,
    shape: &[i64],
) -> Result<()> {
    ensure_dense(operation, tensor, Device::Cpu)?;
    let size = tensor.size();
    let fits = size.len() == shape.len()
        && size.iter().zip(shape).all(|(have, want)| *want == -1 || have == want);
    if tensor.kind() == kind && fits {
        return Ok(());
    }
    let detail = format!("expected {kind:?} {shape:?}, got {:?} {size:?}", tensor.kind());
    Err(Error::InvalidTensor { operation, detail })
}

/// The tensors' pointers, for the shim's list arguments. They are good while
/// `tensors` is borrowed.
pub(crate) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(Tensor::as_ptr).collect()
}
