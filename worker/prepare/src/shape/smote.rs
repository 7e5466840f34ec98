//! Rows of rare labels, held in memory, and blocks of rows between them.

use arrow_array::RecordBatch;
use arrow_schema::{DataType, SchemaRef};
use hearth_crds::preparation::Smote;

use super::learn::{Learned, smote_setting};
use super::table::{column, mend};
use super::{Learning, show, shown};
use crate::error::PrepareError;
use crate::rows::arrays::{array_of, holds_numbers, values_of};
use crate::stage::{Block, Sample, ShapeReport, Side};
use crate::table::ColumnValues;
use crate::table::smote::{Rare, SmoteBlock, Smoter, missing};

/// Name in the card of rows between others.
const SMOTE: &str = "smote";
/// Most bytes of rows of rare labels.
const BYTES: usize = 256 << 20;

/// Makes rows of rare labels.
pub(super) struct Smoting {
    smoter: Smoter,
    blocks: Vec<SmoteBlock>,
    schema: SchemaRef,
    label: String,
    row_bytes: u64,
}

/// Rows of rare labels as they come.
struct Held {
    names: Vec<String>,
    columns: Vec<ColumnValues>,
    rare: Vec<Rare>,
    bytes: usize,
}

impl Smoting {
    pub(super) fn new(
        learning: &Learning<'_>,
        spec: &Smote,
        learned: &Learned,
    ) -> Result<Self, PrepareError> {
        let touched = &learning.recipe.touched;
        if let Some(text) = touched.texts().first() {
            let detail = format!("rows have texts ({text:?}), between which there is nothing");
            return Err(smote_setting(format!("{detail}; use augment.text")));
        }
        let label = touched.label().unwrap_or_default().to_owned();
        let mut held = Held::new(learning, spec, learned, &label)?;
        learning.reading.training(&mut |batch| {
            let (batch, _) = mend(&learned.rules, batch)?;
            held.add(&batch, &learning.labels(&batch)?, spec)
        })?;
        let unit = |name: &String| {
            let deviation = learned.deviations.get(name).copied();
            deviation.filter(|deviation| *deviation > 0.0).unwrap_or(1.0)
        };
        let units = held.names.iter().map(unit).collect();
        let rows = held.columns.first().map_or(0, ColumnValues::len);
        let row_bytes = (held.bytes / rows.max(1)) as u64;
        let seed = learning.config.preparation.seed.cast_unsigned();
        let smoter = Smoter::new(held.columns, units, held.rare, (spec, seed));
        let blocks = smoter.blocks();
        Ok(Self { blocks, smoter, schema: SchemaRef::clone(learning.schema), label, row_bytes })
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let block = |of: &SmoteBlock| Block {
            side: Side::Train,
            rows: of.rows,
            bytes: of.rows * self.row_bytes,
        };
        self.blocks.iter().map(block).collect()
    }

    pub(super) fn block(
        &self,
        block: u32,
        report: &mut ShapeReport,
    ) -> Result<RecordBatch, PrepareError> {
        let block = self.blocks.get(block as usize);
        let block = block.ok_or_else(|| PrepareError::internal("a block that is not planned"))?;
        let made = self.smoter.block(*block);
        let batch = self.batch(made.columns, made.labels)?;
        for (row, of) in made.of.into_iter().enumerate() {
            show(report, SMOTE, || {
                let label = scalar_label(&batch, &self.label, row);
                let base = self.smoter.columns().iter().map(|column| column.take(&[of])).collect();
                let before = self.batch(base, vec![label]);
                let before = before.map_or_else(|_| serde_json::Value::Null, |of| shown(&of, 0));
                Sample { before, after: shown(&batch, row) }
            });
        }
        Ok(batch)
    }

