//! ggml's block formats → f32 (`ggml-quants.c`, `dequantize_row_*`).

/// How a tensor's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// bfloat16.
    Bf16,
    /// 32 elements: a scale, 4 bits each.
    Q4_0,
    /// 32 elements: a scale, a minimum, 4 bits each.
    Q4_1,
    /// 32 elements: a scale, 5 bits each.
    Q5_0,
    /// 32 elements: a scale, 8 bits each.
    Q8_0,
    /// 256 elements: 8 scales and minimums of 6 bits, 4 bits each.
    Q4K,
    /// 256 elements: 16 scales of 8 bits, 6 bits each.
    Q6K,
}

impl BlockType {
    /// The type of ggml's number.
    pub fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// ggml's number of the type.
    pub fn number(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// Elements and bytes of a block.
    pub fn block(self) -> (u64, u64) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of so many elements; `None` where the last block is not whole.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let (size, bytes) = self.block();
        elements.is_multiple_of(size).then(|| elements / size * bytes)
    }

    /// Bits of the whole numbers that a block has, where they times its scale are all that it stands
    /// for.
    pub fn whole_bits(self) -> Option<u8> {
        match self {
            Self::Q8_0 => Some(8),
            Self::Q4_0 => Some(4),
            _ => None,
        }
    }

    /// Whole numbers and scales of blocks that are nothing else ([`Self::whole_bits`]).
    pub fn whole(self, bytes: &[u8]) -> (Vec<i8>, Vec<f32>) {
        let (size, length) = self.block();
        let (size, length) = (to_index(size), to_index(length));
        let count = bytes.len() / length;
        let (mut values, mut scales) =
            (Vec::with_capacity(count * size), Vec::with_capacity(count));
        for block in bytes.chunks_exact(length) {
            scales.push(half(block));
            match self {
                Self::Q4_0 => values.extend(nibbles(&block[2..]).map(|q| q.cast_signed() - 8)),
                _ => values.extend(block[2..].iter().map(|q| q.cast_signed())),
            }
        }
        (values, scales)
    }

    /// The values of whole blocks.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let (size, length) = self.block();
        let (size, length) = (to_index(size), to_index(length));
        let mut values = Vec::with_capacity(bytes.len() / length * size);
        for block in bytes.chunks_exact(length) {
            match self {
                Self::F32 => {
                    values.extend(block.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
                }
                Self::F16 => values.push(half(block)),
                Self::Bf16 => {
                    values.push(f32::from_bits(
                        u32::from(u16::from_le_bytes([block[0], block[1]])) << 16,
                    ));
                }
                Self::Q4_0 => {
                    let scale = half(block);
                    values.extend(nibbles(&block[2..]).map(|q| (f32::from(q) - 8.0) * scale));
                }
                Self::Q4_1 => {
                    let (scale, least) = (half(block), half(&block[2..]));
                    values.extend(nibbles(&block[4..]).map(|q| f32::from(q) * scale + least));
                }
                Self::Q5_0 => q5_0(block, &mut values),
                Self::Q8_0 => {
                    let scale = half(block);
                    values.extend(block[2..].iter().map(|q| f32::from(q.cast_signed()) * scale));
                }
                Self::Q4K => q4_k(block, &mut values),
                Self::Q6K => q6_k(block, &mut values),
            }
        }
        values
    }
}

