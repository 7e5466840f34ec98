//! Linear layers on the CPU whose weight is held in bf16 or int8, and read so: the product of a few
//! rows takes as long as reading the weight does. Activations and sums are f32.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, created};
use crate::sys;
use crate::tensor::{ensure_cpu, ensure_dense};

/// A linear layer that computes no gradients.
#[derive(Debug)]
pub struct Narrow {
    /// `[out, in]` of bf16 or i8.
    weight: Tensor,
    scale: Option<Tensor>,
    bias: Option<Tensor>,
}

impl Narrow {
    /// Of `weight` `[out, in]` of bf16 or i8, times `scale` `[out]` of f32 by row, and `bias`
    /// `[out]` of f32. Shares them.
    pub fn new(weight: &Tensor, scale: Option<&Tensor>, bias: Option<&Tensor>) -> Result<Self> {
        const OPERATION: &str = "narrow weight";
        ensure_dense(OPERATION, weight, Device::Cpu)?;
        let (kind, size) = (weight.kind(), weight.size());
        if size.len() != 2 || !matches!(kind, Kind::BFloat16 | Kind::Int8) {
            let detail = format!("{size:?} of {kind:?} is no matrix of bf16 or i8");
            return Err(Error::InvalidTensor { operation: OPERATION, detail });
        }
        for vector in [scale, bias].into_iter().flatten() {
            ensure_cpu(OPERATION, vector, Kind::Float, &[size[0]])?;
        }
        let shared = |of: Option<&Tensor>| of.map(Tensor::detach);
        Ok(Self { weight: weight.detach(), scale: shared(scale), bias: shared(bias) })
    }

    /// `[.., in]` of f32 to `[.., out]` of f32.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.product(input, false)
    }

    /// As [`Self::forward`], by the loops that need no instructions beyond the CPU's least: for
    /// tests, to have them run on any machine.
    #[doc(hidden)]
    pub fn forward_portable(&self, input: &Tensor) -> Result<Tensor> {
        self.product(input, true)
    }

    fn product(&self, input: &Tensor, is_portable: bool) -> Result<Tensor> {
        const OPERATION: &str = "narrow linear";
        let (outputs, inputs) = (self.weight.size()[0], self.weight.size()[1]);
        ensure_dense(OPERATION, input, Device::Cpu)?;
        let mut shape = input.size();
        if input.kind() != Kind::Float || shape.last() != Some(&inputs) {
            let detail = format!("{shape:?} of {:?} is not [.., {inputs}] of f32", input.kind());
            return Err(Error::InvalidTensor { operation: OPERATION, detail });
        }
        let rows = input.view([-1, inputs]);
        let pointer = |of: &Option<Tensor>| of.as_ref().map_or(std::ptr::null(), Tensor::as_ptr);
        let raw = created(OPERATION, |out, message| {
            // SAFETY: the rows are dense f32 [M, in] on the CPU; the rest was checked in `new`.
            unsafe {
                sys::hearth_narrow_linear(
                    rows.as_ptr(),
                    self.weight.as_ptr(),
                    pointer(&self.scale),
                    pointer(&self.bias),
                    i32::from(is_portable),
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        let product = unsafe { Tensor::from_ptr(raw.as_ptr()) };
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        Ok(product.view(&shape[..]))
    }
}