    fn batch(
        &self,
        columns: Vec<ColumnValues>,
        labels: Vec<String>,
    ) -> Result<RecordBatch, PrepareError> {
        let labels = ColumnValues::Category(labels.into_iter().map(Some).collect());
        let mut columns = columns.into_iter();
        let mut arrays = Vec::new();
        for field in self.schema.fields() {
            let values =
                if *field.name() == self.label { Some(labels.clone()) } else { columns.next() };
            let values = values.ok_or_else(|| PrepareError::internal("a column that is gone"))?;
            arrays.push(array_of(&values, field.data_type())?);
        }
        RecordBatch::try_new(SchemaRef::clone(&self.schema), arrays).map_err(PrepareError::internal)
    }
}

fn scalar_label(batch: &RecordBatch, label: &str, row: usize) -> String {
    let values = batch.column_by_name(label).and_then(|column| values_of(&column.slice(row, 1)));
    match values {
        Some(ColumnValues::Category(labels)) => labels.into_iter().flatten().next(),
        Some(ColumnValues::Number(labels)) => {
            labels.into_iter().flatten().next().map(|label| label.to_string())
        }
        None => None,
    }
    .unwrap_or_default()
}

impl Held {
    fn new(
        learning: &Learning<'_>,
        spec: &Smote,
        learned: &Learned,
        label: &str,
    ) -> Result<Self, PrepareError> {
        let (mut names, mut columns) = (Vec::new(), Vec::new());
        for field in learning.schema.fields().iter().filter(|field| field.name() != label) {
            columns.push(match field.data_type() {
                numbers if holds_numbers(numbers) => ColumnValues::Number(Vec::new()),
                DataType::Utf8 | DataType::Boolean => ColumnValues::Category(Vec::new()),
                other => {
                    let told =
                        format!("{:?} holds {other}, between which there is nothing", field.name());
                    return Err(smote_setting(format!("{told}; leave the column or smote out")));
                }
            });
            names.push(field.name().clone());
        }
        let most = learned.labels.values().copied().max().unwrap_or(0);
        let rare = learned.labels.iter().map(|(label, count)| Rare {
            label: label.clone(),
            rows: Vec::new(),
            missing: missing(most, *count, spec),
        });
        let rare = rare.filter(|rare| rare.missing > 0).collect();
        Ok(Self { names, columns, rare, bytes: 0 })
    }

    fn add(
        &mut self,
        batch: &RecordBatch,
        labels: &[Option<String>],
        spec: &Smote,
    ) -> Result<(), PrepareError> {
        let mut rows = Vec::new();
        let mut next = self.columns.first().map_or(0, ColumnValues::len);
        for (row, label) in labels.iter().enumerate() {
            if let Some(rare) =
                self.rare.iter_mut().find(|rare| Some(&rare.label) == label.as_ref())
            {
                rare.rows.push(next);
                next += 1;
                rows.push(row);
            }
        }
        // A row's place in the list of its label, among the candidates, and its neighbours.
        let neighbors = usize::try_from(spec.neighbors).unwrap_or(1);
        self.bytes += rows.len() * (3 + neighbors) * size_of::<usize>();
        for (held, name) in self.columns.iter_mut().zip(&self.names) {
            let Some(values) = values_of(column(batch, name)?) else { continue };
            let values = values.take(&rows);
            self.bytes += values.bytes();
            held.append(values);
        }
        within(self.bytes, next)
    }
}

/// Refuses more rows than may be held.
fn within(bytes: usize, rows: usize) -> Result<(), PrepareError> {
    if bytes <= BYTES {
        return Ok(());
    }
    let most = BYTES >> 20;
    let told = format!("the first {rows} rows of rare labels take more than {most} MiB of memory");
    let what =
        "lower smote.share so that fewer labels are rare, or leave out columns of long texts";
    Err(smote_setting(format!("{told}; {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_rows_than_memory_is_given_are_refused() {
        assert!(within(BYTES, 10).is_ok());
        let told = within(BYTES + 1, 10).unwrap_err().to_string();
        assert!(told.contains("first 10 rows of rare labels take more than 256 MiB"), "{told}");
    }
}