/// Sizes of blocks are small.
fn to_index(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

/// The lower halves of all bytes, then the upper halves.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// IEEE 754 binary16, little-endian, at the start of `bytes`.
pub fn half(bytes: &[u8]) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let (sign, exponent, fraction) = ((bits & 0x8000) << 16, (bits >> 10) & 31, bits & 1023);
    match exponent {
        // Subnormal: the fraction counts units of 2^-24.
        0 => {
            let magnitude = f32::from(u16::try_from(fraction).unwrap_or(0)) / 16_777_216.0;
            if sign == 0 { magnitude } else { -magnitude }
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

/// Scale, the fifth bits of all 32 in order, then their lower four.
fn q5_0(block: &[u8], values: &mut Vec<f32>) {
    let scale = half(block);
    let fifths = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (place, four) in nibbles(&block[6..]).enumerate() {
        let five = four | if fifths >> place & 1 == 1 { 16 } else { 0 };
        values.push((f32::from(five) - 16.0) * scale);
    }
}

fn q4_k(block: &[u8], values: &mut Vec<f32>) {
    let (scale, least) = (half(block), half(&block[2..]));
    let (packed, quants) = (&block[4..16], &block[16..]);
    for (pair, bytes) in quants.chunks_exact(32).enumerate() {
        for (upper, group) in [(false, 2 * pair), (true, 2 * pair + 1)] {
            let (six, minimum) = scale_and_minimum(packed, group);
            let (factor, shift) = (scale * f32::from(six), least * f32::from(minimum));
            let quant = |byte: &u8| if upper { byte >> 4 } else { byte & 15 };
            values.extend(bytes.iter().map(|byte| f32::from(quant(byte)) * factor - shift));
        }
    }
}

/// `get_scale_min_k4`: eight pairs of 6 bits in 12 bytes.
fn scale_and_minimum(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        (packed[group] & 63, packed[group + 4] & 63)
    } else {
        let low = packed[group + 4];
        ((low & 15) | (packed[group - 4] >> 6 << 4), (low >> 4) | (packed[group] >> 6 << 4))
    }
}

fn q6_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = (&rest[..16], half(&rest[16..]));
    for part in 0..2 {
        let (low, high) = (&low[64 * part..][..64], &high[32 * part..][..32]);
        for quarter in 0..4 {
            for place in 0..32 {
                let byte = low[place + 32 * (quarter % 2)];
                let four = if quarter < 2 { byte & 15 } else { byte >> 4 };
                let two = (high[place] >> (2 * quarter)) & 3;
                let quant = f32::from(four | (two << 4)) - 32.0;
                let group = 8 * part + 2 * quarter + place / 16;
                values.push(scale * f32::from(scales[group].cast_signed()) * quant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "exact values")]
    fn halves_are_read_exactly() {
        for (bits, want) in [
            (0x3c00u16, 1.0f32),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x0001, 5.960_464_5e-8),
            (0x8000, 0.0),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(half(&bits.to_le_bytes()), want, "{bits:#x}");
        }
    }

    #[test]
    fn a_type_is_found_by_its_number() {
        for number in 0..64 {
            if let Some(kind) = BlockType::of(number) {
                assert_eq!(kind.number(), number);
            }
        }
    }

    #[test]
    fn the_fifth_bit_is_its_own() {
        let mut block = 0x3c00u16.to_le_bytes().to_vec();
        block.extend((1u32 | 1 << 31).to_le_bytes());
        block.extend([0x5a; 16]);
        let values = BlockType::Q5_0.dequantize(&block);
        assert_eq!((values[0], values[1], values[30], values[31]), (10.0, -6.0, -11.0, 5.0));
    }

    #[test]
    fn whole_numbers_times_scales_are_the_values() {
        for kind in [BlockType::Q8_0, BlockType::Q4_0] {
            let length = to_index(kind.block().1);
            let bytes: Vec<u8> =
                (0u8..=255).map(|at| at.wrapping_mul(37) & 0x7f).take(3 * length).collect();
            let (values, scales) = kind.whole(&bytes);
            let products: Vec<f32> =
                values.iter().enumerate().map(|(at, q)| f32::from(*q) * scales[at / 32]).collect();
            assert_eq!(products, kind.dequantize(&bytes));
        }
    }

    #[test]
    fn sizes_must_be_whole_blocks() {
        assert_eq!(BlockType::Q4_1.bytes(64), Some(40));
        assert_eq!(BlockType::Q4_1.bytes(48), None);
        assert_eq!(BlockType::Q6K.bytes(512), Some(420));
    }

    #[test]
    fn four_bits_are_low_halves_first() {
        let mut block = 0x3c00u16.to_le_bytes().to_vec();
        block.extend([0x5a; 16]);
        let values = BlockType::Q4_0.dequantize(&block);
        assert_eq!((values[0], values[15], values[16], values[31]), (2.0, 2.0, -3.0, -3.0));
    }
}
