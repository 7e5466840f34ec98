//! Features as they were at each training row's time.
//!
//! Of an entity's rows, the newest one whose time is at or before the row's joins it, as with Feast and
//! `pandas.merge_asof` (backward, exact matches allowed); where times are equal, the last one added. A value
//! that is null in that row is missing: an older row's is not taken, since the store, too, holds whole rows.
//!
//! The features are in memory, up to a limit; training rows pass through a batch at a time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{Field, Schema};
use arrow_select::interleave::interleave;
use hearth_crds::features::FeatureView;
use serde_json::Value;

use crate::column::{self, Cell, Unfit, Use};
use crate::config::{View, Wanted};
use crate::error::{ConfigError, LoadError, TableError};
use crate::read::{self, Columns, Places};

/// What missing features become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// Null.
    Nulls,
    /// Their default, as when a model is served; null without one.
    #[default]
    Defaults,
}

/// How features are kept and joined.
#[derive(Clone, Debug)]
pub struct HistoryOptions {
    /// What missing features become.
    pub fill: Fill,
    /// Most bytes of memory that the features may take, as far as they can be counted.
    pub max_bytes: usize,
    /// How long after its time a feature is seen first.
    pub delay: Duration,
}

impl Default for HistoryOptions {
    fn default() -> Self {
        Self { fill: Fill::default(), max_bytes: 1 << 30, delay: Duration::ZERO }
    }
}

/// Takes features, in any order.
#[derive(Debug)]
pub struct HistoryBuilder {
    history: History,
    columns: Columns,
    max_bytes: usize,
    bytes: usize,
    rows: u64,
}

/// Features of entities over time, to be joined to training rows.
#[derive(Debug)]
pub struct History {
    view: View,
    /// By feature: what missing ones become, then a column of each batch.
    values: Vec<Vec<ArrayRef>>,
    /// By entity: its rows, in the order of their times.
    entities: HashMap<Box<str>, Vec<Stamp>>,
    fill: Fill,
    /// Nanoseconds.
    delay: i128,
    passed_over: u64,
}

/// Rows with what joined them.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The rows, with a column of each feature behind theirs.
    pub rows: RecordBatch,
    /// Rows whose key or time cannot be read, by their number, with what is wrong. No features
    /// joined them.
    pub flaws: Vec<(usize, String)>,
}

/// A row of features.
#[derive(Clone, Copy, Debug)]
struct Stamp {
    /// Nanoseconds since 1970.
    time: i128,
    batch: u32,
    row: u32,
}

/// What an entity takes beside its key and its rows, about.
const ENTITY_BYTES: usize = 64;

impl History {
    /// Of a view's features, in tables whose key and time are these columns.
    pub fn builder(
        view: &FeatureView,
        columns: Columns,
        options: &HistoryOptions,
    ) -> Result<HistoryBuilder, ConfigError> {
        let view = View::new(view)?;
        let values = view.features.iter().map(|feature| vec![filler(feature, options.fill)]);
        let history = Self {
            values: values.collect(),
            view,
            entities: HashMap::new(),
            fill: options.fill,
            delay: i128::try_from(options.delay.as_nanos()).unwrap_or(i128::MAX),
            passed_over: 0,
        };
        Ok(HistoryBuilder { history, columns, max_bytes: options.max_bytes, bytes: 0, rows: 0 })
    }

    /// Rows of features that named no entity or had no time.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// The schema of joined rows.
    pub fn schema(&self, rows: &Schema, columns: &Columns) -> Result<Schema, TableError> {
        column::find(rows, &columns.key, Use::Key)?;
        column::find(rows, &columns.time, Use::Time)?;
        let mut fields = rows.fields().to_vec();
        for feature in &self.view.features {
            if rows.column_with_name(&feature.name).is_some() {
                return Err(TableError::Double { column: feature.name.clone() });
            }
            let type_ = column::arrow_type(feature.type_);
            fields.push(Arc::new(Field::new(&feature.name, type_, true)));
        }
        Ok(Schema::new(fields))
    }

    /// Joins features to rows. A row without a key has none; one without a time is flawed.
    pub fn join(&self, rows: &RecordBatch, columns: &Columns) -> Result<Joined, TableError> {
        let schema = Arc::new(self.schema(rows.schema_ref(), columns)?);
        let key = rows.column(column::find(&schema, &columns.key, Use::Key)?);
        let time = rows.column(column::find(&schema, &columns.time, Use::Time)?);
        let mut flaws = Vec::new();
        let mut found = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let no = |name: &str, use_: Use| format!("field {name:?} is not {}", use_.wanted());
            let entity = column::entity(key, row).map_err(|_| no(&columns.key, Use::Key));
            let time = column::nanoseconds(time, row).and_then(|time| time.ok_or(Unfit));
            let time = time.map_err(|_| no(&columns.time, Use::Time));
            match entity.and_then(|entity| Ok((entity, time?))) {
                Ok((entity, time)) => found.push(entity.and_then(|of| self.as_of(&of, time))),
                Err(flaw) => {
                    flaws.push((row, flaw));
                    found.push(None);
                }
            }
        }
        let mut arrays = rows.columns().to_vec();
        for values in &self.values {
            arrays.push(self.pick(values, &found)?);
        }
        let rows = RecordBatch::try_new(schema, arrays).map_err(internal)?;
        Ok(Joined { rows, flaws })
    }

    /// The row of features that was true of an entity at a time.
    fn as_of(&self, entity: &str, time: i128) -> Option<Stamp> {
        let stamps = self.entities.get(entity)?;
        let seen = time - self.delay;
        let later = stamps.partition_point(|stamp| stamp.time <= seen);
        let stamp = *stamps.get(later.checked_sub(1)?)?;
        let fresh = self
            .view
            .max_age
            .is_none_or(|most| time - stamp.time <= i128::from(most) * column::MILLISECOND);
        fresh.then_some(stamp)
    }

    fn pick(&self, values: &[ArrayRef], found: &[Option<Stamp>]) -> Result<ArrayRef, TableError> {
        let places = found.iter().map(|stamp| match stamp {
            None => (0, 0),
            Some(Stamp { batch, row, .. }) => {
                let (batch, row) = (*batch as usize, *row as usize);
                let missing = self.fill == Fill::Defaults && values[batch].is_null(row);
                if missing { (0, 0) } else { (batch, row) }
            }
        });
        let places: Vec<_> = places.collect();
        let values: Vec<&dyn Array> = values.iter().map(AsRef::as_ref).collect();
        interleave(&values, &places).map_err(internal)
    }
}

