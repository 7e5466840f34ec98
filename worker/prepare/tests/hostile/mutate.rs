//! Good files → bad ones.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Numbers at which readers go wrong.
const NUMBERS: [u32; 12] = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFE,
    0xFFFF_FFFF,
];
/// Parts of JSON.
const TOKENS: [&str; 14] = [
    "[",
    "]",
    "{",
    "}",
    "\"",
    ",",
    ":",
    "\\",
    "null",
    "1e999",
    "-",
    "[[[[[[[[",
    "\"choices\":",
    "\\u0000",
];
/// Longest input.
const LONGEST: usize = 1 << 16;

/// The input of a number: a seed after one to eight changes.
pub(crate) fn input(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(number);
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    let is_text = input.first().is_some_and(|byte| matches!(byte, b'[' | b'{'));
    for _ in 0..random.random_range(1..=8) {
        change(&mut input, seeds, is_text, &mut random);
    }
    input.truncate(LONGEST);
    // Or all ends at the first check.
    if random.random_bool(0.9) {
        mend_png(&mut input);
    }
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], is_text: bool, random: &mut ChaCha8Rng) {
    let at = random.random_range(0..=input.len());
    let end = (at + random.random_range(1..=32)).min(input.len());
    match random.random_range(0..9) {
        0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
        1 if at < input.len() => input[at] = random.random(),
        2 => input.truncate(at),
        3 => drop(input.drain(at..end)),
        4 => {
            let part = input[at..end].to_vec();
            let times = random.random_range(1..=40);
            input.splice(at..at, part.repeat(times));
        }
        5 => {
            let other = &seeds[random.random_range(0..seeds.len())];
            let from = random.random_range(0..=other.len());
            let to = (from + random.random_range(1..=200)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        6 if is_text => {
            let token = TOKENS[random.random_range(0..TOKENS.len())];
            input.splice(at..at, token.bytes());
        }
        _ => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())];
            let bytes = if random.random() { number.to_le_bytes() } else { number.to_be_bytes() };
            let count = [1, 2, 4][random.random_range(0..3)];
            for (to, byte) in input[at..].iter_mut().zip(&bytes[..count]) {
                *to = *byte;
            }
        }
    }
}

/// Writes the right CRC behind each chunk of a PNG (PNG 3rd edition, 5.3).
fn mend_png(input: &mut [u8]) {
    let Some(mut chunks) = input.strip_prefix_mut(b"\x89PNG\r\n\x1a\n") else { return };
    while let Some(length) = chunks.first_chunk::<4>() {
        let end = 8 + u32::from_be_bytes(*length) as usize;
        if chunks.len() < end + 4 {
            return;
        }
        let (chunk, rest) = chunks.split_at_mut(end);
        let (crc, rest) = rest.split_at_mut(4);
        let mut hasher = flate2::Crc::new();
        hasher.update(&chunk[4..]);
        crc.copy_from_slice(&hasher.sum().to_be_bytes());
        chunks = rest;
    }
}

trait StripPrefixMut {
    fn strip_prefix_mut(&mut self, prefix: &[u8]) -> Option<&mut [u8]>;
}

impl StripPrefixMut for [u8] {
    fn strip_prefix_mut(&mut self, prefix: &[u8]) -> Option<&mut [u8]> {
        if self.starts_with(prefix) { Some(&mut self[prefix.len()..]) } else { None }
    }
}
