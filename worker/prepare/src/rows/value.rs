//! A value of an Arrow array, whatever its type.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use blake3::Hasher;

/// A value without parts; or that there are parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// Whole numbers, times and dates; decimals without their point.
    Int(i128),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// A list, a struct or a map.
    Parts,
}

/// The value at `row`. Types that sources do not have are without values.
pub(crate) fn scalar(array: &dyn Array, row: usize) -> Scalar<'_> {
    macro_rules! int {
        ($kind:ty) => {
            Scalar::Int(array.as_primitive::<$kind>().value(row).into())
        };
    }
    macro_rules! float {
        ($kind:ty) => {
            Scalar::Float(array.as_primitive::<$kind>().value(row).into())
        };
    }
    if array.is_null(row) {
        return Scalar::Null;
    }
    match array.data_type() {
        DataType::Boolean => Scalar::Bool(array.as_boolean().value(row)),
        DataType::Int8 => int!(Int8Type),
        DataType::Int16 => int!(Int16Type),
        DataType::Int32 => int!(Int32Type),
        DataType::Int64 => int!(Int64Type),
        DataType::UInt8 => int!(UInt8Type),
        DataType::UInt16 => int!(UInt16Type),
        DataType::UInt32 => int!(UInt32Type),
        DataType::UInt64 => int!(UInt64Type),
        DataType::Date32 => int!(Date32Type),
        DataType::Time32(TimeUnit::Second) => int!(Time32SecondType),
        DataType::Time32(_) => int!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => int!(Time64MicrosecondType),
        DataType::Time64(_) => int!(Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => int!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => int!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => int!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => int!(TimestampNanosecondType),
        DataType::Decimal128(..) => int!(Decimal128Type),
        DataType::Float16 => float!(Float16Type),
        DataType::Float32 => float!(Float32Type),
        DataType::Float64 => float!(Float64Type),
        DataType::Utf8 => Scalar::Text(array.as_string::<i32>().value(row)),
        DataType::Binary => Scalar::Bytes(array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(_) => Scalar::Bytes(array.as_fixed_size_binary().value(row)),
        DataType::List(_) | DataType::Struct(_) | DataType::Map(..) => Scalar::Parts,
        _ => Scalar::Null,
    }
}

/// Hashes the value at `row`. Equal values of other types are equal: numbers of other widths, and
/// structs that lack a field which is null in the other.
pub(crate) fn hash(array: &dyn Array, row: usize, hasher: &mut Hasher) {
    match scalar(array, row) {
        Scalar::Null => hasher.update(b"n"),
        Scalar::Bool(flag) => hasher.update(if flag { b"t" } else { b"f" }),
        Scalar::Int(number) => hasher.update(b"i").update(&number.to_le_bytes()),
        Scalar::Float(number) => match whole(number) {
            Some(whole) => hasher.update(b"i").update(&whole.to_le_bytes()),
            None => hasher.update(b"d").update(&number.to_bits().to_le_bytes()),
        },
        Scalar::Text(text) => sized(hasher, b's', text.as_bytes()),
        Scalar::Bytes(bytes) => sized(hasher, b'b', bytes),
        Scalar::Parts => {
            parts(array, row, hasher);
            hasher
        }
    };
}

fn sized<'h>(hasher: &'h mut Hasher, tag: u8, bytes: &[u8]) -> &'h mut Hasher {
    hasher.update(&[tag]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes)
}

#[expect(clippy::cast_possible_truncation, reason = "within 2^63 it is none")]
#[expect(clippy::float_cmp, reason = "whole, or not")]
fn whole(number: f64) -> Option<i128> {
    (number.trunc() == number && number.abs() < 9.2e18).then_some(number as i128)
}

fn parts(array: &dyn Array, row: usize, hasher: &mut Hasher) {
    let mut items = |values: &dyn Array, offsets: &[i32]| {
        let range = index(offsets[row])..index(offsets[row + 1]);
        hasher.update(b"l").update(&(range.len() as u64).to_le_bytes());
        range.for_each(|item| hash(values, item, hasher));
    };
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            items(list.values(), list.value_offsets());
        }
        DataType::Map(..) => {
            let map = array.as_map();
            items(map.entries(), map.value_offsets());
        }
        _ => {
            let fields = array.as_struct();
            let mut present: Vec<(&str, &ArrayRef)> = fields
                .column_names()
                .into_iter()
                .zip(fields.columns())
                .filter(|(_, column)| !column.is_null(row))
                .collect();
            present.sort_unstable_by_key(|(name, _)| *name);
            named(&present, row, hasher);
        }
    }
}

