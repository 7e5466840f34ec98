//! A weight → the tensors that store it, and back.
//!
//! Names and layouts are compressed-tensors' (`compressors/quantized_compressors` of its 0.20).

use nccl_rs::qlinear::quantize_weight;
use tch::{Kind, Tensor};

use super::scheme::{FLOAT8_MAX, Scheme};
use crate::model::ModelError;

/// Bits of a packed word.
const WORD: u32 = 32;
/// Shares of the largest magnitude that a scale is tried for. Below 1 the largest values are cut
/// and all others are finer.
const SHRINK: [f64; 12] = [1.0, 0.975, 0.95, 0.925, 0.9, 0.875, 0.85, 0.825, 0.8, 0.75, 0.7, 0.65];

/// Whole numbers of a weight and their scales: about `values * scales`.
#[derive(Debug)]
pub struct Rounded {
    /// f32 `[N, K]`, whole numbers.
    pub values: Tensor,
    /// f32 `[N, K / group]`, or `[N, 1]`.
    pub scales: Tensor,
}

impl Rounded {
    /// What the numbers stand for, f32 `[N, K]`.
    pub fn dequantize(&self) -> Result<Tensor, ModelError> {
        Ok(self.values.f_mul(&spread(&self.scales, self.values.size()[1])?)?)
    }
}

/// The tensors of a weight f32 `[N, K]`, by what follows the layer's name, each number rounded to
/// the nearest.
pub fn store(weight: &Tensor, scheme: Scheme) -> Result<Vec<(&'static str, Tensor)>, ModelError> {
    match scheme {
        Scheme::Int8 => {
            let (values, scale) = quantize_weight(weight)?;
            Ok(vec![("weight", values), ("weight_scale", scale.f_unsqueeze(1)?)])
        }
        Scheme::Packed { bits, group } => pack_all(&round(weight, bits, group)?, bits),
        Scheme::Float8 => {
            let scale = weight.f_abs()?.f_amax([-1i64], true)?.f_div_scalar(FLOAT8_MAX)?;
            let values = weight.f_div(&divisor(&scale)?)?.f_clamp(-FLOAT8_MAX, FLOAT8_MAX)?;
            Ok(vec![("weight", values.f_to_kind(Kind::Float8e4m3fn)?), ("weight_scale", scale)])
        }
    }
}

/// The tensors of a weight that was rounded.
pub fn pack_all(rounded: &Rounded, bits: u32) -> Result<Vec<(&'static str, Tensor)>, ModelError> {
    let shape = Tensor::f_from_slice(&rounded.values.size())?;
    Ok(vec![
        ("weight_packed", pack(&rounded.values, bits)?),
        ("weight_scale", rounded.scales.shallow_clone()),
        ("weight_shape", shape),
    ])
}

/// Rounds to whole numbers of `bits`, with scales of least squared error out of a few.
pub fn round(weight: &Tensor, bits: u32, group: Option<i64>) -> Result<Rounded, ModelError> {
    let scales = scales(weight, bits, group, None)?;
    let spread = spread(&scales, weight.size()[1])?;
    let values = nearest(&weight.f_div(&divisor(&spread)?)?, bits)?;
    Ok(Rounded { values, scales })
}

/// Scales f32 `[N, K / group]` of a weight `[N, K]`: those of least squared error out of a few,
/// each column's error counted by its `importance` f32 `[K]`, where that is known.
pub fn scales(
    weight: &Tensor,
    bits: u32,
    group: Option<i64>,
    importance: Option<&Tensor>,
) -> Result<Tensor, ModelError> {
    let &[rows, columns] = weight.size().as_slice() else {
        return Err(ModelError::Pass("a weight has two dimensions"));
    };
    let size = group.unwrap_or(columns);
    let groups = weight.f_view([rows, -1, size])?;
    let importance = importance.map(|each| each.f_view([1, -1, size])).transpose()?;
    let mut best: Option<(Tensor, Tensor)> = None;
    for scale in candidates(&groups, bits)? {
        let divisor = divisor(&scale)?;
        let back = nearest(&groups.f_div(&divisor)?, bits)?.f_mul(&divisor)?;
        let mut error = back.f_sub(&groups)?.f_square()?;
        if let Some(importance) = &importance {
            error = error.f_mul(importance)?;
        }
        let error = error.f_sum_dim_intlist(&[-1i64][..], true, Kind::Float)?;
        best = Some(match best {
            None => (scale, error),
            Some((kept, least)) => {
                let better = error.f_less_tensor(&least)?;
                (scale.f_where_self(&better, &kept)?, error.f_minimum(&least)?)
            }
        });
    }
    let (scale, _) = best.ok_or(ModelError::Pass("no scale was tried"))?;
    Ok(scale.f_squeeze_dim(-1)?)
}

