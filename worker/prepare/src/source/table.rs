//! Rows of Parquet files as a source.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow_schema::{DataType, Field, FieldRef, Schema};

use super::{Bad, Bounds, Chunk, Format, Part, Rows, Scan, Source, parquet};
use crate::bad_rows::BadRows;
use crate::error::PrepareError;
use crate::progress::Counter;

/// Files that tell their columns themselves.
pub(super) struct TableFormat;

impl Format for TableFormat {
    fn scan(
        &self,
        source: &Source,
        bounds: Bounds,
        _bad: &mut BadRows,
        counter: &mut Counter<'_>,
    ) -> Result<Scan, PrepareError> {
        let mut fields: Vec<FieldRef> = Vec::new();
        let mut parts = Vec::new();
        for (index, file) in source.files.iter().enumerate() {
            let footer = parquet::footer(&file.path)?;
            let names: Vec<&str> =
                footer.schema.fields().iter().map(|field| field.name().as_str()).collect();
            source.needs(&file.path, &names)?;
            for field in footer.schema.fields() {
                let field = as_read(source, field);
                match fields.iter().find(|known| known.name() == field.name()) {
                    None => fields.push(field),
                    Some(known) if known.data_type() == field.data_type() => {}
                    Some(known) => {
                        let detail = format!(
                            "column {:?} holds {}, and {} in the files before; write it as one type",
                            field.name(),
                            field.data_type(),
                            known.data_type()
                        );
                        return Err(PrepareError::damaged(&file.path, 0, detail));
                    }
                }
            }
            for part in footer.parts {
                counter.add(part.rows.unwrap_or(0), 0);
                parts.push(Part { file: index, ..part });
            }
            counter.add(0, file.size);
        }
        Ok(Scan::new(Arc::new(Schema::new(fields)), parts, bounds))
    }

    fn read(
        &self,
        source: &Source,
        scan: &Scan,
        part: &Part,
        send: &mut dyn FnMut(Chunk, u64) -> bool,
    ) -> Result<(), PrepareError> {
        let count = Bounds::rows(scan.schema.flattened_fields().len());
        let path = &source.files[part.file].path;
        parquet::read(path, part, scan.bounds.chunk_bytes, count, send)
    }

    fn decode(&self, _source: &Source, scan: &Scan, chunk: Chunk) -> Result<Rows, PrepareError> {
        let Chunk::Batch { batch, line } = chunk else {
            return Err(PrepareError::internal("rows of a table that are not decoded"));
        };
        let rows = batch.num_rows();
        let mut refused = BTreeMap::new();
        let columns =
            scan.schema.fields().iter().map(|field| match batch.column_by_name(field.name()) {
                None => new_null_array(field.data_type(), rows),
                Some(column) => as_texts(field, column, &mut refused),
            });
        let columns: Vec<ArrayRef> = columns.collect();
        let batch = RecordBatch::try_new(Arc::clone(&scan.schema), columns)
            .map_err(PrepareError::internal)?;
        let lines: Vec<u64> = (line..line + rows as u64).collect();
        let bad = refused
            .iter()
            .map(|(row, name)| Bad {
                line: lines[*row],
                reason: format!("field {name:?} is not UTF-8"),
            })
            .collect();
        let keep = (0..rows).map(|row| Some(!refused.contains_key(&row))).collect();
        let batch = arrow_select::filter::filter_record_batch(&batch, &keep)
            .map_err(PrepareError::internal)?;
        let lines =
            (0..rows).filter(|row| !refused.contains_key(row)).map(|row| lines[row]).collect();
        Ok(Rows { batch, lines, bad, dropped: BTreeMap::new() })
    }
}

/// The type as which a column is read: everything may be missing, and what should be texts is,
/// also where its writer did not say so.
fn as_read(source: &Source, field: &FieldRef) -> FieldRef {
    let text = source.touched.texts().iter().any(|name| name == field.name());
    let data_type = match field.data_type() {
        DataType::Binary if text => DataType::Utf8,
        other => other.clone(),
    };
    Arc::new(Field::new(field.name(), data_type, true))
}

fn as_texts(
    field: &FieldRef,
    column: &ArrayRef,
    refused: &mut BTreeMap<usize, String>,
) -> ArrayRef {
    if field.data_type() != &DataType::Utf8 || column.data_type() != &DataType::Binary {
        return Arc::clone(column);
    }
    let texts = column.as_binary::<i32>().iter().enumerate().map(|(row, bytes)| {
        let text = bytes.map(str::from_utf8);
        if let Some(Err(_)) = text {
            refused.insert(row, field.name().clone());
        }
        text.and_then(Result::ok)
    });
    Arc::new(texts.collect::<StringArray>())
}
