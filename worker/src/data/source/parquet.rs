//! Rows of Parquet files: page by page, only the columns that are wanted.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::Value;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type};

use super::{Content, Fields, Record, open, read_error};
use crate::data::DataError;

/// Rows of a file.
pub(super) struct Rows {
    records: RowIter<'static>,
    path: PathBuf,
    line: u64,
    ended: bool,
}

impl Rows {
    /// Rows of the file at `path` with the columns that `names` say. A column that the file
    /// lacks is missing in each row.
    pub(super) fn open(path: &Path, names: &[&str]) -> Result<Self, DataError> {
        let file = open(path)?;
        let records = guarded(|| {
            let reader = SerializedFileReader::new(file)?;
            let wanted = projection(reader.metadata().file_metadata().schema_descr(), names)?;
            RowIter::from_file_into(Box::new(reader)).project(Some(wanted))
        });
        let records = records.map_err(|error| damaged(path, &error))?;
        Ok(Self { records, path: path.to_owned(), line: 0, ended: false })
    }
}

/// Names of the columns of the file at `path`.
pub(super) fn columns(path: &Path) -> Result<BTreeSet<String>, DataError> {
    let file = open(path)?;
    let names = guarded(|| {
        let reader = SerializedFileReader::new(file)?;
        let root = reader.metadata().file_metadata().schema_descr().root_schema();
        Ok(root.get_fields().iter().map(|field| field.name().to_owned()).collect())
    });
    names.map_err(|error| damaged(path, &error))
}

impl Iterator for Rows {
    type Item = Result<Record, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let row = guarded(|| self.records.next().transpose());
        match row {
            Ok(Some(row)) => {
                self.line += 1;
                Some(Ok(Record { line: self.line, content: Content::Fields(fields(row)) }))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(error) => {
                self.ended = true;
                Some(Err(damaged(&self.path, &error)))
            }
        }
    }
}

/// The library panics at schemas that it does not know.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(ParquetError::NYI("a type of column that this reader does not know".into()))
    })
}

fn damaged(path: &Path, error: &ParquetError) -> DataError {
    let detail = format!("not a Parquet file that can be read: {error}");
    read_error(path, std::io::Error::new(std::io::ErrorKind::InvalidData, detail))
}

/// The schema's root with the wanted columns alone, in the file's order.
fn projection(schema: &SchemaDescriptor, names: &[&str]) -> Result<Type, ParquetError> {
    let root = schema.root_schema();
    let wanted: Vec<Arc<Type>> =
        root.get_fields().iter().filter(|field| names.contains(&field.name())).cloned().collect();
    if wanted.is_empty() {
        let known: Vec<&str> = root.get_fields().iter().map(|field| field.name()).collect();
        return Err(ParquetError::General(format!(
            "it has no column {}, only {}",
            names.join(" or "),
            known.join(", ")
        )));
    }
    Type::group_type_builder(root.name()).with_fields(wanted).build()
}

fn fields(row: Row) -> Fields {
    row.into_columns().into_iter().map(|(name, field)| (name, value(&field))).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::from(()),
        Field::Bool(flag) => Value::from(*flag),
        Field::Byte(number) => Value::from(*number),
        Field::Short(number) => Value::from(*number),
        Field::Int(number) | Field::Date(number) | Field::TimeMillis(number) => {
            Value::from(*number)
        }
        Field::Long(number)
        | Field::TimeMicros(number)
        | Field::TimestampMillis(number)
        | Field::TimestampMicros(number) => Value::from(*number),
        Field::UByte(number) => Value::from(*number),
        Field::UShort(number) => Value::from(*number),
        Field::UInt(number) => Value::from(*number),
        Field::ULong(number) => Value::from(*number),
        Field::Float16(number) => Value::from(f32::from(*number)),
        Field::Float(number) => Value::from(*number),
        Field::Double(number) => Value::from(*number),
        Field::Decimal(_) => Value::from(field.to_string()),
        Field::Str(text) => Value::from(text.as_str()),
        // Texts of writers that do not annotate them.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            Err(_) => Value::from_bytes(bytes.data().to_vec()),
        },
        Field::Group(row) => Value::from_pairs(
            row.get_column_iter().map(|(name, field)| (name.clone(), value(field))),
        ),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            Value::from_pairs(map.entries().iter().map(|(key, field)| (value(key), value(field))))
        }
    }
}
