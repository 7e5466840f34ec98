//! What the pages of a Parquet file say of themselves, checked before any is unpacked: the library
//! makes room for as many bytes as a page's header claims.
//!
//! A page's header is a struct of Thrift's compact protocol (parquet.thrift, `PageHeader`): field
//! 2 is the size of the page unpacked, 3 packed, 5 and 8 are the headers of data pages, whose
//! field 1 is the number of values. Of 8 (version 2), fields 5 and 6 are the bytes before what is
//! packed, and 7 says whether anything is.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use parquet::basic::Compression;

use crate::bombs::holds_more;
use crate::thrift::{FALSE, I32, Input, LIST, STRUCT, TRUE};

/// Most bytes of a page, packed or not.
const MAX_PAGE: i64 = 256 << 20;
/// Most values of a page: some megabytes when packed well, and gigabytes in memory.
const MAX_VALUES: i64 = 64 << 20;
/// Most bytes of a page's header. Those that hold long least and greatest values are longer, and
/// are read again in full.
const HEADER: usize = 512;
const MAX_HEADER: usize = 1 << 20;
/// Levels of columns in one another.
const MAX_NESTING: usize = 128;

/// Checks the pages between two places in the file. Those that claim what they cannot hold, or more
/// than fits, are refused, and so are those that hold more than they claim where the library would
/// find it out when all is unpacked.
pub(crate) fn check(
    file: &File,
    start: u64,
    length: u64,
    compression: Compression,
) -> Result<(), String> {
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
        let (packed, most) = ((at + used as u64).saturating_add(header.plain()), header.claimed());
        if header.is_packed && packed <= next {
            let more = holds_more(file, (packed, next), compression, most);
            if more.map_err(|error| error.to_string())? {
                return Err(format!(
                    "the page at byte {at} claims {} bytes unpacked, and holds more",
                    header.unpacked
                ));
            }
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
        match page(&mut input) {
            Some(header) => return Ok((header, input.at)),
            None if input.at >= room && room == size && size < MAX_HEADER => size = MAX_HEADER,
            None => return Err(format!("no page header at byte {at}")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    unpacked: i64,
    packed: i64,
    values: i64,
    /// Bytes of levels, which stand before what is packed.
    levels: i64,
    is_packed: bool,
}

impl Default for Header {
    fn default() -> Self {
        Self { unpacked: 0, packed: 0, values: 0, levels: 0, is_packed: true }
    }
}

impl Header {
    /// Bytes before what is packed.
    fn plain(&self) -> u64 {
        u64::try_from(self.levels).unwrap_or(u64::MAX)
    }

    /// Bytes that what is packed should have.
    fn claimed(&self) -> u64 {
        u64::try_from(self.unpacked.saturating_sub(self.levels)).unwrap_or(0)
    }
}

fn page(input: &mut Input<'_>) -> Option<Header> {
    let (mut header, mut last) = (Header::default(), 0);
    while let Some((number, kind)) = input.field(last)? {
        last = number;
        match (number, kind) {
            (2, I32) => header.unpacked = input.signed()?,
            (3, I32) => header.packed = input.signed()?,
            (5 | 8, STRUCT) => data_page(input, number == 8, &mut header)?,
            _ => input.skip(kind, 0)?,
        }
    }
    Some(header)
}

/// Of what stands twice the library takes the last, too; but of two numbers of values the one that it
/// needs.
fn data_page(input: &mut Input<'_>, second: bool, header: &mut Header) -> Option<()> {
    let (mut values, mut levels, mut is_packed) = (0, [0; 2], true);
    let mut last = 0;
    while let Some((number, kind)) = input.field(last)? {
        last = number;
        match (number, kind) {
            (1, I32) => values = input.signed()?,
            (5, I32) if second => levels[0] = input.signed()?,
            (6, I32) if second => levels[1] = input.signed()?,
            (7, TRUE | FALSE) if second => is_packed = kind == TRUE,
            _ => input.skip(kind, 0)?,
        }
    }
    header.values = header.values.max(values);
    if second {
        header.levels = levels[0].saturating_add(levels[1]);
        header.is_packed = is_packed;
    }
    Some(())
}

/// Checks how deep a file's columns are in one another: the library goes down into them without a
/// bound. The footer is a struct `FileMetaData`, whose field 2 lists the columns, parents first;
/// field 5 of each says how many children follow.
pub(crate) fn check_nesting(footer: &[u8]) -> Result<(), String> {
    match nesting(&mut Input { bytes: footer, at: 0 }) {
        Some(depth) if depth <= MAX_NESTING => Ok(()),
        Some(_) => Err(format!("columns are more than {MAX_NESTING} levels deep in one another")),
        None => Err("its footer cannot be understood".to_owned()),
    }
}

fn nesting(input: &mut Input<'_>) -> Option<usize> {
    let (mut deepest, mut last) = (0, 0);
    while let Some((number, kind)) = input.field(last)? {
        last = number;
        if (number, kind) != (2, LIST) {
            input.skip(kind, 0)?;
            continue;
        }
        // Children of each level that are still to come.
        let mut open: Vec<i64> = Vec::new();
        let (count, STRUCT) = input.list()? else { return None };
        for _ in 0..count {
            while open.pop_if(|left| *left == 0).is_some() {}
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            open.push(children(input)?);
            deepest = deepest.max(open.len());
            if deepest > MAX_NESTING {
                return Some(deepest);
            }
        }
    }
    Some(deepest)
}

fn children(input: &mut Input<'_>) -> Option<i64> {
    let (mut children, mut last) = (0, 0);
    while let Some((number, kind)) = input.field(last)? {
        last = number;
        match (number, kind) {
            (5, I32) => children = input.signed()?.max(0),
            _ => input.skip(kind, 0)?,
        }
    }
    Some(children)
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
        let header = page(&mut input).unwrap();
        let want = Header { unpacked: 300, packed: 150, values: 64, ..Header::default() };
        assert_eq!(header, want);
        assert_eq!(input.at, bytes.len() - 1);

        // type 3, unpacked 300, packed 150, data page of version 2 {values 64, nulls 0, rows 64,
        // encoding 0, levels of 7 and 3 bytes, not packed}.
        let bytes = [
            0x15, 0x06, 0x15, 0xd8, 0x04, 0x15, 0xac, 0x02, 0x5c, 0x15, 0x80, 0x01, 0x15, 0x00,
            0x15, 0x80, 0x01, 0x15, 0x00, 0x15, 0x0e, 0x15, 0x06, 0x12, 0x00, 0x00,
        ];
        let header = page(&mut Input { bytes: &bytes, at: 0 }).unwrap();
        assert_eq!(header, Header { levels: 10, is_packed: false, ..want });
        assert_eq!((header.plain(), header.claimed()), (10, 290));

        // Once more, after itself: packed, without levels.
        let again = [&bytes[..bytes.len() - 1], &[0x0c, 0x10, 0x71, 0x00, 0x00]].concat();
        let header = page(&mut Input { bytes: &again, at: 0 }).unwrap();
        assert_eq!(header, Header { unpacked: 300, packed: 150, values: 64, ..Header::default() });
    }

    #[test]
    fn columns_deep_in_one_another_are_refused() {
        // Version 1; a list of 300 structs {field 5: one child}; the end.
        let mut deep = vec![0x15, 0x02, 0x19, 0xfc, 0xac, 0x02];
        deep.extend([0x55, 0x02, 0x00].repeat(300));
        deep.push(0);
        assert!(check_nesting(&deep).unwrap_err().contains("more than 128 levels"));
        let mut flat = vec![0x15, 0x02, 0x19, 0x2c, 0x55, 0x02, 0x00, 0x00];
        flat.push(0);
        assert_eq!(nesting(&mut Input { bytes: &flat, at: 0 }), Some(2));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = page(&mut Input { bytes: &bytes, at: 0 });
            let _ = check_nesting(&bytes);
        }
    }
}
