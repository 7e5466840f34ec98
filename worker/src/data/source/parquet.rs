//! Rows of Parquet files: page by page, only the columns that are wanted.

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_parquet::{Fault, Opened, guarded};
use minijinja::Value;
use parquet::file::reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

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
        let opened = checked(path)?;
        opened.check_all(|column| names.contains(&column)).map_err(|fault| damaged(path, fault))?;
        let root = opened.metadata().file_metadata().schema_descr().root_schema();
        let wanted = projection(root, names)
            .map_err(|detail| read_error(path, Error::new(ErrorKind::InvalidData, detail)))?;
        let records = guarded(|| {
            let reader = SerializedFileReader::new(opened.into_file())?;
            RowIter::from_file_into(Box::new(reader)).project(Some(wanted))
        });
        let records = records.map_err(|fault| damaged(path, fault))?;
        Ok(Self { records, path: path.to_owned(), line: 0, ended: false })
    }
}

/// Names of the columns of the file at `path`.
pub(super) fn columns(path: &Path) -> Result<BTreeSet<String>, DataError> {
    let opened = checked(path)?;
    let root = opened.metadata().file_metadata().schema_descr().root_schema();
    Ok(root.get_fields().iter().map(|field| field.name().to_owned()).collect())
}

fn checked(path: &Path) -> Result<Opened, DataError> {
    Opened::new(open(path)?).map_err(|fault| damaged(path, fault))
}

fn damaged(path: &Path, fault: Fault) -> DataError {
    let error = match fault {
        Fault::Read(error) => error,
        Fault::Damaged(_) => Error::new(ErrorKind::InvalidData, fault.to_string()),
    };
    read_error(path, error)
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
            Err(fault) => {
                self.ended = true;
                Some(Err(damaged(&self.path, fault)))
            }
        }
    }
}

/// The schema's root with the wanted columns alone, in the file's order.
fn projection(root: &Type, names: &[&str]) -> Result<Type, String> {
    let wanted: Vec<Arc<Type>> =
        root.get_fields().iter().filter(|field| names.contains(&field.name())).cloned().collect();
    if wanted.is_empty() {
        let known: Vec<&str> = root.get_fields().iter().map(|field| field.name()).collect();
        return Err(format!("it has no column {}, only {}", names.join(" or "), known.join(", ")));
    }
    let built = Type::group_type_builder(root.name()).with_fields(wanted).build();
    built.map_err(|error| error.to_string())
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
