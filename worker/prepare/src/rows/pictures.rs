//! A column of pictures: `{bytes, path}`, as the `Image` feature of Hugging Face `datasets` writes
//! it, or bytes alone.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, ArrayRef, BinaryArray, StringArray, StructArray};
use arrow_schema::{ArrowError, DataType, Field, Fields};

const BYTES: &str = "bytes";
const PATH: &str = "path";

/// A column's pictures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pictures<'a> {
    column: &'a ArrayRef,
    bytes: &'a BinaryArray,
}

impl<'a> Pictures<'a> {
    /// Of a column; `None` where it holds no pictures.
    pub(crate) fn of(column: &'a ArrayRef) -> Option<Self> {
        let bytes = match column.as_struct_opt() {
            Some(parts) => parts.column_by_name(BYTES)?,
            None => column,
        };
        Some(Self { column, bytes: bytes.as_binary_opt::<i32>()? })
    }

    /// What is wrong with a field that should hold pictures.
    pub(crate) fn refusal(field: &Field) -> Option<String> {
        let is_bytes = match field.data_type() {
            DataType::Struct(parts) => {
                parts.find(BYTES).is_some_and(|(_, part)| part.data_type() == &DataType::Binary)
            }
            other => other == &DataType::Binary,
        };
        (!is_bytes).then(|| {
            format!(
                "field {:?} holds {}, no pictures {{bytes, path}}; preparation reads pictures from Parquet, from one file of JSONL that names them, or with format: ImageFolder from a directory",
                field.name(),
                field.data_type()
            )
        })
    }

    /// The bytes of the row's picture, where it has one.
    pub(crate) fn get(&self, row: usize) -> Option<&'a [u8]> {
        let there = !self.column.is_null(row) && !self.bytes.is_null(row);
        there.then(|| self.bytes.value(row)).filter(|bytes| !bytes.is_empty())
    }

    /// The column with other pictures in their places.
    pub(crate) fn replaced(&self, bytes: BinaryArray) -> Result<ArrayRef, ArrowError> {
        let bytes: ArrayRef = Arc::new(bytes);
        let Some(parts) = self.column.as_struct_opt() else { return Ok(bytes) };
        let columns = parts
            .column_names()
            .into_iter()
            .zip(parts.columns())
            .map(|(name, column)| Arc::clone(if name == BYTES { &bytes } else { column }));
        let (fields, nulls) = (parts.fields().clone(), parts.nulls().cloned());
        Ok(Arc::new(StructArray::try_new(fields, columns.collect(), nulls)?))
    }
}

/// The type of pictures that are made here.
pub(crate) fn data_type() -> DataType {
    DataType::Struct(parts())
}

/// A column of pictures with their paths.
pub(crate) fn column(
    pictures: &[Option<Vec<u8>>],
    paths: StringArray,
) -> Result<ArrayRef, ArrowError> {
    let bytes: BinaryArray = pictures.iter().map(Option::as_deref).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(bytes), Arc::new(paths)];
    Ok(Arc::new(StructArray::try_new(parts(), columns, None)?))
}

fn parts() -> Fields {
    [(BYTES, DataType::Binary), (PATH, DataType::Utf8)]
        .map(|(name, data_type)| Field::new(name, data_type, true))
        .into_iter()
        .collect()
}
