//! Search for rare bytes.

/// Bytes looked at together.
const BLOCK: usize = 32;

/// The first place at or after `from` where `matches` holds of the next three bytes; past the
/// end there are zeros. Blocks without such a place are passed without a branch for each byte, so
/// that the compiler vectorises `matches`.
pub(super) fn find(bytes: &[u8], from: usize, matches: impl Fn(&[u8; 3]) -> bool) -> Option<usize> {
    let mut start = from;
    while let Some(block) = bytes[start..].first_chunk::<{ BLOCK + 2 }>() {
        let at = |i: usize| matches(&[block[i], block[i + 1], block[i + 2]]);
        if (0..BLOCK).fold(false, |any, i| any | at(i)) {
            return (0..BLOCK).find(|i| at(*i)).map(|i| start + i);
        }
        start += BLOCK;
    }
    let padded = |i: usize| bytes.get(i).copied().unwrap_or(0);
    (start..bytes.len()).find(|i| matches(&[bytes[*i], padded(i + 1), padded(i + 2)]))
}

/// The first ASCII digit at or after `from`.
pub(super) fn find_digit(bytes: &[u8], from: usize) -> Option<usize> {
    find(bytes, from, |next| next[0].wrapping_sub(b'0') < 10)
}
