//! What rows become once it is known which are for training.
//!
//! ```text
//! learn: training rows -> rules for columns     table: columns are mended and crossed, and have noise
//! text: texts made of texts                     smote: rows between rows of a rare label
//! windows: rows of a time series as one row
//! ```
//!
//! Invariants:
//! 1. All that is learned is learned from training rows.
//! 2. What becomes of a row follows from what it holds and what was learned alone: not from its
//!    batch, shard or thread.
//! 3. Rows for evaluation are mended, crossed and put into windows, and nothing else is made of them.

mod learn;
mod smote;
mod table;
mod text;
mod windows;

use std::path::Path;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use hearth_crds::preparation::PrepareConfig;
use serde_json::{Map, Value};

use crate::error::PrepareError;
use crate::rows::arrays::holds_numbers;
use crate::rows::value::{Scalar, scalar};
use crate::rows::{Recipe, Touched, contents};
use crate::stage::{Block, Reading, Sample, Shape, ShapeReport, Shaped, Side};
use crate::table::rules::{TableRules, crossed_name};

use smote::Smoting;
use table::Noisy;
use text::Texts;
use windows::Windowing;

pub(crate) use text::synonym_files;

/// Most characters of a text in a sample.
const SHOWN: usize = 2000;

/// The training rows, and what is asked of them.
pub(crate) struct Learning<'a> {
    pub(crate) config: &'a PrepareConfig,
    pub(crate) recipe: &'a Recipe,
    pub(crate) reading: Reading<'a>,
    /// Schema of the training rows.
    pub(crate) schema: &'a SchemaRef,
    /// Directory of what is learned.
    pub(crate) work: &'a Path,
}

/// What rows become.
pub(crate) struct Shaping<'a> {
    touched: &'a Touched,
    rules: TableRules,
    noise: Option<Noisy>,
    text: Option<Texts>,
    smote: Option<Smoting>,
    windows: Option<Windowing>,
}

impl<'a> Shaping<'a> {
    /// Learns what the training rows teach, or takes what an earlier run learned.
    pub(crate) fn new(learning: &Learning<'a>) -> Result<Self, PrepareError> {
        let augment = learning.config.preparation.augment.as_ref();
        let table = augment.and_then(|augment| augment.table.as_ref());
        let learned = learning.learned()?;
        let text = augment.and_then(|augment| augment.text.as_ref());
        let smote = table.and_then(|table| table.smote.as_ref());
        let shaping = Self {
            touched: &learning.recipe.touched,
            noise: table.and_then(|table| Noisy::new(learning, table, &learned)),
            text: text.map(|text| Texts::new(learning, text)).transpose()?,
            smote: smote.map(|smote| Smoting::new(learning, smote, &learned)).transpose()?,
            windows: match table {
                Some(table) => Windowing::new(learning, table, &learned)?,
                None => None,
            },
            rules: learned.rules,
        };
        shaping.schema(learning.schema)?;
        Ok(shaping)
    }

    /// What is done with columns.
    pub(crate) fn rules(&self) -> &TableRules {
        &self.rules
    }

    /// Adds crosses to rows, which are all that there will be.
    fn finish(&self, batches: &[RecordBatch], report: ShapeReport) -> Result<Shaped, PrepareError> {
        let batch = match batches {
            [one] => one.clone(),
            [first, ..] => {
                concat_batches(&first.schema(), batches).map_err(PrepareError::internal)?
            }
            [] => return Err(PrepareError::internal("no rows to finish")),
        };
        let schema = crossed_schema(&self.rules, &batch.schema())?;
        Ok(Shaped { batch: table::crossed(&self.rules, batch, schema)?, report })
    }
}

