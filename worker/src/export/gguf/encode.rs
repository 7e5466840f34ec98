//! f32 → ggml's block formats, the way back of [`crate::import::blocks`].
//!
//! Layouts are ggml's (`ggml-quants.c`). Scales are of least squared error out of a few, as its
//! `make_qx_quants` and `make_qkx2_quants` find them; numbers are then rounded anew with the scales
//! as they are stored.

use crate::import::blocks::{BlockType, half};

/// Elements that share a 4-bit scale and minimum in [`BlockType::Q4K`].
const Q4K_GROUP: usize = 32;
/// Elements that share a scale in [`BlockType::Q6K`].
const Q6K_GROUP: usize = 16;

/// Stores whole blocks. `None` where the last block is not whole, or Hearth writes no such type.
pub fn encode(kind: BlockType, values: &[f32]) -> Option<Vec<u8>> {
    let bytes = kind.bytes(u64::try_from(values.len()).ok()?)?;
    let block = match kind {
        BlockType::F32 => |block: &[f32], out: &mut Vec<u8>| out.extend(block[0].to_le_bytes()),
        BlockType::F16 => |block: &[f32], out: &mut Vec<u8>| {
            out.extend(half_bits(block[0]).to_le_bytes());
        },
        BlockType::Q4_0 => q4_0,
        BlockType::Q5_0 => q5_0,
        BlockType::Q8_0 => q8_0,
        BlockType::Q4K => q4_k,
        BlockType::Q6K => q6_k,
        BlockType::Bf16 | BlockType::Q4_1 => return None,
    };
    let mut out = Vec::with_capacity(usize::try_from(bytes).ok()?);
    for values in values.chunks_exact(usize::try_from(kind.block().0).ok()?) {
        block(values, &mut out);
    }
    Some(out)
}

/// The nearest IEEE 754 binary16, ties to even.
pub fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = low16(bits >> 16) & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude >= 0x4780_0000 {
        // 65536 and more, infinity and what is no number.
        return sign | if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
    }
    if magnitude < 0x3880_0000 {
        // Below 2^-14: units of 2^-24. The product is exact, and 2^23 rounds it to the unit.
        let units = f32::from_bits(magnitude) * 16_777_216.0;
        return sign | low16((units + 8_388_608.0).to_bits());
    }
    let rebased = magnitude - (112 << 23);
    let rounded = rebased + 0xfff + ((rebased >> 13) & 1);
    sign | low16(rounded >> 13)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
fn low16(bits: u32) -> u16 {
    bits as u16
}

/// A scale as its two bytes, and as the float that they stand for.
fn stored(scale: f32) -> ([u8; 2], f32) {
    let bytes = half_bits(scale).to_le_bytes();
    (bytes, half(&bytes))
}

/// `1 / scale`; 0 of none, which makes every number 0.
fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The nearest whole number from `least` to `most`.
#[expect(clippy::cast_possible_truncation, reason = "the bounds are those of few bits")]
fn whole(value: f32, least: i32, most: i32) -> i32 {
    (value.round_ties_even() as i32).clamp(least, most)
}

/// What fits a byte.
fn byte(value: i32) -> u8 {
    u8::try_from(value).unwrap_or_default()
}

/// Scale, negative or not, by which whole numbers from `-reach` to `reach - 1` stand for `values`
/// with the least squared error.
fn symmetric_scale(values: &[f32], reach: i16) -> f32 {
    let extreme =
        values.iter().copied().fold(0.0f32, |far, v| if v.abs() > far.abs() { v } else { far });
    if extreme == 0.0 {
        return 0.0;
    }
    let (least, most) = (-i32::from(reach), i32::from(reach) - 1);
    let mut best = (0.0, 0.0);
    for nudge in -9..=9i16 {
        let inverse = -(f32::from(reach) + 0.1 * f32::from(nudge)) / extreme;
        let (mut product, mut square) = (0.0f32, 0.0f32);
        for value in values {
            #[expect(clippy::cast_precision_loss, reason = "few bits")]
            let number = whole(value * inverse, least, most) as f32;
            product += value * number;
            square += number * number;
        }
        // The error with the best scale for these numbers is Σv² - product² / square.
        let gain = if square > 0.0 { product * product / square } else { 0.0 };
        if gain > best.0 {
            best = (gain, product / square);
        }
    }
    best.1
}

/// Two numbers of 4 bits a byte: the first half of the block low, the second high.
fn pairs(numbers: &[i32]) -> impl Iterator<Item = u8> {
    let (low, high) = numbers.split_at(numbers.len() / 2);
    low.iter().zip(high).map(|(low, high)| byte(low & 15) | byte(high & 15) << 4)
}

fn q4_0(values: &[f32], out: &mut Vec<u8>) {
    let (bytes, scale) = stored(symmetric_scale(values, 8));
    let inverse = inverse(scale);
    let numbers: Vec<i32> = values.iter().map(|v| whole(v * inverse, -8, 7) + 8).collect();
    out.extend(bytes);
    out.extend(pairs(&numbers));
}

