//! Rows of time series, held in memory, and blocks of windows over them: a row each, whose columns are
//! lists.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, ListArray, RecordBatch, UInt64Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{Field, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use arrow_select::take::take;
use hearth_crds::preparation::{SplitBy, TableAugmentation, Windows};

use super::learn::Learned;
use super::table::{column, crossed, mend};
use super::{Learning, crossed_schema, show, shown};
use crate::error::PrepareError;
use crate::rows::arrays::{array_of, values_of};
use crate::rows::value::add_sizes;
use crate::rows::{contents, times};
use crate::stage::{Block, Sample, ShapeReport, Side};
use crate::table::ColumnValues;
use crate::table::windows::{vary, windows};

/// Name in the card of windows that were varied.
const WINDOWS: &str = "windows";
/// Most bytes of rows of both sides; twice as many are taken while they are put together.
const BYTES: usize = 512 << 20;
/// Rows of a block's windows, about.
const ROWS: usize = 1 << 13;

/// Makes windows.
pub(super) struct Windowing {
    spec: Windows,
    label: Option<String>,
    copies: u64,
    seed: u64,
    sides: Vec<Series>,
    blocks: Vec<WindowBlock>,
    /// Of the columns of a row.
    deviations: Vec<Option<f64>>,
}

/// The rows of a side.
struct Series {
    side: Side,
    rows: RecordBatch,
    contents: Vec<u128>,
    /// About a row's bytes.
    row_bytes: u64,
    windows: Vec<Vec<usize>>,
}

/// Windows of one series of rows, as they are or varied.
#[derive(Clone, Copy)]
struct WindowBlock {
    series: usize,
    first: usize,
    end: usize,
    /// Which copy; `None`: as they are.
    copy: Option<u64>,
}

impl Windowing {
    /// `None` where no windows are asked for.
    pub(super) fn new(
        learning: &Learning<'_>,
        table: &TableAugmentation,
        learned: &Learned,
    ) -> Result<Option<Self>, PrepareError> {
        let Some(spec) = table.windows.clone() else { return Ok(None) };
        refuse(learning, table)?;
        let mut sides = Vec::new();
        let mut bytes = 0;
        for side in [Side::Train, Side::Eval] {
            if learning.reading.fates.count(side.fate()) > 0 {
                sides.push(Series::new(learning, learned, (side, &spec), &mut bytes)?);
            }
        }
        let schema = sides.first().map(|of| of.rows.schema());
        let deviation = |field: &Arc<Field>| learned.deviations.get(field.name()).copied();
        let deviations =
            schema.iter().flat_map(|schema| schema.fields().iter().map(deviation)).collect();
        let varies = spec.jitter.is_some() || spec.scale.is_some();
        let mut windowing = Self {
            label: learning.recipe.touched.label().map(str::to_owned),
            copies: if varies { u64::from(table.copies.unsigned_abs()) } else { 0 },
            seed: learning.config.preparation.seed.cast_unsigned(),
            spec,
            sides,
            blocks: Vec::new(),
            deviations,
        };
        windowing.blocks = windowing.cut();
        Ok(Some(windowing))
    }

    fn cut(&self) -> Vec<WindowBlock> {
        let each = (ROWS / self.length()).max(1);
        let mut blocks = Vec::new();
        for (series, of) in self.sides.iter().enumerate() {
            let copies = if of.side == Side::Train { self.copies } else { 0 };
            for copy in std::iter::once(None).chain((0..copies).map(Some)) {
                for first in (0..of.windows.len()).step_by(each) {
                    let end = (first + each).min(of.windows.len());
                    blocks.push(WindowBlock { series, first, end, copy });
                }
            }
        }
        blocks
    }

    fn length(&self) -> usize {
        usize::try_from(self.spec.length).unwrap_or(1).max(1)
    }

    pub(super) fn blocks(&self) -> Vec<Block> {
        let block = |block: &WindowBlock| {
            let Series { side, row_bytes, .. } = &self.sides[block.series];
            let windows = (block.end - block.first) as u64;
            let bytes = windows * self.length() as u64 * row_bytes;
            Block { side: *side, rows: windows, bytes }
        };
        self.blocks.iter().map(block).collect()
    }

