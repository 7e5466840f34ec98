//! What rows are like, shard by shard.

use std::collections::BTreeMap;

use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use hearth_crds::preparation::{ColumnCard, NumbersCard};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::sketch::Sketch;
use crate::picture::decode::size;
use crate::rows::value::{Scalar, scalar};
use crate::rows::{Pictures, Pieces, Touched};

/// Most labels that are told.
const LABELS: usize = 1000;
/// Most values of a column that are told.
const VALUES: usize = 64;
/// Fewest rows with a value that is told: what few have may tell of one person.
const ROWS_OF_VALUE: u64 = 10;
/// Most characters of a value that is told.
const VALUE_LENGTH: usize = 64;

/// What rows are like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) rows: u64,
    pub(crate) labels: Counts,
    /// Rows by the length of their texts: from 2^i characters on.
    pub(crate) lengths: Vec<u64>,
    /// Rows by the width of their pictures, and by their height: from 2^i pixels on.
    #[serde(default)]
    pub(crate) widths: Vec<u64>,
    #[serde(default)]
    pub(crate) heights: Vec<u64>,
    columns: IndexMap<String, Column>,
}

/// How often values are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) values: BTreeMap<String, u64>,
    /// There are more than are counted, and none is told.
    many: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Column {
    type_: String,
    missing: u64,
    numbers: Sketch,
    values: Counts,
}

impl Counts {
    fn add(&mut self, value: &str, count: u64, most: usize) {
        if self.many {
            return;
        }
        match self.values.get_mut(value) {
            Some(known) => *known += count,
            None => drop(self.values.insert(value.to_owned(), count)),
        }
        if self.values.len() > most || value.chars().nth(VALUE_LENGTH * 4).is_some() {
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.many = true;
        self.values.clear();
    }

    fn merge(&mut self, other: &Self, most: usize) {
        if other.many {
            self.give_up();
        }
        for (value, count) in &other.values {
            self.add(value, *count, most);
        }
    }
}

impl Summary {
    /// Adds rows.
    pub(crate) fn add(&mut self, batch: &RecordBatch, touched: &Touched) {
        self.rows += batch.num_rows() as u64;
        self.add_lengths(batch, touched);
        self.add_sizes(batch, touched);
        if let Some(column) = touched.label().and_then(|name| batch.column_by_name(name)) {
            for row in 0..batch.num_rows() {
                match scalar(column, row) {
                    Scalar::Text(text) => self.labels.add(text, 1, LABELS),
                    Scalar::Int(number) => self.labels.add(&number.to_string(), 1, LABELS),
                    Scalar::Bool(flag) => self.labels.add(&flag.to_string(), 1, LABELS),
                    _ => self.labels.give_up(),
                }
            }
        }
        for (field, array) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let column = self.columns.entry(field.name().clone()).or_insert_with(|| Column {
                type_: type_name(field.data_type()),
                ..Column::default()
            });
            // Texts are what rows are about, and nobody's business.
            if touched.texts().contains(field.name()) {
                column.values.give_up();
            }
            column.add(array);
        }
    }

    fn add_lengths(&mut self, batch: &RecordBatch, touched: &Touched) {
        let columns: Vec<Pieces<'_>> = touched
            .texts()
            .iter()
            .filter_map(|name| batch.column_by_name(name).and_then(Pieces::of))
            .collect();
        if columns.is_empty() {
            return;
        }
        for row in 0..batch.num_rows() {
            let texts = columns.iter().flat_map(|pieces| pieces.iter(row));
            let length: usize = texts.map(|text| text.chars().count()).sum();
            count(&mut self.lengths, length);
        }
    }

    fn add_sizes(&mut self, batch: &RecordBatch, touched: &Touched) {
        let column = touched.image().and_then(|name| batch.column_by_name(name));
        let Some(pictures) = column.and_then(Pictures::of) else { return };
        let pictures = (0..batch.num_rows()).filter_map(|row| pictures.get(row));
        for (width, height) in pictures.filter_map(size) {
            count(&mut self.widths, width as usize);
            count(&mut self.heights, height as usize);
        }
    }

