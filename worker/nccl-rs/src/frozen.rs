//! Linear layers whose weight is frozen and held in 8 or 4 bits (QLoRA, Dettmers et al.
//! 2023). The weight is dequantized for a product and let go, in forward and again in
//! backward; nothing of its size is kept for backward.

use std::ptr;

use tch::{Kind, Tensor, no_grad};

use crate::error::{Error, Result, created};
use crate::sys;
use crate::tensor::{device_of, ensure_cpu, ensure_strided};

/// In how many bits a weight is held. Both are symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Values of -127 to 127 with a scale for each row.
    Eight,
    /// Values of -7 to 7 with a scale for each group of 128 columns; of 64 or 32 where the
    /// row is no multiple of 128.
    Four,
}

/// A quantized weight.
#[derive(Debug)]
pub struct Frozen {
    /// i8 `[N, K]`, or u8 `[N, G, g / 2]`: two values plus 8 in a byte, the first in the low half.
    pub values: Tensor,
    /// f32 `[N, 1]`, or `[N, G, 1]`.
    pub scales: Tensor,
    columns: i64,
}

impl Frozen {
    /// Quantizes a weight `[N, K]` of a float kind, rounding to the nearest.
    pub fn quantize(weight: &Tensor, bits: Bits) -> Result<Self> {
        const OPERATION: &str = "quantize a frozen weight";
        ensure_strided(OPERATION, weight, device_of(OPERATION, weight)?)?;
        let &[rows, columns] = weight.size().as_slice() else {
            let detail = format!("a weight [N, K] is wanted, not {:?}", weight.size());
            return Err(Error::InvalidTensor { operation: OPERATION, detail });
        };
        no_grad(|| {
            let weight = weight.detach().to_kind(Kind::Float);
            let (values, scales) = match bits {
                Bits::Eight => {
                    let (values, scales) = rounded(&weight, 127.0);
                    (values.to_kind(Kind::Int8), scales)
                }
                Bits::Four => {
                    let group = group(columns);
                    let groups = (columns + group - 1) / group;
                    let filled = weight.constant_pad_nd([0, groups * group - columns]);
                    let (values, scales) = rounded(&filled.view([rows, groups, group]), 7.0);
                    (in_bytes(&values), scales)
                }
            };
            Ok(Self { values, scales, columns })
        })
    }

    /// From values i8 `[N, K]` and scales f32 `[N, G]`, one for each `K / G` columns; where
    /// `in_halves`, the values are of -8 to 7 and two are held in a byte.
    pub fn of_parts(values: &Tensor, scales: &Tensor, in_halves: bool) -> Result<Self> {
        const OPERATION: &str = "hold a quantized weight";
        ensure_cpu(OPERATION, values, Kind::Int8, &[-1, -1])?;
        let (rows, columns) = (values.size()[0], values.size()[1]);
        ensure_cpu(OPERATION, scales, Kind::Float, &[rows, -1])?;
        let groups = scales.size()[1];
        let fits = groups > 0 && columns % groups == 0;
        let is_held = if in_halves { columns / groups.max(1) % 2 == 0 } else { groups == 1 };
        if !(fits && is_held) {
            let detail = format!("{groups} scales a row do not fit {columns} columns");
            return Err(Error::InvalidTensor { operation: OPERATION, detail });
        }
        no_grad(|| {
            if !in_halves {
                let (values, scales) = (values.copy(), scales.copy());
                return Ok(Self { values, scales, columns });
            }
            let values = in_bytes(&values.view([rows, groups, -1]));
            Ok(Self { values, scales: scales.view([rows, groups, 1]).copy(), columns })
        })
    }

    /// `x [.., K]` → `[.., N]`, with the gradient by `x`. `bias` `[N]` gets none.
    pub fn linear(&self, input: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        const OPERATION: &str = "frozen linear";
        let device = self.values.device();
        ensure_strided(OPERATION, input, device)?;
        let refuse = |detail: String| Err(Error::InvalidTensor { operation: OPERATION, detail });
        if input.size().last() != Some(&self.columns) {
            return refuse(format!(
                "the last dimension of {:?} is not the layer's {}",
                input.size(),
                self.columns
            ));
        }
        if let Some(bias) = bias {
            ensure_strided(OPERATION, bias, device)?;
            if bias.size() != [self.values.size()[0]] {
                return refuse(format!("a bias of {:?} does not fit", bias.size()));
            }
        }
        let raw = created(OPERATION, |out, message| {
            // SAFETY: values and scales were made together by `quantize`; the input's and
            // the bias's sizes and devices fit them.
            unsafe {
                sys::hearth_frozen_linear(
                    input.as_ptr(),
                    self.values.as_ptr(),
                    self.scales.as_ptr(),
                    bias.map_or(ptr::null(), Tensor::as_ptr),
                    self.columns,
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
    }

    /// What the values stand for, f32 `[N, K]`.
    pub fn dequantize(&self) -> Result<Tensor> {
        let raw = created("dequantize", |out, message| {
            // SAFETY: values and scales were made together by `quantize`.
            unsafe {
                sys::hearth_dequantize(
                    self.values.as_ptr(),
                    self.scales.as_ptr(),
                    self.columns,
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(raw.as_ptr()) })
    }

    /// The same on another device.
    #[must_use]
    pub fn to_device(&self, device: tch::Device) -> Self {
        Self {
            values: self.values.to_device(device),
            scales: self.scales.to_device(device),
            columns: self.columns,
        }
    }
}

/// Whole numbers of -8 to 7 `[N, G, g]` → u8 `[N, G, g / 2]`, as [`Frozen::values`] holds them.
fn in_bytes(values: &Tensor) -> Tensor {
    let size = values.size();
    let pairs = (values + 8).to_kind(Kind::Uint8).view([size[0], size[1], -1, 2]);
    pairs.select(3, 0).bitwise_or_tensor(&(pairs.select(3, 1) * 16))
}

/// Columns that share a scale.
fn group(columns: i64) -> i64 {
    [128, 64].into_iter().find(|size| columns % size == 0).unwrap_or(32)
}

/// Whole numbers from `-limit` to `limit` in f32 and the scales `[.., 1]` by which the last
/// dimension was divided. A row of zeros has any scale.
fn rounded(weight: &Tensor, limit: f64) -> (Tensor, Tensor) {
    let scales = weight.abs().amax([-1i64], true) / limit;
    let divisor = scales.where_scalarother(&scales.gt(0.0), 1.0);
    ((weight / divisor).round().clamp(-limit, limit), scales)
}
