//! Columns of Arrow tables: keys, times and features, whatever type they are written as.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow_schema::{DataType, Schema, TimeUnit};
use hearth_crds::features::FeatureType;

use crate::error::TableError;
use crate::layout::MAX_ENTITY_BYTES;
use crate::value;

/// What a column is used as.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    Key,
    Time,
    Feature(FeatureType),
}

/// A value that is not what its column is used as.
pub(crate) struct Unfit;

/// A value of a feature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'a> {
    Number(f64),
    Integer(i64),
    Boolean(bool),
    Text(&'a str),
}

enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(&'a str),
    /// Nanoseconds since 1970.
    Time(i128),
}

pub(crate) const MILLISECOND: i128 = 1_000_000;
const SECOND: i128 = 1_000 * MILLISECOND;

impl Use {
    pub(crate) fn wanted(self) -> &'static str {
        match self {
            Self::Key => "a text of 1 to 1024 bytes or a whole number",
            Self::Time => "a timestamp, a date, RFC 3339 or milliseconds since 1970",
            Self::Feature(type_) => value::wanted(type_),
        }
    }

    fn takes(self, found: &DataType) -> bool {
        let text = matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let number = found.is_integer()
            || matches!(found, DataType::Float32 | DataType::Float64 | DataType::Null);
        match self {
            Self::Key => text || found.is_integer(),
            Self::Time => {
                let time = matches!(found, DataType::Timestamp(..) | DataType::Date32);
                time || text || *found == DataType::Int64
            }
            Self::Feature(FeatureType::Number | FeatureType::Integer) => number,
            Self::Feature(FeatureType::Boolean) => {
                matches!(found, DataType::Boolean | DataType::Null)
            }
            Self::Feature(FeatureType::Text) => text || *found == DataType::Null,
        }
    }
}

/// Where a column is that can be used so.
pub(crate) fn find(schema: &Schema, column: &str, use_: Use) -> Result<usize, TableError> {
    let Some((at, field)) = schema.column_with_name(column) else {
        let there = schema.fields().iter().map(|field| format!("{:?}", field.name()));
        let there = there.take(50).collect::<Vec<_>>().join(", ");
        return Err(TableError::NoColumn { column: column.to_owned(), there });
    };
    if use_.takes(field.data_type()) {
        return Ok(at);
    }
    let found = field.data_type().to_string();
    Err(TableError::Type { column: column.to_owned(), found, wanted: use_.wanted() })
}

/// The entity of a row; none where its key is null or an empty text.
pub(crate) fn entity(column: &dyn Array, row: usize) -> Result<Option<String>, Unfit> {
    match scalar(column, row) {
        Scalar::Text(text) if text.len() > MAX_ENTITY_BYTES => Err(Unfit),
        Scalar::Text(text) if !text.is_empty() => Ok(Some(text.to_owned())),
        Scalar::Int(number) => Ok(Some(number.to_string())),
        _ => Ok(None),
    }
}

/// Nanoseconds since 1970; none where there is no time.
pub(crate) fn nanoseconds(column: &dyn Array, row: usize) -> Result<Option<i128>, Unfit> {
    match scalar(column, row) {
        Scalar::Time(time) => Ok(Some(time)),
        Scalar::Int(milliseconds) => Ok(Some(milliseconds * MILLISECOND)),
        Scalar::Text(text) => {
            let time: jiff::Timestamp = text.parse().map_err(|_| Unfit)?;
            Ok(Some(time.as_nanosecond()))
        }
        _ => Ok(None),
    }
}

/// Milliseconds since 1970, rounded down, as the store has them.
pub(crate) fn milliseconds(nanoseconds: i128) -> Result<i64, Unfit> {
    let time = i64::try_from(nanoseconds.div_euclid(MILLISECOND)).map_err(|_| Unfit)?;
    (-value::MAX_INTEGER..=value::MAX_INTEGER).contains(&time).then_some(time).ok_or(Unfit)
}

