//! Linear layers on the CPU with int8 weights, through oneDNN.
//!
//! A weight row has one scale, fixed when the model is quantized; an activation
//! row has one that is computed as it comes. The product of the integers is
//! exact, so the error is that of rounding alone: about 1% of the output's size
//! with 8-bit activations and 2% with 7-bit ones, on normally distributed data
//! (tests/ops.rs).

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor, no_grad};

use crate::error::{Error, Result, checked, created};
use crate::sys;
use crate::tensor::{ensure_cpu, ensure_dense};

/// How many bits of an activation's u8 are used.
///
/// Without VNNI, x86 multiplies u8 by i8 in pairs and saturates each pair's sum
/// at 16 bits: 255 * 127 * 2 does not fit, 127 * 127 * 2 does. So there the
/// eighth bit costs more than it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationBits {
    /// Values of -63 to 63, stored from 1 to 127.
    Seven,
    /// Values of -127 to 127, stored from 1 to 255.
    Eight,
}

impl ActivationBits {
    /// The largest magnitude of a quantized activation.
    pub fn limit(self) -> i32 {
        match self {
            Self::Seven => 63,
            Self::Eight => 127,
        }
    }

    /// What stands for 0 in the stored u8.
    pub fn zero_point(self) -> i64 {
        i64::from(self.limit()) + 1
    }
}

/// How many bits oneDNN multiplies exactly in this process. Found by letting it
/// multiply the largest values there are, since the answer depends on the CPU and
/// on the environment's `ONEDNN_MAX_CPU_ISA`; the first call takes milliseconds.
pub fn activation_bits() -> Result<ActivationBits> {
    static FOUND: OnceLock<Result<ActivationBits>> = OnceLock::new();
    FOUND.get_or_init(probe).clone()
}

fn probe() -> Result<ActivationBits> {
    for bits in [ActivationBits::Eight, ActivationBits::Seven] {
        if multiplies_exactly(bits)? {
            return Ok(bits);
        }
    }
    Err(Error::Torch {
        operation: "probe oneDNN's int8 product".to_owned(),
        detail: "even products of 7-bit values are wrong on this machine".to_owned(),
    })
}

