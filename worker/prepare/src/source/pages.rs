//! What the pages of a Parquet file say of themselves, checked before any is unpacked: the library
//! makes room for as many bytes as a page's header claims.
//!
//! A page's header is a struct of Thrift's compact protocol (parquet.thrift, `PageHeader`): field
//! 2 is the size of the page unpacked, 3 packed, 5 and 8 are the headers of data pages, whose
//! field 1 is the number of values.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Most bytes of a page, packed or not.
const MAX_PAGE: i64 = 256 << 20;
/// Most values of a page: some megabytes when packed well, and gigabytes in memory.
const MAX_VALUES: i64 = 64 << 20;
/// Most bytes of a page's header. Those that hold long least and greatest values are longer, and
/// are read again in full.
const HEADER: usize = 512;
const MAX_HEADER: usize = 1 << 20;
/// Levels of structs in a header.
const MAX_DEPTH: u32 = 8;

/// Checks the headers of the pages between two places in the file. Those that claim what they
/// cannot hold, or more than fits, are refused.
pub(super) fn check(file: &File, start: u64, length: u64) -> Result<(), String> {
    let end = start.checked_add(length).ok_or("a column that ends nowhere")?;
    let mut at = start;
    while at < end {
        let (header, used) = header(file, at, end)?;
        let packed = u64::try_from(header.packed).unwrap_or(u64::MAX);
        let fits = (0..=MAX_PAGE).contains(&header.packed)
            && (0..=MAX_PAGE).contains(&header.unpacked)
            && (0..=MAX_VALUES).contains(&header.values);
        let next = at.saturating_add(used as u64).saturating_add(packed);
        if !fits || next > end {
            return Err(format!(
                "the page at byte {at} claims {} bytes, {} unpacked, and {} values: more than there are, or more than {MAX_PAGE} bytes or {MAX_VALUES} values",
                header.packed, header.unpacked, header.values
            ));
        }
        at = next;
    }
    Ok(())
}

fn header(file: &File, at: u64, end: u64) -> Result<(Header, usize), String> {
    let mut size = HEADER;
    loop {
        let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(size);
        let mut bytes = vec![0; room];
        file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        let mut input = Input { bytes: &bytes, at: 0 };
        let mut header = Header::default();
        match input.header(&mut header) {
            Some(()) => return Ok((header, input.at)),
            None if input.at >= room && room == size && size < MAX_HEADER => size = MAX_HEADER,
            None => return Err(format!("no page header at byte {at}")),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    unpacked: i64,
    packed: i64,
    values: i64,
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

// Types of the compact protocol.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const STRUCT: u8 = 12;

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Number and type of the next field; `Some(None)` at the end of a struct.
    #[expect(clippy::option_option, reason = "the end of the bytes, and that of a struct")]
    fn field(&mut self, last: i64) -> Option<Option<(i64, u8)>> {
        let byte = self.byte()?;
        match (byte >> 4, byte & 15) {
            (_, 0) => Some(None),
            (0, kind) => Some(Some((self.signed()?, kind))),
            (step, kind) => Some(Some((last.checked_add(i64::from(step))?, kind))),
        }
    }

    fn header(&mut self, header: &mut Header) -> Option<()> {
        let mut last = 0;
        while let Some((number, kind)) = self.field(last)? {
            last = number;
            match (number, kind) {
                (2, I32) => header.unpacked = self.signed()?,
                (3, I32) => header.packed = self.signed()?,
                (5 | 8, STRUCT) => self.data_page(header)?,
                _ => self.skip(kind, 0)?,
            }
        }
        Some(())
    }

    fn data_page(&mut self, header: &mut Header) -> Option<()> {
        let mut last = 0;
        while let Some((number, kind)) = self.field(last)? {
            last = number;
            match (number, kind) {
                (1, I32) => header.values = self.signed()?,
                _ => self.skip(kind, 1)?,
            }
        }
        Some(())
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            TRUE | FALSE => {}
            3 => {
                self.byte()?;
            }
            4..=6 => {
                self.varint()?;
            }
            7 => self.at += 8,
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.at = self.at.saturating_add(length);
            }
            9 | 10 => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
                for _ in 0..count {
                    // In lists booleans take a byte.
                    self.skip(if byte & 15 <= FALSE { 3 } else { byte & 15 }, depth + 1)?;
                }
            }
            STRUCT => {
                let mut last = 0;
                while let Some((number, kind)) = self.field(last)? {
                    last = number;
                    self.skip(kind, depth + 1)?;
                }
            }
            _ => return None,
        }
        (self.at <= self.bytes.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_data_page_is_understood() {
        // type 0, unpacked 300, packed 150, data page {values 64, encoding 0, 3, 3}.
        let bytes = [
            0x15, 0x00, 0x15, 0xd8, 0x04, 0x15, 0xac, 0x02, 0x2c, 0x15, 0x80, 0x01, 0x15, 0x00,
            0x15, 0x06, 0x15, 0x06, 0x00, 0x00, 0xff,
        ];
        let mut input = Input { bytes: &bytes, at: 0 };
        let mut header = Header::default();
        input.header(&mut header).unwrap();
        assert_eq!(header, Header { unpacked: 300, packed: 150, values: 64 });
        assert_eq!(input.at, bytes.len() - 1);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Input { bytes: &bytes, at: 0 }.header(&mut Header::default());
        }
    }
}
