//! Frames of RLE (PS3.5 Annex G): a plane of bytes a segment, packed as TIFF's PackBits.

use super::DicomError;

/// Bytes of the segments' header.
const HEADER: usize = 64;

/// Unpacks a frame of `planes` planes of `pixels` bytes, one after another.
pub(super) fn unpack(frame: &[u8], planes: usize, pixels: usize) -> Result<Vec<u8>, DicomError> {
    let numbers = frame.get(..HEADER).ok_or_else(|| DicomError::damaged("a frame is cut short"))?;
    let mut numbers = numbers.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let segments = numbers.next().unwrap_or_default() as usize;
    if segments != planes {
        return Err(DicomError::damaged(format!(
            "a frame has {segments} RLE segments, and its samples are {planes} bytes"
        )));
    }
    let offsets: Vec<usize> = numbers.take(segments).map(|offset| offset as usize).collect();
    let mut bytes = Vec::with_capacity(planes * pixels);
    for (at, begin) in offsets.iter().enumerate() {
        let end = offsets.get(at + 1).copied().unwrap_or(frame.len());
        let segment = frame.get(*begin..end).filter(|_| *begin >= HEADER);
        let segment = segment.ok_or_else(|| DicomError::damaged("an RLE segment is nowhere"))?;
        unpack_segment(segment, (at + 1) * pixels, &mut bytes)?;
    }
    Ok(bytes)
}

/// Adds what a segment holds until there are `until` bytes.
fn unpack_segment(mut segment: &[u8], until: usize, to: &mut Vec<u8>) -> Result<(), DicomError> {
    let short = || DicomError::damaged("an RLE segment is cut short");
    while to.len() < until {
        let (count, rest) = segment.split_first().ok_or_else(short)?;
        let room = until - to.len();
        match count {
            0..=127 => {
                let literal = rest.get(..=usize::from(*count)).ok_or_else(short)?;
                to.extend_from_slice(&literal[..literal.len().min(room)]);
                segment = &rest[literal.len()..];
            }
            128 => segment = rest,
            129..=255 => {
                let (byte, rest) = rest.split_first().ok_or_else(short)?;
                let times = 257 - usize::from(*count);
                to.resize(to.len() + times.min(room), *byte);
                segment = rest;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_literals_are_unpacked() {
        // The example of TIFF 6.0, section 9.
        let packed = [
            0xFE, 0xAA, 0x02, 0x80, 0x00, 0x2A, 0xFD, 0xAA, 0x03, 0x80, 0x00, 0x2A, 0x22, 0xF7,
            0xAA,
        ];
        let mut seen = Vec::new();
        unpack_segment(&packed, 24, &mut seen).unwrap();
        let want = [
            0xAA, 0xAA, 0xAA, 0x80, 0x00, 0x2A, 0xAA, 0xAA, 0xAA, 0xAA, 0x80, 0x00, 0x2A, 0x22,
            0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA, 0xAA,
        ];
        assert_eq!(seen, want);
        assert!(unpack_segment(&packed[..10], 24, &mut Vec::new()).is_err());
        let mut seen = Vec::new();
        unpack_segment(&[128, 129, 7], 5, &mut seen).unwrap();
        assert_eq!(seen, [7; 5], "what is more than wanted is left");
    }
}