    /// The schema of windows over rows that have `schema`.
    pub(super) fn schema(&self, schema: &Schema) -> SchemaRef {
        let field = |field: &Arc<Field>| {
            if self.is_one(field.name()) { Arc::clone(field) } else { list_field(field) }
        };
        Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
    }

    /// Whether a window has one value of a column: its series' name, and its last row's label.
    fn is_one(&self, name: &str) -> bool {
        self.label.as_deref() == Some(name) || self.spec.series.as_deref() == Some(name)
    }

    pub(super) fn block(
        &self,
        block: u32,
        report: &mut ShapeReport,
    ) -> Result<RecordBatch, PrepareError> {
        let block = self.blocks.get(block as usize);
        let block = block.ok_or_else(|| PrepareError::internal("a block that is not planned"))?;
        let series = &self.sides[block.series];
        let windows = &series.windows[block.first..block.end];
        let plain = self.batch(series, windows, None)?;
        let Some(copy) = block.copy else { return Ok(plain) };
        let varied = self.batch(series, windows, Some(copy))?;
        for row in 0..varied.num_rows() {
            let sample = || Sample {
                before: shown(&plain.slice(row, 1), 0),
                after: shown(&varied.slice(row, 1), 0),
            };
            show(report, WINDOWS, sample);
        }
        Ok(varied)
    }

    fn batch(
        &self,
        series: &Series,
        windows: &[Vec<usize>],
        copy: Option<u64>,
    ) -> Result<RecordBatch, PrepareError> {
        let number = |row: &usize| *row as u64;
        let all: UInt64Array = windows.iter().flatten().map(number).collect::<Vec<_>>().into();
        let last: UInt64Array =
            windows.iter().filter_map(|rows| rows.last()).map(number).collect::<Vec<_>>().into();
        let schema = series.rows.schema();
        let mut columns = Vec::new();
        for (field, array) in schema.fields().iter().zip(series.rows.columns()) {
            let rows = if self.is_one(field.name()) { &last } else { &all };
            columns.push(take(array, rows, None).map_err(PrepareError::internal)?);
        }
        if let Some(copy) = copy {
            self.vary(series, windows, &mut columns, copy)?;
        }
        let offsets = || OffsetBuffer::from_lengths(windows.iter().map(Vec::len));
        for (field, column) in schema.fields().iter().zip(&mut columns) {
            if !self.is_one(field.name()) {
                let item = Arc::new(Field::new("item", field.data_type().clone(), true));
                let made = ListArray::try_new(item, offsets(), Arc::clone(column), None);
                *column = Arc::new(made.map_err(PrepareError::internal)?);
            }
        }
        RecordBatch::try_new(self.schema(&schema), columns).map_err(PrepareError::internal)
    }

    /// Varies the numbers of the windows, whose columns stand one window after another.
    fn vary(
        &self,
        series: &Series,
        windows: &[Vec<usize>],
        columns: &mut [ArrayRef],
        copy: u64,
    ) -> Result<(), PrepareError> {
        let places: Vec<usize> =
            (0..columns.len()).filter(|place| self.deviations[*place].is_some()).collect();
        let deviations: Vec<Option<f64>> =
            places.iter().map(|place| self.deviations[*place]).collect();
        let mut made: Vec<Option<ColumnValues>> = vec![None; places.len()];
        let mut start = 0;
        for rows in windows {
            let slice = |place: &usize| values_of(&columns[*place].slice(start, rows.len()));
            let values: Option<Vec<ColumnValues>> = places.iter().map(slice).collect();
            let mut values =
                values.ok_or_else(|| PrepareError::internal("numbers that are none"))?;
            vary(&mut values, &deviations, &self.spec, self.seed, (series.content(rows), copy));
            for (made, values) in made.iter_mut().zip(values) {
                match made {
                    None => *made = Some(values),
                    Some(made) => made.append(values),
                }
            }
            start += rows.len();
        }
        for (place, values) in places.iter().zip(made) {
            if let Some(values) = values {
                columns[*place] = array_of(&values, columns[*place].data_type())?;
            }
        }
        Ok(())
    }
}

