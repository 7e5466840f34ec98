//! Parts of a network in one pass over memory, with gradients, on the CPU: what
//! libtorch composes of operators that each read and write everything.
//!
//! They compute in f32, whatever the kind, and round once. The result does not
//! depend on the number of threads.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, created};
use crate::sys;
use crate::tensor::{ensure_cpu, ensure_dense, ensure_strided};

/// Root-mean-square norm (Zhang and Sennrich 2019) over the last dimension:
/// `x / sqrt(mean(x^2) + eps) * weight`, of contiguous `x` `[.., D]` and `weight`
/// `[D]`, both f32 or both bf16. Its backward takes about a tenth of the time of
/// `Tensor::rms_norm`'s.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    const OPERATION: &str = "rms_norm";
    ensure_dense(OPERATION, x, Device::Cpu)?;
    ensure_fusible(OPERATION, x)?;
    let shape = x.size();
    let fits = shape.last().is_some_and(|width| *width > 0 && weight.size() == [*width]);
    if !weight.defined() || !fits {
        let detail = format!("a weight for the last dimension of {shape:?} is wanted");
        return Err(Error::InvalidTensor { operation: OPERATION, detail });
    }
    ensure_cpu(OPERATION, weight, x.kind(), &[-1])?;
    let raw = created(OPERATION, |out, message| {
        // SAFETY: both are dense, of one fusible kind, and of one width.
        unsafe { sys::hearth_rms_norm(x.as_ptr(), weight.as_ptr(), eps, out, message) }
    })?;
    // SAFETY: the shim gave a tensor of its own making.
    Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
}

/// Rotary embedding (Su et al. 2021) of heads `x` `[B, H, T, D]`, f32 or bf16:
/// element `i` turns with element `i + D / 2` by the angle of its position, given
/// as contiguous f32 `cos` and `sin` `[T, D / 2]`, which get no gradient. `x` may be
/// transposed as long as a head's elements are together.
pub fn rotary(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    const OPERATION: &str = "rotary";
    ensure_strided(OPERATION, x, Device::Cpu)?;
    ensure_fusible(OPERATION, x)?;
    let shape = x.size();
    let &[_, _, tokens, width] = shape.as_slice() else {
        let detail = format!("heads [B, H, T, D] are wanted, not {shape:?}");
        return Err(Error::InvalidTensor { operation: OPERATION, detail });
    };
    if width % 2 != 0 || x.stride()[3] != 1 {
        let detail = format!("heads of {width} elements, {} apart, do not turn", x.stride()[3]);
        return Err(Error::InvalidTensor { operation: OPERATION, detail });
    }
    for table in [cos, sin] {
        ensure_cpu(OPERATION, table, Kind::Float, &[tokens, width / 2])?;
    }
    let raw = created(OPERATION, |out, message| {
        // SAFETY: the heads' elements are together, and the tables fit them.
        unsafe { sys::hearth_rope(x.as_ptr(), cos.as_ptr(), sin.as_ptr(), out, message) }
    })?;
    // SAFETY: the shim gave a tensor of its own making.
    Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
}

/// Dropout (Srivastava et al. 2014) of `x`, f32 or bf16: an element is 0 with
/// `probability`, rounded to a 65536th, else divided by the share that stays. Numbers are
/// those of [Philox](philox), by the element's place, under a key that is drawn from the
/// CPU's default generator; backward draws them again, so that nothing is kept but the key.
/// The same after the same seed, whatever the number of threads.
pub fn dropout(x: &Tensor, probability: f64) -> Result<Tensor> {
    const OPERATION: &str = "dropout";
    ensure_strided(OPERATION, x, Device::Cpu)?;
    ensure_fusible(OPERATION, x)?;
    if !(0.0..1.0).contains(&probability) {
        let detail = format!("a probability of {probability} is not from 0 to below 1");
        return Err(Error::InvalidArgument(detail));
    }
    let raw = created(OPERATION, |out, message| {
        // SAFETY: the tensor is strided, on the CPU and of a fusible kind.
        unsafe { sys::hearth_dropout(x.as_ptr(), probability, out, message) }
    })?;
    // SAFETY: the shim gave a tensor of its own making.
    Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
}

/// The four numbers that Philox 4x32-10 (Salmon et al. 2011) has for a counter.
pub fn philox(counter: u64, key: u64) -> [u32; 4] {
    let mut numbers = [0; 4];
    // SAFETY: four numbers are written.
    unsafe { sys::hearth_philox(counter, key, numbers.as_mut_ptr()) };
    numbers
}

fn ensure_fusible(operation: &'static str, tensor: &Tensor) -> Result<()> {
    if [Kind::Float, Kind::BFloat16].contains(&tensor.kind()) {
        return Ok(());
    }
    let detail = format!("it works on Float and BFloat16, not on {:?}", tensor.kind());
    Err(Error::InvalidTensor { operation, detail })
}
