//! By what rows are told apart, in 40 bytes each.

use arrow_array::{Array, RecordBatch};
use blake3::Hasher;
use hearth_crds::preparation::SplitBy;

use super::Touched;
use super::value::{Scalar, hash_row, name_order, scalar};

/// Bytes of a [`Key`].
pub(crate) const KEY_BYTES: usize = 40;

/// By what a row is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Key {
    /// Of its cleaned texts; where there are none, of all that it holds.
    pub(crate) content: u128,
    /// Of its label.
    pub(crate) label: u64,
    /// Of its group; or its time, in the order of times.
    pub(crate) split: u64,
    /// About its bytes in memory.
    pub(crate) size: u32,
}

impl Key {
    pub(crate) fn to_bytes(self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..16].copy_from_slice(&self.content.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.label.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.split.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.size.to_be_bytes());
        bytes
    }

    pub(crate) fn of_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let word =
            |at: usize| bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let size = u32::try_from(word(32) >> 32).unwrap_or(u32::MAX);
        let content = u128::from(word(0)) << 64 | u128::from(word(8));
        Self { content, label: word(16), split: word(24), size }
    }
}

/// Keys of all rows; `sizes` are theirs.
pub(super) fn keys(batch: &RecordBatch, touched: &Touched, sizes: &[u32]) -> Vec<Key> {
    let column = |name: &str| batch.column_by_name(name).map(AsRef::as_ref);
    let order = content_order(batch, touched);
    let label = touched.label().and_then(column);
    let split = touched.split().and_then(|(by, name)| Some((by, column(name)?)));
    sizes
        .iter()
        .enumerate()
        .map(|(row, size)| Key {
            content: content(batch, &order, row),
            label: label.map_or(0, |column| hash_scalar(column, row)),
            split: match split {
                Some((SplitBy::Time, column)) => time(column, row).unwrap_or(0),
                Some((_, column)) => hash_scalar(column, row),
                None => 0,
            },
            size: *size,
        })
        .collect()
}

/// [`Key::content`] of all rows.
pub(crate) fn contents(batch: &RecordBatch, touched: &Touched) -> Vec<u128> {
    let order = content_order(batch, touched);
    (0..batch.num_rows()).map(|row| content(batch, &order, row)).collect()
}

fn content_order(batch: &RecordBatch, touched: &Touched) -> Vec<usize> {
    let texts: Vec<usize> =
        touched.texts().iter().filter_map(|name| batch.schema_ref().index_of(name).ok()).collect();
    if texts.is_empty() { name_order(batch) } else { texts }
}

fn content(batch: &RecordBatch, order: &[usize], row: usize) -> u128 {
    let mut hasher = Hasher::new();
    hash_row(batch, order, row, &mut hasher);
    u128::from_be_bytes(*hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 16]))
}

/// Of what a value is written as: the string `7` is the number 7.
fn hash_scalar(column: &dyn Array, row: usize) -> u64 {
    let hash = match scalar(column, row) {
        Scalar::Text(text) => blake3::hash(text.as_bytes()),
        Scalar::Int(number) => blake3::hash(number.to_string().as_bytes()),
        Scalar::Bool(flag) => blake3::hash(flag.to_string().as_bytes()),
        Scalar::Float(number) => blake3::hash(number.to_string().as_bytes()),
        Scalar::Bytes(bytes) => blake3::hash(bytes),
        Scalar::Null | Scalar::Parts => {
            let mut hasher = Hasher::new();
            super::value::hash(column, row, &mut hasher);
            hasher.finalize()
        }
    };
    u64::from_be_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]))
}

/// Times of all rows, in the order of times.
pub(crate) fn times(column: &dyn Array) -> Vec<u64> {
    (0..column.len()).map(|row| time(column, row).unwrap_or(0)).collect()
}

/// A time as a number whose order is that of times; `None` for what is none.
pub(super) fn time(column: &dyn Array, row: usize) -> Option<u64> {
    const SIGN: u64 = 1 << 63;
    let of_int = |number: i64| number.cast_unsigned() ^ SIGN;
    match scalar(column, row) {
        Scalar::Int(number) => Some(of_int(i64::try_from(number).unwrap_or(i64::MAX))),
        Scalar::Float(number) if !number.is_nan() => {
            // Negative numbers have their order turned round (IEEE 754 is sign and magnitude).
            let bits = (number + 0.0).to_bits();
            Some(if bits & SIGN == 0 { bits | SIGN } else { !bits })
        }
        Scalar::Text(text) => {
            let time: jiff::Timestamp = text.trim().parse().ok()?;
            Some(of_int(time.as_microsecond()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    #[test]
    fn times_keep_their_order() {
        let texts = [
            "1969-12-31T23:59:59Z",
            "2024-02-29T12:00:00+02:00",
            "2024-02-29T10:00:01Z",
            "2024-02-29T10:00:01.5Z",
        ];
        let array = StringArray::from(texts.to_vec());
        let times: Vec<_> = (0..texts.len()).map(|row| time(&array, row).unwrap()).collect();
        assert!(times.is_sorted_by(|one, other| one < other), "{times:?}");
        assert_eq!(time(&StringArray::from(vec!["yesterday"]), 0), None);
    }

    proptest! {
        #[test]
        fn numbers_keep_their_order(a in -1e300..1e300f64, b in -1e300..1e300f64, c: i64, d: i64) {
            let floats = Float64Array::from(vec![a, b]);
            prop_assert_eq!(time(&floats, 0).cmp(&time(&floats, 1)), a.partial_cmp(&b).unwrap());
            let ints = Int64Array::from(vec![c, d]);
            prop_assert_eq!(time(&ints, 0).cmp(&time(&ints, 1)), c.cmp(&d));
        }

        #[test]
        fn a_key_is_read_as_it_was_written(content: u128, label: u64, split: u64, size: u32) {
            let key = Key { content, label, split, size };
            prop_assert_eq!(Key::of_bytes(&key.to_bytes()), key);
        }
    }
}