impl Series {
    fn new(
        learning: &Learning<'_>,
        learned: &Learned,
        (side, spec): (Side, &Windows),
        bytes: &mut usize,
    ) -> Result<Self, PrepareError> {
        let mut batches = Vec::new();
        learning.reading.each(&(0..u32::MAX), side.fate(), &mut |batch| {
            let (batch, _) = mend(&learned.rules, batch)?;
            let schema = crossed_schema(&learned.rules, &batch.schema())?;
            let batch = crossed(&learned.rules, batch, schema)?;
            *bytes += batch.get_array_memory_size();
            batches.push(batch);
            if *bytes > BYTES {
                let most = BYTES >> 20;
                return Err(setting(format!(
                    "rows take more than {most} MiB of memory, in which they are sorted; prepare fewer series at a time"
                )));
            }
            Ok(())
        })?;
        let schema = batches.first().map(RecordBatch::schema);
        let schema = schema.ok_or_else(|| PrepareError::internal("a side without rows"))?;
        let rows = concat_batches(&schema, &batches).map_err(PrepareError::internal)?;
        drop(batches);
        let times = times(column(&rows, &spec.time)?);
        let names = match &spec.series {
            None => None,
            Some(name) => Some(names(&rows, name)?),
        };
        let names: Option<Vec<&str>> =
            names.as_ref().map(|names| names.iter().map(String::as_str).collect());
        let windows = windows(&times, names.as_deref(), spec);
        if windows.is_empty() {
            let side = if side == Side::Train { "training" } else { "evaluation" };
            let length = spec.length;
            return Err(setting(format!(
                "no series of the rows for {side} has {length} rows; make windows.length smaller"
            )));
        }
        let mut sizes = vec![0; rows.num_rows()];
        rows.columns().iter().for_each(|column| add_sizes(column, &mut sizes));
        let total: u64 = sizes.iter().map(|size| u64::from(*size)).sum();
        let row_bytes = total / sizes.len().max(1) as u64;
        let contents = contents(&rows, &learning.recipe.touched);
        Ok(Self { side, rows, contents, row_bytes, windows })
    }

    /// Of what a window's rows hold.
    fn content(&self, rows: &[usize]) -> u128 {
        let mut hasher = blake3::Hasher::new();
        for row in rows {
            hasher.update(&self.contents[*row].to_le_bytes());
        }
        u128::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().unwrap_or(&[0; 16]))
    }
}

/// The series of each row.
fn names(rows: &RecordBatch, name: &str) -> Result<Vec<String>, PrepareError> {
    match values_of(column(rows, name)?) {
        Some(ColumnValues::Category(names)) => {
            Ok(names.into_iter().map(Option::unwrap_or_default).collect())
        }
        Some(ColumnValues::Number(names)) => {
            let text = |name: Option<f64>| name.map(|name| name.to_string()).unwrap_or_default();
            Ok(names.into_iter().map(text).collect())
        }
        None => Err(setting(format!("series ({name:?}) are neither texts nor numbers"))),
    }
}

/// Refuses settings that windows do not go with.
fn refuse(learning: &Learning<'_>, table: &TableAugmentation) -> Result<(), PrepareError> {
    if table.perturb.is_some() || table.smote.is_some() {
        return Err(setting(
            "perturb and smote make rows, not windows; write windows.jitter".into(),
        ));
    }
    let config = learning.config;
    let by = config.preparation.split.as_ref().map_or(SplitBy::Label, |split| split.by);
    if config.eval.is_none() && config.eval_split.is_some() && by == SplitBy::Label {
        let told = "rows for evaluation would be drawn out of the middle of windows";
        return Err(setting(format!("{told}; split by Time or Group, or take data.eval")));
    }
    Ok(())
}

fn setting(detail: String) -> PrepareError {
    PrepareError::Setting { setting: "data.preparation.augment.table.windows".to_owned(), detail }
}

fn list_field(field: &Field) -> Arc<Field> {
    Arc::new(Field::new_list(
        field.name(),
        Field::new("item", field.data_type().clone(), true),
        true,
    ))
}
