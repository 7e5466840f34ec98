//! A batch of rows → those that stay, cleaned, with their keys; and what became of the others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use arrow_array::builder::StringBuilder;
use arrow_array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow_select::filter::filter_record_batch;
use hearth_crds::preparation::PrepareConfig;

use super::check::flaws;
use super::columns::Columns;
use super::key::keys;
use super::value::add_sizes;
use super::viewer::Viewer;
use super::{Key, Pieces, Touched};
use crate::error::PrepareError;
use crate::source::{Bad, Rows};
use crate::text::clean::{Cleaner, Masked};
use crate::text::filter::Filter;
use crate::text::similar::MinHash;

/// Name in the card of rows without any text once they are cleaned.
const EMPTY: &str = "empty once cleaned";

/// What is done with every row.
pub(crate) struct Recipe {
    pub(crate) touched: Touched,
    pub(crate) columns: Columns,
    cleaner: Cleaner,
    filter: Option<Filter>,
    similar: Option<MinHash>,
    viewer: Option<Viewer>,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Processed {
    /// Rows that stay.
    pub(crate) batch: RecordBatch,
    pub(crate) keys: Vec<Key>,
    /// Signatures, one after another, where near duplicates are looked for; of a picture it is two
    /// halves of its perceptual hash.
    pub(crate) signatures: Vec<u32>,
    /// Rows that were read, the malformed ones included.
    pub(crate) rows: u64,
    pub(crate) bad: Vec<Bad>,
    /// Rows that went, by why.
    pub(crate) dropped: BTreeMap<String, u64>,
    pub(crate) masked: Masked,
}

impl Recipe {
    pub(crate) fn new(config: &PrepareConfig) -> Result<Self, PrepareError> {
        let setting = |setting: &str, detail: String| PrepareError::Setting {
            setting: setting.to_owned(),
            detail,
        };
        let touched = Touched::new(config);
        let cleaner = Cleaner::new(&config.cleaning)
            .map_err(|error| setting("data.clean", error.to_string()))?;
        let filter = config.preparation.filter.as_ref().map(Filter::new).transpose();
        let filter =
            filter.map_err(|error| setting("data.preparation.filter", error.to_string()))?;
        let near = config.preparation.deduplicate.as_ref().and_then(|d| d.near);
        if touched.texts().is_empty() && (filter.is_some() || near.is_some()) {
            let what = if filter.is_some() { "filter" } else { "deduplicate.near" };
            let told = "rows have no field of texts to look at; leave it out";
            return Err(setting(&format!("data.preparation.{what}"), told.to_owned()));
        }
        let columns = config.preparation.table.as_ref().map(|table| Columns::new(&table.columns));
        let seed = config.preparation.seed.cast_unsigned();
        let similar = near.map(|near| MinHash::new(near, seed));
        let viewer = Viewer::new(config)?;
        let columns = columns.unwrap_or_default();
        Ok(Self { touched, columns, cleaner, filter, similar, viewer })
    }

    /// Bits in which perceptual hashes of pictures that show the same may differ, where that is
    /// asked for.
    pub(crate) fn hash_distance(&self) -> Option<u32> {
        self.viewer.as_ref().and_then(Viewer::distance)
    }

    /// Tells which texts say nearly the same, where that is asked for.
    pub(crate) fn similar(&self) -> Option<&MinHash> {
        self.similar.as_ref()
    }

    /// Does it all to a batch.
    pub(crate) fn process(&self, rows: Rows) -> Result<Processed, PrepareError> {
        let Rows { batch, lines, mut bad, dropped: passed } = rows;
        let mut count = batch.num_rows() as u64 + bad.len() as u64;
        let (batch, ill_typed) = self.columns.read(&batch)?;
        let others = flaws(&batch, &self.touched).into_iter();
        let flaws: Vec<_> =
            ill_typed.into_iter().zip(others).map(|(of, other)| of.or(other)).collect();
        let well: BooleanArray = flaws.iter().map(|flaw| Some(flaw.is_none())).collect();
        for (line, flaw) in lines.iter().zip(flaws) {
            bad.extend(flaw.map(|reason| Bad { line: *line, reason }));
        }
        bad.sort_by_key(|row| row.line);
        let mut batch = kept(batch, &well)?;

        let mut masked = Masked::new();
        batch = self.clean(&batch, &mut masked)?;
        let (stay, mut dropped) = self.stay(&batch)?;
        batch = kept(batch, &stay)?;
        for (reason, rows) in passed.into_iter().filter(|(_, rows)| *rows > 0) {
            count += rows;
            *dropped.entry(reason).or_default() += rows;
        }
        let seen = self.viewer.as_ref().map(|viewer| viewer.see(&batch, &mut dropped));
        if let Some(seen) = &seen {
            batch = kept(batch, &seen.stay)?;
        }

        let mut sizes = vec![0; batch.num_rows()];
        batch.columns().iter().for_each(|column| add_sizes(column, &mut sizes));
        let mut keys = keys(&batch, &self.touched, &sizes);
        let mut signatures = self.sign(&batch)?;
        if let Some(seen) = seen {
            keys.iter_mut().zip(seen.contents).for_each(|(key, content)| key.content = content);
            signatures.extend(seen.hashes);
        }
        Ok(Processed { batch, keys, signatures, rows: count, bad, dropped, masked })
    }