impl Shape for Shaping<'_> {
    fn schema(&self, schema: &SchemaRef) -> Result<SchemaRef, PrepareError> {
        let schema = crossed_schema(&self.rules, schema)?;
        Ok(self.windows.as_ref().map_or_else(|| SchemaRef::clone(&schema), |of| of.schema(&schema)))
    }

    fn shape(&self, side: Side, batch: RecordBatch) -> Result<Shaped, PrepareError> {
        let augments = side == Side::Train && (self.text.is_some() || self.noise.is_some());
        let known = if augments { contents(&batch, self.touched) } else { Vec::new() };
        let (batch, applied) = table::mend(&self.rules, batch)?;
        let mut report = ShapeReport::default();
        for (column, mended) in applied.mended {
            report.mended.insert(column, [mended.filled, mended.capped, mended.dropped]);
        }
        if !augments {
            return self.finish(&[batch], report);
        }
        let stay = known.into_iter().zip(&applied.keep).filter(|(_, keep)| **keep);
        let known: Vec<u128> = stay.map(|(content, _)| content).collect();
        let mut all = vec![batch];
        if let Some(noise) = &self.noise {
            let made = noise.copies(&all[0], &known, &self.rules, &mut report)?;
            all.extend(made);
        }
        if let Some(text) = &self.text {
            let made = text.copies(&all[0], &known, self.touched, &mut report)?;
            all.extend(made);
        }
        self.finish(&all, report)
    }

    fn growth(&self, side: Side) -> u64 {
        if self.windows.is_some() {
            return 0;
        }
        let noise = self.noise.as_ref().map_or(0, |noise| noise.copies);
        let text = self.text.as_ref().map_or(0, Texts::growth);
        if side == Side::Train { 1 + noise + text } else { 1 }
    }

    fn blocks(&self) -> Vec<Block> {
        match (&self.windows, &self.smote) {
            (Some(windows), _) => windows.blocks(),
            (None, Some(smote)) => smote.blocks(),
            (None, None) => Vec::new(),
        }
    }

    fn block(&self, block: u32) -> Result<Shaped, PrepareError> {
        let mut report = ShapeReport::default();
        if let Some(windows) = &self.windows {
            let batch = windows.block(block, &mut report)?;
            return Ok(Shaped { batch, report });
        }
        let smote = self.smote.as_ref();
        let smote = smote.ok_or_else(|| PrepareError::internal("a block of no rows"))?;
        let batch = smote.block(block, &mut report)?;
        self.finish(&[batch], report)
    }
}

/// The schema of rows once columns are crossed.
fn crossed_schema(rules: &TableRules, schema: &SchemaRef) -> Result<SchemaRef, PrepareError> {
    if rules.crosses.is_empty() {
        return Ok(SchemaRef::clone(schema));
    }
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| Field::clone(field)).collect();
    for pair in &rules.crosses {
        fields.push(crossed_field(schema, pair)?);
    }
    Ok(SchemaRef::new(Schema::new(fields)))
}

/// The field of a column that is made of two.
fn crossed_field(schema: &Schema, pair: &[String; 2]) -> Result<Field, PrepareError> {
    let refuse = |detail: String| {
        let setting = "data.preparation.augment.table.crosses".to_owned();
        PrepareError::Setting { setting, detail }
    };
    let mut numbers = true;
    for name in pair {
        let field = schema.field_with_name(name);
        let field = field.map_err(|_| refuse(format!("no row has {name:?}; name another")))?;
        numbers &= holds_numbers(field.data_type());
        if !holds_numbers(field.data_type())
            && !matches!(field.data_type(), DataType::Utf8 | DataType::Boolean)
        {
            let told = format!("{name:?} holds {}, which is not crossed", field.data_type());
            return Err(refuse(format!("{told}; name another")));
        }
    }
    let name = crossed_name(pair);
    if schema.field_with_name(&name).is_ok() {
        return Err(refuse(format!("rows have a field {name:?} already; rename it")));
    }
    Ok(Field::new(name, if numbers { DataType::Float64 } else { DataType::Utf8 }, true))
}

/// Adds a row that was made, of which the first are shown.
fn show(report: &mut ShapeReport, kind: &str, sample: impl FnOnce() -> Sample) {
    *report.made.entry(kind.to_owned()).or_default() += 1;
    let samples = report.samples.entry(kind.to_owned()).or_default();
    if samples.len() < crate::stage::SAMPLES {
        samples.push(sample());
    }
}

/// A row as JSON. Bytes, and what has parts that are no list, are left out.
fn shown(batch: &RecordBatch, row: usize) -> Value {
    let mut fields = Map::new();
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let value = match column.as_list_opt::<i32>() {
            Some(list) if list.is_valid(row) => {
                let items = list.value(row);
                Value::Array((0..items.len()).map(|item| shown_value(&items, item)).collect())
            }
            _ if matches!(scalar(column, row), Scalar::Bytes(_) | Scalar::Parts) => continue,
            _ => shown_value(column, row),
        };
        fields.insert(field.name().clone(), value);
    }
    Value::Object(fields)
}

fn shown_value(column: &dyn Array, row: usize) -> Value {
    match scalar(column, row) {
        Scalar::Bool(flag) => flag.into(),
        Scalar::Int(number) => i64::try_from(number).map_or(Value::Null, Value::from),
        Scalar::Float(number) => number.into(),
        Scalar::Text(text) => short(text),
        Scalar::Null | Scalar::Bytes(_) | Scalar::Parts => Value::Null,
    }
}

fn short(text: &str) -> Value {
    text.chars().take(SHOWN).collect::<String>().into()
}