/// Whether the largest activations times the largest weights give the exact sum,
/// for one row and for many (for which oneDNN has different kernels).
fn multiplies_exactly(bits: ActivationBits) -> Result<bool> {
    const IN: i64 = 64;
    const OUT: i64 = 32;
    let weight = Tensor::full([OUT, IN], 127, (Kind::Int8, Device::Cpu));
    let layer = QLinear::with_bits(&weight, &ones(OUT), None, bits)?;
    let exact = f64::from(bits.limit()) * 127.0 * IN as f64;
    for rows in [1, 32] {
        let stored = i64::from(bits.limit()) + bits.zero_point();
        let values = Tensor::full([rows, IN], stored, (Kind::Uint8, Device::Cpu));
        let product = layer.multiply(&values)?;
        let (least, greatest) = (product.min().double_value(&[]), product.max().double_value(&[]));
        // Both are integers below 2^24, so f32 holds them exactly.
        if (least - exact).abs() > 0.5 || (greatest - exact).abs() > 0.5 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Quantizes a weight `[out, in]` of f32 to i8 and its scales `[out]`, symmetric
/// and by row: `weight ~ scale * values`, with values of -127 to 127.
pub fn quantize_weight(weight: &Tensor) -> Result<(Tensor, Tensor)> {
    ensure_cpu("quantize_weight", weight, Kind::Float, &[-1, -1])?;
    no_grad(|| {
        let scale = weight.abs().amax([1i64], true) / 127.0;
        // A row of zeros has no scale; any gives its zeros back.
        let divisor = scale.where_scalarother(&scale.gt(0.0), 1.0);
        let values = (weight / divisor).round().clamp(-127.0, 127.0).to_kind(Kind::Int8);
        Ok((values, scale.squeeze_dim(1)))
    })
}

/// Activations with 8 or fewer bits and a scale a row.
#[derive(Debug)]
pub struct QuantizedRows {
    /// `[rows, columns]` of u8.
    pub values: Tensor,
    /// `[rows]` of f32: a row is about `scale * (values - zero_point)`.
    pub scales: Tensor,
    /// What stands for 0 in `values`.
    pub zero_point: i64,
}

/// Quantizes activations `[rows, columns]` of f32, each row by its own largest
/// magnitude. A row with a NaN or an infinity gets it as its scale, so that it is
/// not lost.
pub fn quantize_rows(rows: &Tensor, bits: ActivationBits) -> Result<QuantizedRows> {
    ensure_cpu("quantize_rows", rows, Kind::Float, &[-1, -1])?;
    let size = rows.size();
    let values = Tensor::empty(&size, (Kind::Uint8, Device::Cpu));
    let scales = Tensor::empty([size[0]], (Kind::Float, Device::Cpu));
    checked("quantize_rows", |message| {
        // SAFETY: all three are dense on the CPU, of the kinds and sizes that
        // shim.h asks for.
        unsafe {
            sys::hearth_quantize_rows(
                rows.as_ptr(),
                bits.limit(),
                values.as_ptr(),
                scales.as_ptr(),
                message,
            )
        }
    })?;
    Ok(QuantizedRows { values, scales, zero_point: bits.zero_point() })
}

/// A linear layer with int8 weights, packed for this CPU.
#[derive(Debug)]
pub struct QLinear {
    /// In oneDNN's own layout: good for nothing but its product.
    packed: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bias: Option<Tensor>,
    in_features: i64,
    out_features: i64,
    bits: ActivationBits,
}

impl QLinear {
    /// Packs `weight` `[out, in]` of i8 with its `scale` `[out]` and `bias`
    /// `[out]` of f32.
    pub fn new(weight: &Tensor, scale: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Self::with_bits(weight, scale, bias, activation_bits()?)
    }

    fn with_bits(
        weight: &Tensor,
        scale: &Tensor,
        bias: Option<&Tensor>,
        activation: ActivationBits,
    ) -> Result<Self> {
        ensure_cpu("pack int8 weight", weight, Kind::Int8, &[-1, -1])?;
        let (out_features, in_features) = (weight.size()[0], weight.size()[1]);
        ensure_cpu("scale of int8 weight", scale, Kind::Float, &[out_features])?;
        if let Some(bias) = bias {
            ensure_cpu("bias of int8 weight", bias, Kind::Float, &[out_features])?;
        }
        let packed = created("pack int8 weight", |out, message| {
            // SAFETY: the weight is dense i8 [out, in] on the CPU.
            unsafe { sys::hearth_qlinear_prepack(weight.as_ptr(), out, message) }
        })?;
        Ok(Self {
            // SAFETY: the shim gave a tensor of its own making.
            packed: unsafe { Tensor::from_ptr(packed.as_ptr()) },
            scale: scale.detach().copy(),
            zero_point: Tensor::zeros([out_features], (Kind::Int, Device::Cpu)),
            bias: bias.map(|bias| bias.detach().copy()),
            in_features,
            out_features,
            bits: activation,
        })
    }

    /// `[.., in]` of f32 to `[.., out]` of f32, without autograd.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        ensure_dense("int8 linear", input, Device::Cpu)?;
        let mut shape = input.size();
        match shape.last_mut() {
            Some(last) if *last == self.in_features => *last = self.out_features,
            _ => {
                return Err(Error::InvalidTensor {
                    operation: "int8 linear",
                    detail: format!(
                        "the last dimension of {shape:?} is not the layer's {}",
                        self.in_features
                    ),
                });
            }
        }
        no_grad(|| {
            let rows = quantize_rows(&input.reshape([-1, self.in_features]), self.bits)?;
            let output = self.multiply(&rows.values)?;
            let bias = self.bias.as_ref().map_or(std::ptr::null(), Tensor::as_ptr);
            checked("int8 linear", |message| {
                // SAFETY: `output` is dense f32 [rows, out], the scales [rows],
                // and the bias null or [out].
                unsafe {
                    sys::hearth_scale_rows(output.as_ptr(), rows.scales.as_ptr(), bias, message)
                }
            })?;
            Ok(output.reshape(shape))
        })
    }

    /// `[rows, in]` of u8 to `[rows, out]` of f32: the product of the integers,
    /// less the zero point, times the weight's scales.
    fn multiply(&self, values: &Tensor) -> Result<Tensor> {
        let product = created("int8 linear", |out, message| {
            // SAFETY: `values` is dense u8 [rows, in]; the rest was made and
            // checked together in `with_bits`.
            unsafe {
                sys::hearth_qlinear(
                    values.as_ptr(),
                    self.bits.zero_point(),
                    self.packed.as_ptr(),
                    self.scale.as_ptr(),
                    self.zero_point.as_ptr(),
                    out,
                    message,
                )
            }
        })?;
        // SAFETY: the shim gave a tensor of its own making.
        Ok(unsafe { Tensor::from_ptr(product.as_ptr()) })
    }
}

fn ones(length: i64) -> Tensor {
    Tensor::ones([length], (Kind::Float, Device::Cpu))
}