    fn clean(&self, batch: &RecordBatch, masked: &mut Masked) -> Result<RecordBatch, PrepareError> {
        let mut columns = batch.columns().to_vec();
        for name in self.touched.texts() {
            let index = batch.schema_ref().index_of(name).map_err(PrepareError::internal)?;
            let pieces = pieces(batch, name)?;
            if let Some(strings) = self.clean_strings(pieces.strings(), masked) {
                columns[index] = pieces.replaced(strings).map_err(PrepareError::internal)?;
            }
        }
        RecordBatch::try_new(batch.schema(), columns).map_err(PrepareError::internal)
    }

    /// The cleaned texts; `None` where they are as they were.
    fn clean_strings(&self, strings: &StringArray, masked: &mut Masked) -> Option<StringArray> {
        let mut out: Option<StringBuilder> = None;
        for (place, text) in strings.iter().enumerate() {
            let cleaned = text.map(|text| self.cleaner.clean(text, masked));
            let same = match (&cleaned, text) {
                (Some(cleaned), Some(text)) => {
                    matches!(cleaned, Cow::Borrowed(_)) && *cleaned == text
                }
                _ => true,
            };
            if !same && out.is_none() {
                let mut begun =
                    StringBuilder::with_capacity(strings.len(), strings.value_data().len());
                strings.iter().take(place).for_each(|text| begun.append_option(text));
                out = Some(begun);
            }
            if let Some(out) = &mut out {
                out.append_option(cleaned);
            }
        }
        out.map(|mut out| out.finish())
    }

    /// Which rows stay, and why the others do not.
    fn stay(
        &self,
        batch: &RecordBatch,
    ) -> Result<(BooleanArray, BTreeMap<String, u64>), PrepareError> {
        let mut dropped = BTreeMap::new();
        let mut stay = vec![true; batch.num_rows()];
        for name in self.columns.needed() {
            let column = batch.column_by_name(name);
            let rows = stay.iter_mut().enumerate().filter(|(_, stays)| **stays);
            for (_, stays) in rows.filter(|(row, _)| column.is_some_and(|of| of.is_null(*row))) {
                *stays = false;
                *dropped.entry(format!("no value of {name:?}")).or_default() += 1;
            }
        }
        for name in self.touched.texts() {
            let pieces = pieces(batch, name)?;
            for (row, stays) in stay.iter_mut().enumerate().filter(|(_, stays)| **stays) {
                let text = joined(&[pieces], row);
                let refusal = if text.trim().is_empty() {
                    Some(EMPTY.to_owned())
                } else {
                    let refusal = self.filter.as_ref().and_then(|filter| filter.refusal(&text));
                    refusal.map(|refusal| refusal.to_string())
                };
                if let Some(reason) = refusal {
                    *stays = false;
                    *dropped.entry(reason).or_default() += 1;
                }
            }
        }
        Ok((stay.into(), dropped))
    }

    fn sign(&self, batch: &RecordBatch) -> Result<Vec<u32>, PrepareError> {
        let Some(similar) = &self.similar else { return Ok(Vec::new()) };
        let columns: Vec<Pieces<'_>> = self
            .touched
            .texts()
            .iter()
            .map(|name| pieces(batch, name))
            .collect::<Result<_, _>>()?;
        let mut signatures = vec![0; batch.num_rows() * similar.len()];
        for (row, signature) in signatures.chunks_exact_mut(similar.len().max(1)).enumerate() {
            similar.sign(&joined(&columns, row), signature);
        }
        Ok(signatures)
    }
}

fn pieces<'a>(batch: &'a RecordBatch, name: &str) -> Result<Pieces<'a>, PrepareError> {
    let pieces = batch.column_by_name(name).and_then(Pieces::of);
    pieces.ok_or_else(|| PrepareError::Internal(format!("field {name:?} is no text")))
}

/// A row's texts, with newlines between them.
fn joined<'a>(columns: &[Pieces<'a>], row: usize) -> Cow<'a, str> {
    let mut out = Cow::Borrowed("");
    for text in columns.iter().flat_map(|pieces| pieces.iter(row)) {
        if out.is_empty() {
            out = Cow::Borrowed(text);
        } else {
            out.to_mut().push('\n');
            out.to_mut().push_str(text);
        }
    }
    out
}

fn kept(batch: RecordBatch, keep: &BooleanArray) -> Result<RecordBatch, PrepareError> {
    if keep.true_count() == batch.num_rows() {
        return Ok(batch);
    }
    filter_record_batch(&batch, keep).map_err(PrepareError::internal)
}
