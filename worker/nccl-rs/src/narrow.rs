//! Linear layers on the CPU whose weight is held in bf16, int8 or int4, and read so: the product of a
//! few rows takes as long as reading the weight does.
//!
//! Weights of whole numbers meet activations of 16-bit whole numbers with a scale for each group of
//! columns: the product is that of floats to some `1e-5` of its largest element. Activations of bf16
//! weights are f32. A row's product does not depend on the rows beside it.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result, created};
use crate::sys;
use crate::tensor::{ensure_cpu, ensure_dense};

/// Rows of the weight that lie side by side.
const ROWS: i64 = 16;
/// Groups are multiples of so many columns, and of at most [`MOST_COLUMNS`].
const COLUMNS: i64 = 32;
/// Sums of more would not fit 32 bits.
const MOST_COLUMNS: i64 = 256;

/// Instructions that a product may use; those that the CPU lacks are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(hidden)]
pub enum Level {
    /// What every CPU has.
    Portable = 0,
    /// AVX2, FMA and F16C.
    Avx2 = 1,
    /// AVX-512 with VNNI.
    Avx512 = 2,
}

/// A linear layer that computes no gradients.
#[derive(Debug)]
pub struct Narrow {
    /// As `hearth_narrow_linear` (cpp/shim.h) wants it.
    weight: Tensor,
    scale: Option<Tensor>,
    bias: Option<Tensor>,
    outputs: i64,
    inputs: i64,
    group: i64,
}

impl Narrow {
    /// Of `weight` `[out, in]` of bf16, and `bias` `[out]` of f32.
    pub fn halves(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let [outputs, inputs] = matrix(weight, Kind::BFloat16)?;
        let rows = filled(weight, [outputs, inputs], 1);
        let tiles = rows.size()[0] / ROWS;
        let packed = rows.view([tiles, ROWS, inputs]).transpose(1, 2).contiguous();
        Self::packed(packed, None, bias, [outputs, inputs, 1])
    }

    /// Of `weight` `[out, in]` of i8, times `scale` f32 `[out]` by row, or `[out, groups]` by row and
    /// group of `in / groups` columns, a multiple of 32 and at most 256; and `bias` `[out]` of f32.
    pub fn bytes(weight: &Tensor, scale: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Self::whole(weight, scale, bias, 8)
    }

    /// As [`Self::bytes`], of numbers from -8 to 7, held in 4 bits.
    pub fn nibbles(weight: &Tensor, scale: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Self::whole(weight, scale, bias, 4)
    }

    /// Whether scales for groups of so many columns are computed.
    pub fn has_groups_of(columns: i64) -> bool {
        columns % COLUMNS == 0 && (COLUMNS..=MOST_COLUMNS).contains(&columns)
    }

    fn whole(weight: &Tensor, scale: &Tensor, bias: Option<&Tensor>, width: u8) -> Result<Self> {
        let [outputs, inputs] = matrix(weight, Kind::Int8)?;
        let by_group = scale.dim() == 2;
        ensure_cpu(OPERATION, scale, Kind::Float, &[outputs, -1][..if by_group { 2 } else { 1 }])?;
        let group = if by_group {
            let groups = scale.size()[1];
            let group = inputs / groups.max(1);
            if group * groups != inputs || !Self::has_groups_of(group) {
                return refused(format!(
                    "{groups} scales a row do not make groups of 32 to {MOST_COLUMNS} of {inputs} columns"
                ));
            }
            group
        } else {
            let parts = units(inputs, COLUMNS);
            COLUMNS * (1..=4).rev().find(|count| parts % count == 0).unwrap_or(1)
        };
        let values = filled(weight, [outputs, inputs], group);
        let (tiles, columns) = (values.size()[0] / ROWS, values.size()[1]);
        let packed = if width == 8 {
            values.view([tiles, ROWS, columns / 2, 2]).transpose(1, 2).contiguous()
        } else {
            in_halves(&values, tiles)
        };
        let scale = if by_group {
            let rows = filled(scale, [outputs, inputs / group], 1);
            let scales = rows.view([tiles, ROWS, -1]).transpose(1, 2).contiguous();
            let short = scales.to_kind(Kind::Half);
            if short.to_kind(Kind::Float).equal(&scales) { short } else { scales }
        } else {
            scale.constant_pad_nd([0, tiles * ROWS - outputs])
        };
        Self::packed(packed, Some(scale), bias, [outputs, inputs, group])
    }