fn q5_0(values: &[f32], out: &mut Vec<u8>) {
    let (bytes, scale) = stored(symmetric_scale(values, 16));
    let inverse = inverse(scale);
    let numbers: Vec<i32> = values.iter().map(|v| whole(v * inverse, -16, 15) + 16).collect();
    let fifths = numbers.iter().rev().fold(0u32, |bits, n| bits << 1 | u32::from(*n >= 16));
    out.extend(bytes);
    out.extend(fifths.to_le_bytes());
    out.extend(pairs(&numbers));
}

fn q8_0(values: &[f32], out: &mut Vec<u8>) {
    let most = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let (bytes, scale) = stored(most / 127.0);
    let inverse = inverse(scale);
    out.extend(bytes);
    out.extend(values.iter().map(|value| signed(whole(value * inverse, -127, 127))));
}

fn signed(value: i32) -> u8 {
    i8::try_from(value).unwrap_or_default().cast_unsigned()
}

/// `values ≈ number * scale - shift` with numbers from 0 to 15, scale and shift at least 0.
#[derive(Clone, Copy, Debug, Default)]
struct Range {
    scale: f32,
    shift: f32,
}

/// Of least error, large values counting more (ggml's weights without an importance matrix).
fn range(values: &[f32]) -> Range {
    const MOST: f32 = 15.0;
    #[expect(clippy::cast_precision_loss, reason = "32 values")]
    let mean = values.iter().map(|v| v * v).sum::<f32>() / values.len().max(1) as f32;
    let weights: Vec<f32> = values.iter().map(|value| mean.sqrt() + value.abs()).collect();
    let least = values.iter().copied().fold(0.0, f32::min);
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if most <= least {
        return Range { scale: 0.0, shift: -least };
    }
    let (mut weight, mut sum) = (0.0f32, 0.0f32);
    for (value, w) in values.iter().zip(&weights) {
        weight += w;
        sum += w * value;
    }
    let number =
        |value: f32, inverse: f32| (inverse * (value - least)).round_ties_even().clamp(0.0, MOST);
    let error = |range: Range, inverse: f32| -> f32 {
        let lost = |v: f32| range.scale * number(v, inverse) - range.shift - v;
        values.iter().zip(&weights).map(|(value, w)| w * lost(*value).powi(2)).sum()
    };
    let plain = Range { scale: (most - least) / MOST, shift: -least };
    let mut best = (error(plain, 1.0 / plain.scale), plain);
    for nudge in 0..=20u8 {
        let inverse = (MOST - 1.0 + 0.1 * f32::from(nudge)) / (most - least);
        let (mut first, mut second, mut product) = (0.0f32, 0.0f32, 0.0f32);
        for (value, w) in values.iter().zip(&weights) {
            let number = number(*value, inverse);
            first += w * number;
            second += w * number * number;
            product += w * number * value;
        }
        let spread = weight * second - first * first;
        if spread <= 0.0 {
            continue;
        }
        let mut tried = Range {
            scale: (weight * product - sum * first) / spread,
            shift: -(second * sum - first * product) / spread,
        };
        if tried.shift < 0.0 {
            tried = Range { scale: product / second, shift: 0.0 };
        }
        let lost = error(tried, inverse);
        if lost < best.0 && tried.scale >= 0.0 {
            best = (lost, tried);
        }
    }
    best.1
}

fn q4_k(values: &[f32], out: &mut Vec<u8>) {
    let ranges: Vec<Range> = values.chunks_exact(Q4K_GROUP).map(range).collect();
    let top = |part: fn(&Range) -> f32| ranges.iter().map(part).fold(0.0f32, f32::max);
    let (scale_bytes, scale) = stored(top(|range| range.scale) / 63.0);
    let (shift_bytes, shift) = stored(top(|range| range.shift) / 63.0);
    let sixth = |part: f32, unit: f32| byte(whole(part * inverse(unit), 0, 63));
    let sixes: Vec<(u8, u8)> =
        ranges.iter().map(|r| (sixth(r.scale, scale), sixth(r.shift, shift))).collect();
    out.extend(scale_bytes);
    out.extend(shift_bytes);
    out.extend(packed_sixes(&sixes));
    let numbers: Vec<i32> = values
        .chunks_exact(Q4K_GROUP)
        .zip(&sixes)
        .flat_map(|(group, (six, minimum))| {
            let (inverse, shift) = (inverse(scale * f32::from(*six)), shift * f32::from(*minimum));
            group.iter().map(move |value| whole((value + shift) * inverse, 0, 15))
        })
        .collect();
    // Two groups share 32 bytes.
    out.extend(numbers.chunks_exact(2 * Q4K_GROUP).flat_map(pairs));
}

/// Eight pairs of 6 bits in 12 bytes: the way back of `get_scale_min_k4`.
fn packed_sixes(sixes: &[(u8, u8)]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (group, (scale, minimum)) in sixes.iter().enumerate() {
        if group < 4 {
            packed[group] |= scale;
            packed[group + 4] |= minimum;
        } else {
            packed[group + 4] = (scale & 15) | (minimum & 15) << 4;
            packed[group - 4] |= scale >> 4 << 6;
            packed[group] |= minimum >> 4 << 6;
        }
    }
    packed
}