impl HistoryBuilder {
    /// Takes the rows of a table. After an error the builder is of no more use.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), TableError> {
        let places = Places::of(&self.history.view, &self.columns, &batch.schema())?;
        let mut bytes = 0;
        let features = self.history.view.features.iter().zip(&mut self.history.values);
        for ((feature, values), place) in features.zip(&places.features) {
            let column = typed(batch.column(*place), feature)?;
            bytes += column.get_array_memory_size();
            values.push(column);
        }
        let number = self.history.values.first().map_or(0, |values| values.len() - 1);
        let number = u32::try_from(number).map_err(internal)?;
        let (key, time) = (batch.column(places.key), batch.column(places.time));
        for row in 0..batch.num_rows() {
            let entity = column::entity(key, row);
            let entity = entity.map_err(unfit(&self.columns.key, row, Use::Key))?;
            let time = column::nanoseconds(time, row);
            let time = time.map_err(unfit(&self.columns.time, row, Use::Time))?;
            let (Some(entity), Some(time)) = (entity, time) else {
                self.history.passed_over += 1;
                continue;
            };
            let row = u32::try_from(row).map_err(internal)?;
            bytes += self.history.stamp(entity, Stamp { time, batch: number, row });
        }
        self.bytes += bytes;
        self.rows += batch.num_rows() as u64;
        if self.bytes > self.max_bytes {
            return Err(TableError::TooLarge { limit: self.max_bytes, rows: self.rows });
        }
        Ok(())
    }

    /// Takes the rows of a Parquet file.
    pub fn add_file(&mut self, path: &Path) -> Result<(), LoadError> {
        let (view, columns) = (self.history.view.clone(), self.columns.clone());
        read::batches(path, &view, &columns, 8192, |batch, _| self.add(batch).map(|()| true))
    }

    /// What was taken, ready to be joined.
    pub fn finish(mut self) -> History {
        #[expect(clippy::iter_over_hash_type, reason = "each is sorted by itself")]
        for stamps in self.history.entities.values_mut() {
            // Stable: of equal times the last one added stays last.
            stamps.sort_by_key(|stamp| stamp.time);
        }
        self.history
    }
}

impl History {
    /// Keeps a row, and tells what that takes.
    fn stamp(&mut self, entity: String, stamp: Stamp) -> usize {
        let key = entity.len();
        let stamps = self.entities.entry(entity.into_boxed_str()).or_default();
        stamps.push(stamp);
        let of_entity = if stamps.len() == 1 { key + ENTITY_BYTES } else { 0 };
        // A vector that grows has room for as many again.
        of_entity + 2 * size_of::<Stamp>()
    }
}

/// A batch's column as one of the feature's type.
fn typed(column: &dyn Array, feature: &Wanted) -> Result<ArrayRef, TableError> {
    let use_ = Use::Feature(feature.type_);
    let cells = (0..column.len()).map(|row| {
        column::cell(column, row, feature.type_).map_err(unfit(&feature.name, row, use_))
    });
    Ok(column::array(&cells.collect::<Result<Vec<_>, _>>()?, feature.type_))
}

/// One row: what a missing feature becomes.
fn filler(feature: &Wanted, fill: Fill) -> ArrayRef {
    let cell = match (fill, &feature.default) {
        (Fill::Defaults, Some(Value::Number(number))) => match number.as_i64() {
            Some(whole) => Some(Cell::Integer(whole)),
            None => number.as_f64().map(Cell::Number),
        },
        (Fill::Defaults, Some(Value::Bool(flag))) => Some(Cell::Boolean(*flag)),
        (Fill::Defaults, Some(Value::String(text))) => Some(Cell::Text(text)),
        _ => None,
    };
    column::array(&[cell], feature.type_)
}

fn unfit(column: &str, row: usize, use_: Use) -> impl FnOnce(Unfit) -> TableError {
    let column = column.to_owned();
    move |_| TableError::Value { column, row: row as u64, wanted: use_.wanted() }
}

fn internal(error: impl std::fmt::Display) -> TableError {
    TableError::Internal(error.to_string())
}
