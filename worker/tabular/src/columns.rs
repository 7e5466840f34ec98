//! Arrow's columns as numbers and texts.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TabularError};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ValueType {
    /// Doubles.
    Number,
    /// Floats of 32 bits.
    Float32,
    /// Whole numbers.
    Integer,
    /// `true` and `false`; as numbers 1 and 0.
    Boolean,
    /// Texts.
    Text,
}

impl ValueType {
    /// What a column of that type holds.
    ///
    /// # Errors
    ///
    /// Times, lists and all else of which no feature is made.
    pub(crate) fn of(name: &str, data_type: &DataType) -> Result<Self> {
        match data_type {
            DataType::Float64 => Ok(Self::Number),
            DataType::Float32 => Ok(Self::Float32),
            DataType::Boolean => Ok(Self::Boolean),
            DataType::Utf8 | DataType::LargeUtf8 => Ok(Self::Text),
            whole if whole.is_integer() => Ok(Self::Integer),
            time if time.is_temporal() => Err(TabularError::column(name, TIMES)),
            other => {
                let detail = format!("it holds {other}, of which no feature is made; exclude it");
                Err(TabularError::column(name, detail))
            }
        }
    }
}

/// What to do with times.
pub(crate) const TIMES: &str = "it holds times, of which no feature is made, for a model would know \
    none to come; exclude it, or give rows a number in its place, such as hours since something";

/// The column of that name.
pub(crate) fn column<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b dyn Array> {
    let column = batch.column_by_name(name).map(|column| &**column);
    column.ok_or_else(|| TabularError::column(name, "these rows do not have it"))
}

/// Calls `tell` with each row's number; NaN where it is missing or not finite.
///
/// # Errors
///
/// A column of texts, and of what [`ValueType::of`] refuses.
pub(crate) fn numbers(name: &str, array: &dyn Array, mut tell: impl FnMut(f64)) -> Result<()> {
    macro_rules! each {
        ($kind:ty) => {
            array.as_primitive::<$kind>().iter().for_each(|value| {
                let value = value.map_or(f64::NAN, |value| value as f64);
                tell(if value.is_finite() { value } else { f64::NAN });
            })
        };
    }
    #[allow(clippy::cast_lossless, clippy::unnecessary_cast, reason = "one macro for all types")]
    match array.data_type() {
        DataType::Float64 => each!(Float64Type),
        DataType::Float32 => each!(Float32Type),
        DataType::Int8 => each!(Int8Type),
        DataType::Int16 => each!(Int16Type),
        DataType::Int32 => each!(Int32Type),
        DataType::Int64 => each!(Int64Type),
        DataType::UInt8 => each!(UInt8Type),
        DataType::UInt16 => each!(UInt16Type),
        DataType::UInt32 => each!(UInt32Type),
        DataType::UInt64 => each!(UInt64Type),
        DataType::Boolean => {
            let flags = array.as_boolean().iter();
            flags.for_each(|flag| tell(flag.map_or(f64::NAN, f64::from)));
        }
        other => {
            ValueType::of(name, other)?;
            return Err(TabularError::column(name, "it holds texts where numbers are needed"));
        }
    }
    Ok(())
}

/// Calls `tell` with each row's text: numbers as the preparation of data writes them.
pub(crate) fn texts(
    name: &str,
    array: &dyn Array,
    mut tell: impl FnMut(Option<&str>),
) -> Result<()> {
    macro_rules! each {
        ($kind:ty) => {
            array
                .as_primitive::<$kind>()
                .iter()
                .for_each(|value| tell(value.map(|value| value.to_string()).as_deref()))
        };
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().iter().for_each(tell),
        DataType::LargeUtf8 => array.as_string::<i64>().iter().for_each(tell),
        DataType::Int8 => each!(Int8Type),
        DataType::Int16 => each!(Int16Type),
        DataType::Int32 => each!(Int32Type),
        DataType::Int64 => each!(Int64Type),
        DataType::UInt8 => each!(UInt8Type),
        DataType::UInt16 => each!(UInt16Type),
        DataType::UInt32 => each!(UInt32Type),
        DataType::UInt64 => each!(UInt64Type),
        DataType::Boolean => array
            .as_boolean()
            .iter()
            .for_each(|flag| tell(flag.map(|flag| if flag { "true" } else { "false" }))),
        _ => numbers(name, array, |value| {
            tell((!value.is_nan()).then(|| value.to_string()).as_deref());
        })?,
    }
    Ok(())
}