fn q6_k(values: &[f32], out: &mut Vec<u8>) {
    let scales: Vec<f32> =
        values.chunks_exact(Q6K_GROUP).map(|group| symmetric_scale(group, 32)).collect();
    let extreme =
        scales.iter().copied().fold(0.0f32, |far, s| if s.abs() > far.abs() { s } else { far });
    let (scale_bytes, scale) = stored(-extreme / 128.0);
    let eighths: Vec<i32> = scales.iter().map(|s| whole(s * inverse(scale), -128, 127)).collect();
    let numbers: Vec<i32> = values
        .chunks_exact(Q6K_GROUP)
        .zip(&eighths)
        .flat_map(|(group, eighth)| {
            #[expect(clippy::cast_precision_loss, reason = "8 bits")]
            let inverse = inverse(scale * *eighth as f32);
            group.iter().map(move |value| whole(value * inverse, -32, 31) + 32)
        })
        .collect();
    // Four lower bits: quarters 0 and 1 of each half low, 2 and 3 high.
    out.extend(numbers.chunks_exact(128).flat_map(pairs));
    for half in numbers.chunks_exact(128) {
        out.extend((0..32).map(|place| {
            (0..4).fold(0, |bits, quarter| {
                bits | byte(half[place + 32 * quarter] >> 4) << (2 * quarter)
            })
        }));
    }
    out.extend(eighths.iter().map(|eighth| signed(*eighth)));
    out.extend(scale_bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};

    /// Values as weights are: around 0, some far out.
    fn values(count: usize) -> Vec<f32> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        (0..count)
            .map(|_| {
                let mut uniform = || random.random_range(-1.0f32..1.0);
                0.05 * (uniform() + uniform() + uniform())
            })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_with_the_error_of_its_bits() {
        let values = values(4096);
        let power: f32 = values.iter().map(|v| v * v).sum();
        for (kind, most) in [
            (BlockType::F32, 0.0),
            (BlockType::F16, 3e-4),
            (BlockType::Q8_0, 0.006),
            (BlockType::Q6K, 0.02),
            (BlockType::Q5_0, 0.045),
            (BlockType::Q4K, 0.08),
            (BlockType::Q4_0, 0.09),
        ] {
            let bytes = encode(kind, &values).unwrap();
            assert_eq!(Some(bytes.len() as u64), kind.bytes(4096), "{kind:?}");
            let back = kind.dequantize(&bytes);
            let error: f32 = back.iter().zip(&values).map(|(b, v)| (b - v) * (b - v)).sum();
            let relative = (error / power).sqrt();
            assert!(relative <= most, "{kind:?}: {relative}");
        }
    }

    #[test]
    fn what_was_read_is_written_as_it_was() {
        // Numbers that the format holds exactly, each of its extremes among them.
        for (kind, reach) in
            [(BlockType::Q4_0, 8i16), (BlockType::Q5_0, 16), (BlockType::Q8_0, 127)]
        {
            let values: Vec<f32> =
                (0..64i16).map(|i| 0.25 * f32::from((i * 7) % (2 * reach) - reach)).collect();
            let mut values = values;
            values[5] = -0.25 * f32::from(reach);
            values[40] = -0.25 * f32::from(reach);
            let back = kind.dequantize(&encode(kind, &values).unwrap());
            assert_eq!(back, values, "{kind:?}");
        }
    }

    #[test]
    fn zeros_and_constants_stay() {
        for kind in
            [BlockType::Q4_0, BlockType::Q5_0, BlockType::Q8_0, BlockType::Q4K, BlockType::Q6K]
        {
            for constant in [0.0f32, 0.5, -0.5] {
                let back = kind.dequantize(&encode(kind, &[constant; 256]).unwrap());
                let worst = back.iter().map(|v| (v - constant).abs()).fold(0.0, f32::max);
                assert!(worst <= 0.02 * constant.abs(), "{kind:?} {constant}: {worst}");
            }
        }
    }

    #[test]
    fn parts_of_blocks_are_refused() {
        assert_eq!(encode(BlockType::Q8_0, &[1.0; 40]), None);
        assert_eq!(encode(BlockType::Q6K, &[1.0; 128]), None);
    }

    #[test]
    fn halves_are_rounded_to_the_nearest_even() {
        for bits in 0..=0x7bffu16 {
            let exact = half(&bits.to_le_bytes());
            assert_eq!(half_bits(exact), bits);
            let next = half(&(bits + 1).to_le_bytes());
            if bits < 0x7bff {
                let even = bits + bits % 2;
                assert_eq!(half_bits(f32::midpoint(exact, next)), even, "{bits:#x}");
            }
        }
        assert_eq!(half_bits(-0.0), 0x8000);
        assert_eq!(half_bits(1e6), 0x7c00);
        assert_eq!(half_bits(65519.0), 0x7bff);
        assert_eq!(half_bits(65520.0), 0x7c00);
    }
}
