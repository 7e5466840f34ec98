//! Columns of a batch: mended, crossed, and with noise.

use std::collections::BTreeMap;

use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::filter_record_batch;
use hearth_crds::preparation::TableAugmentation;

use super::learn::Learned;
use super::{Learning, show, shown};
use crate::error::PrepareError;
use crate::rows::arrays::{array_of, values_of};
use crate::stage::{Sample, ShapeReport};
use crate::table::ColumnValues;
use crate::table::augment::Noise;
use crate::table::rules::{Applied, TableRules};

/// Name in the card of rows that have noise.
const PERTURB: &str = "perturb";

/// Mends columns, and drops rows that go.
pub(super) fn mend(
    rules: &TableRules,
    batch: RecordBatch,
) -> Result<(RecordBatch, Applied), PrepareError> {
    let rows = batch.num_rows();
    let idle = rules.columns.values().all(|column| column.rule.is_idle());
    if idle {
        return Ok((batch, Applied { keep: vec![true; rows], ..Applied::default() }));
    }
    let names = rules.columns.iter().filter(|(_, column)| !column.rule.is_idle());
    let mut columns = values(&batch, names.map(|(name, _)| name));
    let applied = rules.apply(&mut columns, rows);
    let changed = columns.into_iter().filter(|(name, _)| {
        applied.mended.get(name).is_some_and(|mended| mended.filled + mended.capped > 0)
    });
    let batch = replaced(&batch, changed)?;
    if applied.keep.contains(&false) {
        let keep = BooleanArray::from(applied.keep.clone());
        let batch = filter_record_batch(&batch, &keep).map_err(PrepareError::internal)?;
        return Ok((batch, applied));
    }
    Ok((batch, applied))
}

fn values<'n>(
    batch: &RecordBatch,
    names: impl Iterator<Item = &'n String>,
) -> BTreeMap<String, ColumnValues> {
    let of = |name: &String| Some((name.clone(), values_of(batch.column_by_name(name)?)?));
    names.filter_map(of).collect()
}

/// The batch with other values in some columns, which keep their types.
fn replaced(
    batch: &RecordBatch,
    values: impl Iterator<Item = (String, ColumnValues)>,
) -> Result<RecordBatch, PrepareError> {
    let mut columns = batch.columns().to_vec();
    for (name, values) in values {
        let index = batch.schema_ref().index_of(&name).map_err(PrepareError::internal)?;
        columns[index] = array_of(&values, columns[index].data_type())?;
    }
    RecordBatch::try_new(batch.schema(), columns).map_err(PrepareError::internal)
}

/// Adds the columns made of others.
pub(super) fn crossed(
    rules: &TableRules,
    batch: RecordBatch,
    schema: SchemaRef,
) -> Result<RecordBatch, PrepareError> {
    if rules.crosses.is_empty() {
        return Ok(batch);
    }
    let known = values(&batch, rules.crosses.iter().flatten());
    let mut columns = batch.columns().to_vec();
    for (_, values) in rules.crossed(&known) {
        let data_type = match values {
            ColumnValues::Number(_) => DataType::Float64,
            ColumnValues::Category(_) => DataType::Utf8,
        };
        columns.push(array_of(&values, &data_type)?);
    }
    RecordBatch::try_new(schema, columns).map_err(PrepareError::internal)
}

/// Makes rows that have noise.
pub(super) struct Noisy {
    /// Rows made of each.
    pub(super) copies: u64,
    names: Vec<String>,
    noise: Noise,
}

impl Noisy {
    /// `None` where no noise is asked for.
    pub(super) fn new(
        learning: &Learning<'_>,
        spec: &TableAugmentation,
        learned: &Learned,
    ) -> Option<Self> {
        let part = spec.perturb?;
        let deviations = learned.deviations.values().map(|deviation| Some(part * deviation));
        let seed = learning.config.preparation.seed.cast_unsigned();
        Some(Self {
            copies: u64::from(spec.copies.unsigned_abs()),
            names: learned.deviations.keys().cloned().collect(),
            noise: Noise { deviations: deviations.collect(), seed },
        })
    }

    /// The copies of a batch, whose rows' contents these are.
    pub(super) fn copies(
        &self,
        batch: &RecordBatch,
        contents: &[u128],
        rules: &TableRules,
        report: &mut ShapeReport,
    ) -> Result<Vec<RecordBatch>, PrepareError> {
        let known = values(batch, self.names.iter());
        let mut made = Vec::new();
        for copy in 0..self.copies {
            let mut columns: Vec<ColumnValues> = known.values().cloned().collect();
            self.noise.add(&mut columns, contents, copy);
            for (name, column) in self.names.iter().zip(&mut columns) {
                if let ColumnValues::Number(values) = column {
                    let numbers = values.iter_mut().flatten();
                    numbers.for_each(|number| *number = rules.bounded(name, *number));
                }
            }
            let noisy = replaced(batch, self.names.iter().cloned().zip(columns))?;
            for row in 0..noisy.num_rows() {
                let sample = || Sample { before: shown(batch, row), after: shown(&noisy, row) };
                show(report, PERTURB, sample);
            }
            made.push(noisy);
        }
        Ok(made)
    }
}

/// A column of the batch that is needed.
pub(super) fn column<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b ArrayRef, PrepareError> {
    let column = batch.column_by_name(name);
    column.ok_or_else(|| PrepareError::Internal(format!("field {name:?} is gone")))
}