/// A feature's value; none where it is null or NaN.
pub(crate) fn cell(
    column: &dyn Array,
    row: usize,
    type_: FeatureType,
) -> Result<Option<Cell<'_>>, Unfit> {
    let read = match (scalar(column, row), type_) {
        (Scalar::Null, _) => return Ok(None),
        (Scalar::Float(number), _) if number.is_nan() => return Ok(None),
        (Scalar::Float(number), FeatureType::Number) => {
            number.is_finite().then_some(Cell::Number(number))
        }
        (Scalar::Float(number), FeatureType::Integer) => value::whole(number).map(Cell::Integer),
        (Scalar::Int(number), FeatureType::Number) => Some(Cell::Number(number as f64)),
        (Scalar::Int(number), FeatureType::Integer) => i64::try_from(number)
            .ok()
            .filter(|number| (-value::MAX_INTEGER..=value::MAX_INTEGER).contains(number))
            .map(Cell::Integer),
        (Scalar::Bool(flag), FeatureType::Boolean) => Some(Cell::Boolean(flag)),
        (Scalar::Text(text), FeatureType::Text) => Some(Cell::Text(text)),
        _ => None,
    };
    read.map(Some).ok_or(Unfit)
}

impl Cell<'_> {
    /// As the store has it.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Number(number) => value::shortest(number),
            Self::Integer(number) => Some(number.to_string()),
            Self::Boolean(flag) => Some(flag.to_string()),
            Self::Text(text) => Some(text.to_owned()),
        }
    }
}

/// The type of a feature's column.
pub(crate) fn arrow_type(type_: FeatureType) -> DataType {
    match type_ {
        FeatureType::Number => DataType::Float64,
        FeatureType::Integer => DataType::Int64,
        FeatureType::Boolean => DataType::Boolean,
        FeatureType::Text => DataType::Utf8,
    }
}

/// A column of a feature's type.
pub(crate) fn array(cells: &[Option<Cell<'_>>], type_: FeatureType) -> ArrayRef {
    macro_rules! of {
        ($array:ty, $kind:path) => {
            Arc::new(
                cells
                    .iter()
                    .map(|cell| match cell {
                        Some($kind(value)) => Some(*value),
                        _ => None,
                    })
                    .collect::<$array>(),
            )
        };
    }
    match type_ {
        FeatureType::Number => of!(Float64Array, Cell::Number),
        FeatureType::Integer => of!(Int64Array, Cell::Integer),
        FeatureType::Boolean => of!(BooleanArray, Cell::Boolean),
        FeatureType::Text => of!(StringArray, Cell::Text),
    }
}

fn scalar(column: &dyn Array, row: usize) -> Scalar<'_> {
    macro_rules! value {
        ($kind:ty) => {
            column.as_primitive::<$kind>().value(row)
        };
    }
    if column.is_null(row) {
        return Scalar::Null;
    }
    match column.data_type() {
        DataType::Boolean => Scalar::Bool(column.as_boolean().value(row)),
        DataType::Int8 => Scalar::Int(value!(Int8Type).into()),
        DataType::Int16 => Scalar::Int(value!(Int16Type).into()),
        DataType::Int32 => Scalar::Int(value!(Int32Type).into()),
        DataType::Int64 => Scalar::Int(value!(Int64Type).into()),
        DataType::UInt8 => Scalar::Int(value!(UInt8Type).into()),
        DataType::UInt16 => Scalar::Int(value!(UInt16Type).into()),
        DataType::UInt32 => Scalar::Int(value!(UInt32Type).into()),
        DataType::UInt64 => Scalar::Int(value!(UInt64Type).into()),
        DataType::Float32 => Scalar::Float(widened(value!(Float32Type))),
        DataType::Float64 => Scalar::Float(value!(Float64Type)),
        DataType::Utf8 => Scalar::Text(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => Scalar::Text(column.as_string::<i64>().value(row)),
        DataType::Utf8View => Scalar::Text(column.as_string_view().value(row)),
        DataType::Date32 => Scalar::Time(i128::from(value!(Date32Type)) * 86_400 * SECOND),
        DataType::Timestamp(unit, _) => Scalar::Time(match unit {
            TimeUnit::Second => i128::from(value!(TimestampSecondType)) * SECOND,
            TimeUnit::Millisecond => i128::from(value!(TimestampMillisecondType)) * MILLISECOND,
            TimeUnit::Microsecond => i128::from(value!(TimestampMicrosecondType)) * 1000,
            TimeUnit::Nanosecond => i128::from(value!(TimestampNanosecondType)),
        }),
        _ => Scalar::Null,
    }
}

/// The number that a text of the narrow one says: 0.1 stays 0.1.
fn widened(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}