/// Scales to try for groups `[N, G, size]`. Of few bits, also such whose sign lets the value
/// farthest from 0 be the lowest number, as negative ones reach further by one; a scale is
/// negative then wherever that value is positive.
fn candidates(groups: &Tensor, bits: u32) -> Result<Vec<Tensor>, ModelError> {
    let half = f64::from(1u32 << (bits - 1));
    let (highest, lowest) = (groups.f_amax([-1i64], true)?, groups.f_amin([-1i64], true)?);
    let farthest = highest.f_maximum(&lowest.f_neg()?)?;
    // Half a step more than the positive numbers reach.
    let full = farthest.f_div_scalar(half - 0.5)?;
    if bits >= 8 {
        // There is nothing to gain: a step is a two hundredth of the largest value.
        return Ok(vec![full]);
    }
    let is_positive = highest.f_gt_tensor(&lowest.f_neg()?)?;
    let signed = farthest.f_div_scalar(half)?;
    let signed = signed.f_neg()?.f_where_self(&is_positive, &signed)?;
    let mut tried = Vec::new();
    for share in SHRINK {
        tried.push(full.f_mul_scalar(share)?);
        tried.push(signed.f_mul_scalar(share)?);
    }
    Ok(tried)
}

/// Scales `[N, G]` for each of `columns`: `[N, K]`.
pub fn spread(scales: &Tensor, columns: i64) -> Result<Tensor, ModelError> {
    Ok(scales.f_repeat_interleave_self_int(columns / scales.size()[1], 1, None)?)
}

/// The nearest whole numbers of `bits`.
pub fn nearest(values: &Tensor, bits: u32) -> Result<Tensor, ModelError> {
    let half = f64::from(1u32 << (bits - 1));
    Ok(values.f_round()?.f_clamp(-half, half - 1.0)?)
}

/// Scales to divide by: a row of zeros has none, and any gives its zeros back.
pub fn divisor(scale: &Tensor) -> Result<Tensor, ModelError> {
    Ok(scale.f_where_scalarother(&scale.f_ne(0.0)?, 1.0)?)
}

/// Whole numbers `[N, K]` → i32 `[N, ceil(K * bits / 32)]`: each plus half the range, the first in
/// the lowest bits.
pub fn pack(values: &Tensor, bits: u32) -> Result<Tensor, ModelError> {
    let (each, half) = (i64::from(WORD / bits), i64::from(1u32 << (bits - 1)));
    let (rows, columns) = (values.size()[0], values.size()[1]);
    let words = (columns + each - 1) / each;
    let shifted = values.f_to_kind(Kind::Int64)?.f_add_scalar(half)?;
    let filled = shifted.f_constant_pad_nd([0, words * each - columns])?;
    let powers: Vec<i64> = (0..each).map(|place| 1 << (place * i64::from(bits))).collect();
    let placed = filled.f_view([rows, words, each])?.f_mul(&Tensor::f_from_slice(&powers)?)?;
    let sums = placed.f_sum_dim_intlist(&[-1i64][..], false, Kind::Int64)?;
    // What does not fit i32 as a positive number is the same bits as a negative one.
    let wrapped =
        sums.f_sub(&sums.f_ge(1i64 << 31)?.f_to_kind(Kind::Int64)?.f_mul_scalar(1i64 << 32)?)?;
    Ok(wrapped.f_to_kind(Kind::Int)?)
}

