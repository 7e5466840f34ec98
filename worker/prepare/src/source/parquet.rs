//! Rows of Parquet files, a row group at a time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};
use hearth_parquet::{Fault, Opened, guarded};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use super::kind::MAX_COLUMNS;
use super::{Chunk, Part};
use crate::error::PrepareError;

/// What a file says of itself.
pub(super) struct Footer {
    pub(super) schema: SchemaRef,
    pub(super) parts: Vec<Part>,
}

/// Reads and checks what a file says of itself.
pub(super) fn footer(path: &Path) -> Result<Footer, PrepareError> {
    let opened = open(path)?;
    let metadata = opened.arrow().map_err(|fault| failed(path, fault))?;
    let schema = Arc::clone(metadata.schema());
    let columns = metadata.parquet_schema().num_columns();
    if columns > MAX_COLUMNS {
        let detail = format!("{columns} columns; at most {MAX_COLUMNS} are read");
        return Err(PrepareError::damaged(path, 0, detail));
    }
    for field in schema.fields() {
        if let Some(unknown) = unknown(field.data_type()) {
            let detail = format!(
                "column {:?} holds {unknown}, which preparation does not read; write it as a number or a text",
                field.name()
            );
            return Err(PrepareError::damaged(path, 0, detail));
        }
    }
    let mut parts = Vec::new();
    let mut line = 1;
    for (index, group) in (0u64..).zip(metadata.metadata().row_groups()) {
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        let bytes = u64::try_from(group.compressed_size()).unwrap_or(0);
        parts.push(Part { file: 0, start: index, end: index + 1, line, rows: Some(rows), bytes });
        line += rows;
    }
    Ok(Footer { schema, parts })
}

fn open(path: &Path) -> Result<Opened, PrepareError> {
    let file = File::open(path).map_err(|error| PrepareError::reading(path, error))?;
    Opened::new(file).map_err(|fault| failed(path, fault))
}

fn failed(path: &Path, fault: Fault) -> PrepareError {
    match fault {
        Fault::Read(error) => PrepareError::reading(path, error),
        Fault::Damaged(_) => PrepareError::damaged(path, 0, fault.to_string()),
    }
}

/// Deals the rows of a row group in batches of about `bytes`, at most `count` rows each.
pub(super) fn read(
    path: &Path,
    part: &Part,
    bytes: usize,
    count: usize,
    send: &mut dyn FnMut(Chunk, u64) -> bool,
) -> Result<(), PrepareError> {
    let opened = open(path)?;
    let index = usize::try_from(part.start).unwrap_or(usize::MAX);
    let Some(group) = opened.metadata().row_groups().get(index) else {
        return Err(PrepareError::Changed { path: path.to_owned() });
    };
    let told = |fault: Fault| failed(path, fault.in_group(index));
    opened.check(index, |_| true).map_err(|fault| failed(path, fault))?;
    let each = u64::try_from(group.total_byte_size()).unwrap_or(0) / part.rows.unwrap_or(1).max(1);
    let rows = (bytes as u64 / each.max(1)).clamp(1, count as u64);
    let metadata = opened.arrow().map_err(told)?;
    let mut reader = guarded(|| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(opened.into_file(), metadata)
            .with_row_groups(vec![index])
            .with_batch_size(usize::try_from(rows).unwrap_or(1))
            .build()
    })
    .map_err(told)?;
    let mut line = part.line;
    loop {
        let batch = guarded(|| reader.next().transpose().map_err(ParquetError::from));
        match batch.map_err(told)? {
            Some(batch) => {
                let (rows, memory) = (batch.num_rows() as u64, batch.get_array_memory_size());
                if !send(Chunk::Batch { batch, line }, memory as u64) {
                    return Ok(());
                }
                line += rows;
            }
            None if part.rows != Some(line - part.line) => {
                return Err(told(Fault::Damaged("it has other rows than the footer says".into())));
            }
            None => return Ok(()),
        }
    }
}

/// The first type that rows cannot be compared by.
fn unknown(data_type: &DataType) -> Option<String> {
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float16
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::FixedSizeBinary(_)
        | DataType::Date32
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Timestamp(..)
        | DataType::Decimal128(..) => None,
        DataType::List(field) | DataType::Map(field, _) => unknown(field.data_type()),
        DataType::Struct(fields) => fields.iter().find_map(|field| unknown(field.data_type())),
        other => Some(other.to_string()),
    }
}