    /// Adds another's rows.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.labels.merge(&other.labels, LABELS);
        add(&mut self.lengths, &other.lengths);
        add(&mut self.widths, &other.widths);
        add(&mut self.heights, &other.heights);
        for (name, column) in &other.columns {
            match self.columns.get_mut(name) {
                Some(known) => known.merge(column),
                None => drop(self.columns.insert(name.clone(), column.clone())),
            }
        }
    }

    /// Columns as the card tells them.
    pub(crate) fn columns(&self) -> Vec<ColumnCard> {
        let tell = |(name, column): (&String, &Column)| {
            let values = column.values.values.iter();
            let values = values.filter(|(value, count)| {
                **count >= ROWS_OF_VALUE && value.chars().nth(VALUE_LENGTH).is_none()
            });
            ColumnCard {
                name: name.clone(),
                type_: column.type_.clone(),
                missing: column.missing,
                numbers: (column.numbers.count > 0).then(|| numbers(&column.numbers)),
                values: values.map(|(value, count)| (value.clone(), *count)).collect(),
            }
        };
        self.columns.iter().map(tell).collect()
    }
}

/// Counts a length where those of its power of two are.
fn count(counts: &mut Vec<u64>, length: usize) {
    let place = length.max(1).ilog2() as usize;
    if counts.len() <= place {
        counts.resize(place + 1, 0);
    }
    counts[place] += 1;
}

fn add(counts: &mut Vec<u64>, others: &[u64]) {
    if counts.len() < others.len() {
        counts.resize(others.len(), 0);
    }
    for (count, more) in counts.iter_mut().zip(others) {
        *count += more;
    }
}

fn numbers(sketch: &Sketch) -> NumbersCard {
    NumbersCard {
        min: sketch.min,
        max: sketch.max,
        mean: sketch.mean(),
        q25: sketch.quantile(0.25),
        median: sketch.quantile(0.5),
        q75: sketch.quantile(0.75),
        q99: sketch.quantile(0.99),
    }
}

impl Column {
    fn add(&mut self, array: &dyn Array) {
        let counted = matches!(
            array.data_type(),
            DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::UInt8
                | DataType::UInt16
                | DataType::UInt32
                | DataType::UInt64
        );
        let unit = match array.data_type() {
            DataType::Decimal128(_, scale) => 10_f64.powi(-i32::from(*scale)),
            _ => 1.0,
        };
        let numeric = counted || matches!(array.data_type(), DataType::Decimal128(..));
        for row in 0..array.len() {
            match scalar(array, row) {
                Scalar::Null => self.missing += 1,
                Scalar::Bool(flag) => {
                    self.values.add(if flag { "true" } else { "false" }, 1, VALUES);
                }
                Scalar::Int(number) if numeric => {
                    self.numbers.add(number as f64 * unit);
                    if counted && !self.values.many {
                        self.values.add(&number.to_string(), 1, VALUES);
                    }
                }
                Scalar::Float(number) => self.numbers.add(number),
                Scalar::Text(text) => {
                    self.numbers.add(text.chars().count() as f64);
                    self.values.add(text, 1, VALUES);
                }
                Scalar::Int(_) | Scalar::Bytes(_) | Scalar::Parts => {}
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.missing += other.missing;
        self.numbers.merge(&other.numbers);
        self.values.merge(&other.values, VALUES);
    }
}

/// As people call it.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "text".to_owned(),
        DataType::Boolean => "boolean".to_owned(),
        DataType::Binary | DataType::FixedSizeBinary(_) => "bytes".to_owned(),
        DataType::List(item) => format!("list of {}", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().take(8).map(|field| field.name().as_str());
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, Int64Array, StringArray};
    use std::sync::Arc;

    fn batch(rows: usize) -> RecordBatch {
        let city = (0..rows)
            .map(|row| Some(if row == 0 { "Ulm" } else { "Bonn" }))
            .collect::<StringArray>();
        let id = (0..rows).map(|row| row.to_string()).collect::<Vec<_>>();
        let age = (0..rows).map(|row| (row > 0).then_some(30)).collect::<Int64Array>();
        let columns: [(&str, ArrayRef); 3] = [
            ("city", Arc::new(city)),
            ("id", Arc::new(StringArray::from(id))),
            ("age", Arc::new(age)),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn what_few_rows_have_is_not_told() {
        let mut summary = Summary::default();
        summary.add(&batch(100), &Touched::default());
        let columns = summary.columns();
        assert_eq!(columns[0].values, [("Bonn".to_owned(), 99)].into());
        assert!(columns[1].values.is_empty(), "{columns:?}");
        assert_eq!((columns[2].missing, columns[2].values.get("30")), (1, Some(&99)));
    }

    #[test]
    fn shards_add_up() {
        let mut whole = Summary::default();
        whole.add(&batch(100), &Touched::default());
        let mut sum = Summary::default();
        for part in [batch(100).slice(0, 30), batch(100).slice(30, 70)] {
            let mut one = Summary::default();
            one.add(&part, &Touched::default());
            sum.merge(&one);
        }
        assert_eq!(sum, whole);
    }
}