/// The way back, of 8 or 4 bits: i8 `[N, columns]`. A word's bytes lie in memory lowest first, as its
/// values do.
pub fn unpack(words: &Tensor, bits: u32, columns: i64) -> Result<Tensor, ModelError> {
    const { assert!(cfg!(target_endian = "little"), "packed words are read as bytes") };
    let bytes = words.f_contiguous()?.f_view_dtype(Kind::Uint8)?;
    let values = if bits == 8 {
        bytes.f_sub_scalar(128)?.f_view_dtype(Kind::Int8)?
    } else {
        let halves = [bytes.f_bitwise_and(15)?, bytes.f_bitwise_right_shift_tensor_scalar(4)?];
        let values = Tensor::f_stack(&halves, -1)?.f_view([words.size()[0], -1])?;
        values.f_to_kind(Kind::Int8)?.f_sub_scalar(8)?
    };
    Ok(values.f_narrow(1, 0, columns)?.f_contiguous()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_numbers_lie_as_compressed_tensors_puts_them() {
        // 8 of 4 bits, the first lowest: -8 is 0, 7 is 15.
        let values = Tensor::from_slice(&[-8i64, 7, 0, 1, -1, 2, -2, 7]).view([1, 8]);
        let words = pack(&values.to_kind(Kind::Float), 4).unwrap();
        // 0xF6A7_98F0 as the i32 that it is.
        assert_eq!(words.int64_value(&[0, 0]), 0xF6A7_98F0 - (1 << 32));
        let back = unpack(&words, 4, 8).unwrap();
        assert_eq!(back.kind(), Kind::Int8);
        assert!(back.to_kind(Kind::Int64).equal(&values));
    }

    #[test]
    fn any_number_of_columns_comes_back() {
        for (bits, columns) in [(8, 5), (4, 9), (8, 64), (4, 64)] {
            let half = 1i64 << (bits - 1);
            let values =
                Tensor::randint_low(-half, half, [3, columns], (Kind::Int64, tch::Device::Cpu));
            let words = pack(&values, bits).unwrap();
            assert_eq!(words.size()[1], (columns * i64::from(bits) + 31) / 32);
            assert!(unpack(&words, bits, columns).unwrap().to_kind(Kind::Int64).equal(&values));
        }
    }

    #[test]
    fn no_value_is_off_by_more_than_half_a_step_and_smaller_scales_lose_less() {
        tch::manual_seed(3);
        let weight = Tensor::randn([16, 64], (Kind::Float, tch::Device::Cpu));
        for (bits, group) in [(8, None), (4, Some(32))] {
            let Rounded { values, scales } = round(&weight, bits, group).unwrap();
            let scale = spread(&scales, 64).unwrap();
            let error = (&values * &scale - &weight).square().mean(Kind::Float);
            let full = weight.view([16, -1, group.unwrap_or(64)]).abs().amax([-1i64], false)
                / (f64::from(1u32 << (bits - 1)) - 0.5);
            let plain_scale = spread(&full, 64).unwrap();
            let plain = nearest(&(&weight / &plain_scale), bits).unwrap() * &plain_scale;
            let plain_error = (plain - &weight).square().mean(Kind::Float);
            let (error, plain_error) = (error.double_value(&[]), plain_error.double_value(&[]));
            assert!(error <= plain_error, "{bits} bits: {error} {plain_error}");
        }
        // The value that is farthest from 0 is the lowest number, whatever its sign.
        for sign in [1.0, -1.0] {
            let numbers = Tensor::from_slice(&[-8.0f32, -3.0, 1.0, 7.0]).repeat([8]).view([1, 32]);
            let weight = numbers * sign * 0.25;
            let exact = round(&weight, 4, Some(32)).unwrap();
            assert!(exact.dequantize().unwrap().equal(&weight));
        }
        // What counts decides the scale: one column of 32 is far out and of no importance.
        let uneven = Tensor::randn([1, 32], (Kind::Float, tch::Device::Cpu)) * 0.1;
        let _ = uneven.narrow(1, 0, 1).fill_(1.0);
        let importance = Tensor::ones([32], (Kind::Float, tch::Device::Cpu));
        let _ = importance.narrow(0, 0, 1).fill_(0.0);
        let plain = scales(&uneven, 4, None, None).unwrap().abs();
        let weighted = scales(&uneven, 4, None, Some(&importance)).unwrap().abs();
        assert!(weighted.double_value(&[0, 0]) < plain.double_value(&[0, 0]));
        // A row of zeros stays one.
        let zeros = round(&Tensor::zeros([1, 32], (Kind::Float, tch::Device::Cpu)), 4, Some(32));
        assert_eq!(zeros.unwrap().values.count_nonzero(None).int64_value(&[]), 0);
    }
}