    fn packed(
        weight: Tensor,
        scale: Option<Tensor>,
        bias: Option<&Tensor>,
        [outputs, inputs, group]: [i64; 3],
    ) -> Result<Self> {
        if let Some(bias) = bias {
            ensure_cpu(OPERATION, bias, Kind::Float, &[outputs])?;
        }
        let bias = bias.map(Tensor::detach);
        Ok(Self { weight, scale, bias, outputs, inputs, group })
    }

    /// `[out, in]`.
    pub fn size(&self) -> [i64; 2] {
        [self.outputs, self.inputs]
    }

    /// As C++ sees it, as long as `self` lives.
    pub(crate) fn layer(&self) -> sys::NarrowLayer {
        let pointer = |of: &Option<Tensor>| of.as_ref().map_or(std::ptr::null(), Tensor::as_ptr);
        sys::NarrowLayer {
            weight: self.weight.as_ptr(),
            scale: pointer(&self.scale),
            bias: pointer(&self.bias),
            outputs: self.outputs,
            group: self.group,
        }
    }

    /// `[.., in]` of f32 to `[.., out]` of f32.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        self.forward_at(input, Level::Avx512)
    }

    /// As [`Self::forward`], by the instructions of `level`: for tests, to have all that a machine has
    /// run on it.
    #[doc(hidden)]
    pub fn forward_at(&self, input: &Tensor, level: Level) -> Result<Tensor> {
        const OPERATION: &str = "narrow linear";
        let (outputs, inputs) = (self.outputs, self.inputs);
        ensure_dense(OPERATION, input, Device::Cpu)?;
        let mut shape = input.size();
        if input.kind() != Kind::Float || shape.last() != Some(&inputs) {
            let detail = format!("{shape:?} of {:?} is not [.., {inputs}] of f32", input.kind());
            return Err(Error::InvalidTensor { operation: OPERATION, detail });
        }
        let rows = input.view([-1, inputs]);
        let layer = self.layer();
        let raw = created(OPERATION, |out, message| {
            // SAFETY: the rows are dense f32 [M, in] on the CPU; the rest was packed by `packed`'s
            // callers.
            unsafe {
                sys::hearth_narrow_linear(
                    rows.as_ptr(),
                    &raw const layer,
                    level as i32,
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

const OPERATION: &str = "narrow weight";

fn refused<T>(detail: String) -> Result<T> {
    Err(Error::InvalidTensor { operation: OPERATION, detail })
}

/// The sizes of a matrix of `kind`.
fn matrix(weight: &Tensor, kind: Kind) -> Result<[i64; 2]> {
    ensure_dense(OPERATION, weight, Device::Cpu)?;
    match weight.size().as_slice() {
        &[outputs, inputs] if weight.kind() == kind => Ok([outputs, inputs]),
        size => refused(format!("{size:?} of {:?} is no matrix of {kind:?}", weight.kind())),
    }
}

/// Units that hold so many.
fn units(size: i64, unit: i64) -> i64 {
    (size + unit - 1) / unit
}

/// With zeros for more rows, to whole tiles, and for more columns, to whole groups.
fn filled(of: &Tensor, [rows, columns]: [i64; 2], group: i64) -> Tensor {
    let more = |size: i64, unit: i64| units(size, unit) * unit - size;
    of.constant_pad_nd([0, more(columns, group), 0, more(rows, ROWS)])
}

/// Numbers of 4 bits `[tiles * 16, K]` → u8 `[tiles, K / 8, 16, 4]`. Eight columns of a row are two
/// 16-bit numbers: the first one's bits, from the low end, are columns 0, 2, 4 and 6.
fn in_halves(values: &Tensor, tiles: i64) -> Tensor {
    let eights = (values + 16).remainder(16).to_kind(Kind::Uint8);
    // [tile, row, eight, high or low byte, nibble, which 16-bit number]
    let split = eights.view([tiles, ROWS, -1, 2, 2, 2]);
    let split = split.permute([0, 2, 1, 5, 3, 4]).contiguous();
    let bytes = split.select(5, 0).bitwise_or_tensor(&(split.select(5, 1) * 16));
    let size = bytes.size();
    bytes.view([size[0], size[1], ROWS, 4])
}
