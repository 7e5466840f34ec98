//! Rows of Parquet files, a row group at a time.

use std::fmt::Display;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;

use super::kind::MAX_COLUMNS;
use super::{Chunk, Part, pages};
use crate::error::PrepareError;

/// Most bytes of a file's footer, which is read at once.
const MAX_FOOTER: u64 = 256 << 20;

/// What a file says of itself.
pub(super) struct Footer {
    pub(super) schema: SchemaRef,
    pub(super) parts: Vec<Part>,
}

/// Reads and checks what a file says of itself.
pub(super) fn footer(path: &Path) -> Result<Footer, PrepareError> {
    let metadata = open(path)?.1;
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

fn open(path: &Path) -> Result<(File, ArrowReaderMetadata), PrepareError> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (size, file) = opened.map_err(|error| PrepareError::reading(path, error))?;
    let claimed = footer_size(&file, size);
    let Some(claimed) = claimed.filter(|claimed| *claimed <= size.min(MAX_FOOTER) - 8) else {
        return Err(unreadable(path, "it does not end as one: truncated?"));
    };
    let mut footer = vec![0; usize::try_from(claimed).unwrap_or(0)];
    file.read_exact_at(&mut footer, size - 8 - claimed)
        .map_err(|error| PrepareError::reading(path, error))?;
    pages::check_nesting(&footer).map_err(|detail| unreadable(path, detail))?;
    drop(footer);
    // What a writer says of Arrow's types is passed over: dictionaries and views become texts.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = guarded(|| ArrowReaderMetadata::load(&file, options))
        .map_err(|error| unreadable(path, error))?;
    Ok((file, metadata))
}

/// Bytes of the footer, as the file's last eight say.
fn footer_size(file: &File, size: u64) -> Option<u64> {
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, size.checked_sub(8)?).ok()?;
    let [a, b, c, d, magic @ ..] = tail;
    (&magic == b"PAR1").then(|| u64::from(u32::from_le_bytes([a, b, c, d])))
}

/// Deals the rows of a row group in batches of about `bytes`, at most `count` rows each.
pub(super) fn read(
    path: &Path,
    part: &Part,
    bytes: usize,
    count: usize,
    send: &mut dyn FnMut(Chunk, u64) -> bool,
) -> Result<(), PrepareError> {
    let (file, metadata) = open(path)?;
    let index = usize::try_from(part.start).unwrap_or(usize::MAX);
    let Some(group) = metadata.metadata().row_groups().get(index) else {
        return Err(PrepareError::Changed { path: path.to_owned() });
    };
    let size = file.metadata().map_err(|error| PrepareError::reading(path, error))?.len();
    let told = |detail: &dyn Display| unreadable(path, format!("row group {index}: {detail}"));
    check(&file, size, group).map_err(|detail| told(&detail))?;
    let each = u64::try_from(group.total_byte_size()).unwrap_or(0) / part.rows.unwrap_or(1).max(1);
    let rows = (bytes as u64 / each.max(1)).clamp(1, count as u64);
    let mut reader = guarded(|| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
            .with_row_groups(vec![index])
            .with_batch_size(usize::try_from(rows).unwrap_or(1))
            .build()
    })
    .map_err(|error| told(&error))?;
    let mut line = part.line;
    loop {
        let batch = guarded(|| reader.next().transpose().map_err(ParquetError::from));
        match batch.map_err(|error| told(&error))? {
            Some(batch) => {
                let (rows, memory) = (batch.num_rows() as u64, batch.get_array_memory_size());
                if !send(Chunk::Batch { batch, line }, memory as u64) {
                    return Ok(());
                }
                line += rows;
            }
            None if part.rows != Some(line - part.line) => {
                return Err(told(&"it has other rows than the footer says"));
            }
            None => return Ok(()),
        }
    }
}

/// Whether a row group can be where it says that it is, and its pages what they say that they are.
fn check(file: &File, size: u64, group: &RowGroupMetaData) -> Result<(), String> {
    for column in group.columns() {
        let unsigned =
            |number: i64| u64::try_from(number).map_err(|_| "a negative size".to_owned());
        let data = unsigned(column.data_page_offset())?;
        let dictionary = column.dictionary_page_offset().map(unsigned).transpose()?;
        let start = dictionary.filter(|start| *start > 0).map_or(data, |start| start.min(data));
        let length = unsigned(column.compressed_size())?;
        let name = column.column_path().string();
        if let packed @ (Compression::BROTLI(_) | Compression::LZO) = column.compression() {
            let packed = packed.to_string();
            let packed = packed.split('(').next().unwrap_or(&packed);
            return Err(format!(
                "column {name:?} is packed with {packed}, which is not read; use ZSTD"
            ));
        }
        if start.checked_add(length).is_none_or(|end| end > size) {
            return Err(format!("column {name:?} goes beyond the file's end: truncated?"));
        }
        pages::check(file, start, length, column.compression())
            .map_err(|told| format!("column {name:?}: {told}"))?;
    }
    Ok(())
}

/// The library panics at some of what it does not expect.
fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
        Err(ParquetError::General("it holds what the reader does not expect".to_owned()))
    })
}

fn unreadable(path: &Path, detail: impl Display) -> PrepareError {
    let detail = format!("not a Parquet file that can be read: {detail}; write it again");
    PrepareError::damaged(path, 0, detail)
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
