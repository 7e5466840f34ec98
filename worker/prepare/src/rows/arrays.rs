//! Arrow's arrays as the columns of [`crate::table`], and back.

use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BooleanArray, PrimitiveArray, StringArray};
use arrow_schema::DataType;

use super::columns::text;
use super::value::{Scalar, scalar};
use crate::error::PrepareError;
use crate::table::ColumnValues;

/// The column's values, where they are numbers, texts, or `true` and `false`.
pub(crate) fn values_of(array: &dyn Array) -> Option<ColumnValues> {
    let number = |row| match scalar(array, row) {
        Scalar::Int(number) => Some(number as f64),
        Scalar::Float(number) => Some(number).filter(|number| number.is_finite()),
        _ => None,
    };
    let rows = 0..array.len();
    match array.data_type() {
        DataType::Float32 | DataType::Float64 => {
            Some(ColumnValues::Number(rows.map(number).collect()))
        }
        whole if whole.is_integer() => Some(ColumnValues::Number(rows.map(number).collect())),
        DataType::Utf8 | DataType::Boolean => {
            let text = |row| text(scalar(array, row), None).ok().flatten();
            Some(ColumnValues::Category(rows.map(text).collect()))
        }
        _ => None,
    }
}

/// Whether the columns of that type are numbers.
pub(crate) fn holds_numbers(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Float32 | DataType::Float64) || data_type.is_integer()
}

/// The values as an array of that type. Numbers are rounded where the type has whole ones.
#[expect(clippy::cast_possible_truncation, reason = "a float of fewer digits is asked for")]
pub(crate) fn array_of(
    values: &ColumnValues,
    data_type: &DataType,
) -> Result<ArrayRef, PrepareError> {
    fn made<T: ArrowPrimitiveType>(
        values: &[Option<f64>],
        cast: impl Fn(f64) -> T::Native,
    ) -> ArrayRef {
        Arc::new(values.iter().map(|value| value.map(&cast)).collect::<PrimitiveArray<T>>())
    }
    macro_rules! whole {
        ($values:expr, $kind:ty, $native:ty) => {{
            #[allow(clippy::cast_sign_loss, reason = "of unsigned types alone; `as` saturates")]
            let made = made::<$kind>($values, |value| value.round() as $native);
            made
        }};
    }
    Ok(match (values, data_type) {
        (ColumnValues::Number(values), DataType::Float64) => made::<Float64Type>(values, |v| v),
        (ColumnValues::Number(values), DataType::Float32) => {
            made::<Float32Type>(values, |value| value as f32)
        }
        (ColumnValues::Number(values), DataType::Int8) => whole!(values, Int8Type, i8),
        (ColumnValues::Number(values), DataType::Int16) => whole!(values, Int16Type, i16),
        (ColumnValues::Number(values), DataType::Int32) => whole!(values, Int32Type, i32),
        (ColumnValues::Number(values), DataType::Int64) => whole!(values, Int64Type, i64),
        (ColumnValues::Number(values), DataType::UInt8) => whole!(values, UInt8Type, u8),
        (ColumnValues::Number(values), DataType::UInt16) => whole!(values, UInt16Type, u16),
        (ColumnValues::Number(values), DataType::UInt32) => whole!(values, UInt32Type, u32),
        (ColumnValues::Number(values), DataType::UInt64) => whole!(values, UInt64Type, u64),
        (ColumnValues::Category(values), DataType::Utf8) => {
            Arc::new(values.iter().map(Option::as_deref).collect::<StringArray>())
        }
        (ColumnValues::Category(values), DataType::Boolean) => {
            let flag = |value: &Option<String>| value.as_ref().map(|text| text == "true");
            Arc::new(values.iter().map(flag).collect::<BooleanArray>())
        }
        (ColumnValues::Category(values), other) => {
            let number = |value: &Option<String>| value.as_ref().and_then(|text| text.parse().ok());
            return array_of(&ColumnValues::Number(values.iter().map(number).collect()), other);
        }
        (ColumnValues::Number(_), other) => {
            return Err(PrepareError::Internal(format!("numbers as {other}")));
        }
    })
}

#[cfg(test)]
mod tests {
    use arrow_array::Int64Array;

    use super::*;

    #[test]
    fn arrays_become_columns_and_back() {
        let arrays: [ArrayRef; 5] = [
            Arc::new(Int64Array::from(vec![Some(3), None])),
            Arc::new(arrow_array::UInt8Array::from(vec![Some(3), None])),
            Arc::new(arrow_array::Float32Array::from(vec![Some(1.5), None])),
            Arc::new(StringArray::from(vec![Some("a"), None])),
            Arc::new(BooleanArray::from(vec![Some(true), None])),
        ];
        for array in arrays {
            let values = values_of(&array).unwrap();
            assert_eq!(&array_of(&values, array.data_type()).unwrap(), &array);
        }
        let values = ColumnValues::Number(vec![Some(1.6), Some(-3.0), Some(300.0)]);
        let array = array_of(&values, &DataType::UInt8).unwrap();
        assert_eq!(array.as_ref(), &arrow_array::UInt8Array::from(vec![2, 0, 255]));
    }
}
