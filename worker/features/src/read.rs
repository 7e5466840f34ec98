//! Parquet files, a batch of rows at a time.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use hearth_parquet::{Opened, guarded};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use crate::column::{self, Unfit, Use};
use crate::config::View;
use crate::error::{LoadError, TableError};

/// Names of the columns that say whose a row is, and when it was true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Column of the entity's key: texts or whole numbers.
    pub key: String,
    /// Column of the time: timestamps (UTC where they have no zone), dates, RFC 3339, or milliseconds
    /// since 1970.
    pub time: String,
}

/// What is written of an entity.
pub(crate) struct Entry {
    pub(crate) entity: String,
    /// Milliseconds since 1970.
    pub(crate) time: i64,
    /// Features by their number in the view, and their texts.
    pub(crate) fields: Vec<(usize, String)>,
}

/// The newest row of each entity of some rows, and what became of the others.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    pub(crate) rows: u64,
    pub(crate) older: u64,
    pub(crate) without_key: u64,
    pub(crate) without_time: u64,
}

/// Where a view's columns are.
pub(crate) struct Places {
    pub(crate) key: usize,
    pub(crate) time: usize,
    pub(crate) features: Vec<usize>,
}

impl Places {
    pub(crate) fn of(view: &View, columns: &Columns, schema: &Schema) -> Result<Self, TableError> {
        let features = view.features.iter();
        Ok(Self {
            key: column::find(schema, &columns.key, Use::Key)?,
            time: column::find(schema, &columns.time, Use::Time)?,
            features: features
                .map(|feature| column::find(schema, &feature.field, Use::Feature(feature.type_)))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// Deals the columns that a view needs, at most `rows` rows at a time, with the number of the first, until `take`
/// returns false.
pub(crate) fn batches(
    path: &Path,
    view: &View,
    columns: &Columns,
    rows: usize,
    mut take: impl FnMut(&RecordBatch, u64) -> Result<bool, TableError>,
) -> Result<(), LoadError> {
    let file =
        File::open(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let read = |fault| LoadError::read(path, fault);
    let opened = Opened::new(file).map_err(read)?;
    let metadata = opened.arrow().map_err(read)?;
    let schema = metadata.schema();
    let places = Places::of(view, columns, schema).map_err(|e| LoadError::table(path, e))?;
    let needed: Vec<usize> = [places.key, places.time].into_iter().chain(places.features).collect();
    let is_needed = |name: &str| needed.iter().any(|place| schema.field(*place).name() == name);
    opened.check_all(is_needed).map_err(read)?;
    let mask = ProjectionMask::roots(metadata.parquet_schema(), needed.iter().copied());
    let mut reader = guarded(|| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(opened.into_file(), metadata)
            .with_projection(mask)
            .with_batch_size(rows)
            .build()
    })
    .map_err(read)?;
    let mut first = 0;
    loop {
        let batch = guarded(|| reader.next().transpose().map_err(ParquetError::from));
        let Some(batch) = batch.map_err(read)? else {
            return Ok(());
        };
        if !take(&batch, first).map_err(|error| LoadError::table(path, error))? {
            return Ok(());
        }
        first += batch.num_rows() as u64;
    }
}

/// What is to be written of a batch. `first` is the number of its first row in the file.
pub(crate) fn entries(
    batch: &RecordBatch,
    first: u64,
    view: &View,
    columns: &Columns,
) -> Result<Batch, TableError> {
    let places = Places::of(view, columns, &batch.schema())?;
    let mut read = Batch { rows: batch.num_rows() as u64, ..Batch::default() };
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for row in 0..batch.num_rows() {
        let unfit = |column: &str, use_: Use| {
            let (column, row) = (column.to_owned(), first + row as u64);
            move |_: Unfit| TableError::Value { column, row, wanted: use_.wanted() }
        };
        let entity = column::entity(batch.column(places.key), row);
        let Some(entity) = entity.map_err(unfit(&columns.key, Use::Key))? else {
            read.without_key += 1;
            continue;
        };
        let time = column::nanoseconds(batch.column(places.time), row)
            .and_then(|time| time.map(column::milliseconds).transpose());
        let Some(time) = time.map_err(unfit(&columns.time, Use::Time))? else {
            read.without_time += 1;
            continue;
        };
        let mut fields = Vec::with_capacity(places.features.len());
        for (number, (feature, place)) in view.features.iter().zip(&places.features).enumerate() {
            let cell = column::cell(batch.column(*place), row, feature.type_);
            let cell = cell.map_err(unfit(&feature.name, Use::Feature(feature.type_)))?;
            fields.extend(cell.and_then(column::Cell::text).map(|text| (number, text)));
        }
        read.keep(Entry { entity, time, fields }, &mut numbers);
    }
    Ok(read)
}

impl Batch {
    /// Of an entity's rows the newest stays, and of those the last.
    fn keep(&mut self, entry: Entry, numbers: &mut HashMap<String, usize>) {
        match numbers.get(&entry.entity).and_then(|number| self.entries.get_mut(*number)) {
            None => {
                numbers.insert(entry.entity.clone(), self.entries.len());
                self.entries.push(entry);
            }
            Some(kept) => {
                self.older += 1;
                if entry.time >= kept.time {
                    *kept = entry;
                }
            }
        }
    }
}
