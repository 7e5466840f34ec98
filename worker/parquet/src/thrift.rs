//! Thrift's compact protocol, in which Parquet files tell of themselves: as much of it as is looked
//! at before the library reads it.

/// Levels of structs and lists in one another.
const MAX_DEPTH: u32 = 16;

pub(crate) const I32: u8 = 5;
pub(crate) const LIST: u8 = 9;
pub(crate) const STRUCT: u8 = 12;
pub(crate) const TRUE: u8 = 1;
pub(crate) const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const SET: u8 = 10;

/// Bytes that are read; `None` at their end, and of what is not understood.
pub(crate) struct Input<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

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

    /// A whole number.
    pub(crate) fn signed(&mut self) -> Option<i64> {
        let value = self.varint()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Number and type of the next field; `Some(None)` at the end of a struct.
    #[expect(clippy::option_option, reason = "the end of the bytes, and that of a struct")]
    pub(crate) fn field(&mut self, last: i64) -> Option<Option<(i64, u8)>> {
        let byte = self.byte()?;
        match (byte >> 4, byte & 15) {
            (_, 0) => Some(None),
            (0, kind) => Some(Some((self.signed()?, kind))),
            (step, kind) => Some(Some((last.checked_add(i64::from(step))?, kind))),
        }
    }

    /// Number and type of a list's items, which follow.
    pub(crate) fn list(&mut self) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let count = if byte >> 4 == 15 { self.varint()? } else { u64::from(byte >> 4) };
        // In lists booleans take a byte.
        Some((count, if byte & 15 <= FALSE { BYTE } else { byte & 15 }))
    }

    /// Passes over a value.
    pub(crate) fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match kind {
            TRUE | FALSE => {}
            BYTE => {
                self.byte()?;
            }
            4..=I64 => {
                self.varint()?;
            }
            DOUBLE => self.at += 8,
            BINARY => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.at = self.at.saturating_add(length);
            }
            LIST | SET => {
                let (count, kind) = self.list()?;
                for _ in 0..count {
                    self.skip(kind, depth + 1)?;
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