fn named(columns: &[(&str, &ArrayRef)], row: usize, hasher: &mut Hasher) {
    hasher.update(b"o").update(&(columns.len() as u64).to_le_bytes());
    for (name, column) in columns {
        sized(hasher, b'k', name.as_bytes());
        hash(column, row, hasher);
    }
}

/// Hashes all of a row that is there.
pub(crate) fn hash_row(batch: &RecordBatch, order: &[usize], row: usize, hasher: &mut Hasher) {
    let schema = batch.schema_ref();
    let columns =
        order.iter().map(|index| (schema.field(*index).name().as_str(), batch.column(*index)));
    let present: Vec<_> = columns.filter(|(_, column)| !column.is_null(row)).collect();
    named(&present, row, hasher);
}

/// Columns in the order of their names.
pub(crate) fn name_order(batch: &RecordBatch) -> Vec<usize> {
    let mut order: Vec<usize> = (0..batch.num_columns()).collect();
    order.sort_by_key(|index| batch.schema_ref().field(*index).name().clone());
    order
}

/// Offsets of Arrow's arrays are never negative.
pub(super) fn index(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

/// Bytes of each row, unpacked, roughly: of texts and bytes those, of all else eight.
pub(crate) fn add_sizes(array: &dyn Array, sizes: &mut [u32]) {
    for (row, size) in sizes.iter_mut().enumerate() {
        *size = size.saturating_add(size_of_value(array, row));
    }
}

fn size_of_value(array: &dyn Array, row: usize) -> u32 {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(4);
    let sum = |values: &dyn Array, offsets: &[i32]| {
        (index(offsets[row])..index(offsets[row + 1]))
            .fold(4_u32, |sum, item| sum.saturating_add(size_of_value(values, item)))
    };
    match scalar(array, row) {
        Scalar::Null => 1,
        Scalar::Text(text) => length(text.len()),
        Scalar::Bytes(bytes) => length(bytes.len()),
        Scalar::Bool(_) | Scalar::Int(_) | Scalar::Float(_) => 8,
        Scalar::Parts => match array.data_type() {
            DataType::List(_) => {
                sum(array.as_list::<i32>().values(), array.as_list::<i32>().value_offsets())
            }
            DataType::Map(..) => sum(array.as_map().entries(), array.as_map().value_offsets()),
            _ => array
                .as_struct()
                .columns()
                .iter()
                .fold(0, |sum, column| sum.saturating_add(size_of_value(column, row))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Float64Array, Int32Array, Int64Array, StringArray, StructArray};
    use arrow_schema::Field;
    use std::sync::Arc;

    fn of(array: &dyn Array, row: usize) -> blake3::Hash {
        let mut hasher = Hasher::new();
        hash(array, row, &mut hasher);
        hasher.finalize()
    }

    #[test]
    fn equal_values_of_other_types_are_equal() {
        let wide = Int64Array::from(vec![7, 8]);
        assert_eq!(of(&wide, 0), of(&Int32Array::from(vec![7]), 0));
        assert_eq!(of(&wide, 0), of(&Float64Array::from(vec![7.0]), 0));
        assert_ne!(of(&wide, 0), of(&wide, 1));
        assert_ne!(of(&wide, 0), of(&StringArray::from(vec!["7"]), 0));
        let of_fields = |names: &[&str]| {
            let columns = names.iter().map(|name| {
                let column: ArrayRef = match *name {
                    "a" => Arc::new(StringArray::from(vec!["x"])),
                    _ => Arc::new(StringArray::from(vec![None::<&str>])),
                };
                (Arc::new(Field::new(*name, DataType::Utf8, true)), column)
            });
            StructArray::from(columns.collect::<Vec<_>>())
        };
        assert_eq!(of(&of_fields(&["a"]), 0), of(&of_fields(&["b", "a"]), 0));
        assert_ne!(of(&of_fields(&["a"]), 0), of(&of_fields(&["b"]), 0));
    }
}
