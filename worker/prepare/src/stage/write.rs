//! Cleaned parts → shards: Parquet, packed with zstd.
//!
//! A shard is known before it is written, so that shards are written by several threads, each once
//! and whole. `NAME.json` in the work directory says that one is.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::card::Summary;
use crate::error::PrepareError;
use crate::files::{Whole, read_json, sync_directory, write_json};
use crate::manifest::FileEntry;
use crate::parallel::in_order;
use crate::progress::Counter;
use crate::rows::Touched;

use super::compare::Rows;
use super::copies::Copies;
use super::fate::{Fate, Fates};
use super::read::Reading;
use super::shards::{Plan, Shard, Side};

/// Bytes of a row group, packed but not yet compressed: what a writer keeps in memory.
const GROUP_BYTES: usize = 32 << 20;
/// Most rows of a row group.
const GROUP_ROWS: usize = 1 << 20;

/// What rows become before they are written: what is learned from the training rows (values for
/// missing ones, bounds of outliers) is done to them, and rows are made of them.
pub(crate) trait Shape: Sync {
    /// The schema of rows that have `schema`.
    fn schema(&self, schema: &SchemaRef) -> Result<SchemaRef, PrepareError>;

    /// What a batch of one side becomes. It follows from the rows' content alone.
    fn shape(&self, side: Side, batch: RecordBatch) -> Result<Shaped, PrepareError>;

    /// Rows that come of one, at most: shards are planned by it. 0: rows are written in blocks alone.
    fn growth(&self, _side: Side) -> u64 {
        1
    }

    /// Rows that are made of many others, in blocks.
    fn blocks(&self) -> Vec<Block> {
        Vec::new()
    }

    /// The rows of a block, by its place among them.
    fn block(&self, _block: u32) -> Result<Shaped, PrepareError> {
        Err(PrepareError::internal("a block of rows that nobody makes"))
    }
}

/// A batch of rows that are made of many others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) side: Side,
    pub(crate) rows: u64,
    /// About their bytes in memory.
    pub(crate) bytes: u64,
}

/// What a batch became.
pub(crate) struct Shaped {
    pub(crate) batch: RecordBatch,
    pub(crate) report: ShapeReport,
}

/// What is told of it. Reports add up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShapeReport {
    /// Values filled and capped, and rows that went, by column.
    pub(crate) mended: BTreeMap<String, [u64; 3]>,
    /// Rows made, by what they were made by.
    pub(crate) made: BTreeMap<String, u64>,
    /// Rows not made, by why.
    pub(crate) not_made: BTreeMap<String, u64>,
    /// The first of those made, with what they were made of.
    pub(crate) samples: BTreeMap<String, Vec<Sample>>,
}

/// Rows that are shown of each kind.
pub(crate) const SAMPLES: usize = 3;

/// A row, and what was made of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) before: Value,
    pub(crate) after: Value,
}

impl ShapeReport {
    /// Adds another, which comes after it.
    pub(crate) fn merge(&mut self, other: Self) {
        for (column, counts) in other.mended {
            let known = self.mended.entry(column).or_default();
            known.iter_mut().zip(counts).for_each(|(known, count)| *known += count);
        }
        for (counts, others) in [(&mut self.made, other.made), (&mut self.not_made, other.not_made)]
        {
            for (name, count) in others {
                *counts.entry(name).or_default() += count;
            }
        }
        for (kind, samples) in other.samples {
            let known = self.samples.entry(kind).or_default();
            let room = SAMPLES.saturating_sub(known.len());
            known.extend(samples.into_iter().take(room));
        }
    }
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) files: Vec<FileEntry>,
    pub(crate) train: Summary,
    pub(crate) eval: Summary,
    pub(crate) shaped: ShapeReport,
}

#[derive(Serialize, Deserialize)]
struct ShardReport {
    file: FileEntry,
    summary: Summary,
    shaped: ShapeReport,
}

/// Writes shards.
pub(crate) struct Writing<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) fates: &'a Fates,
    pub(crate) touched: &'a Touched,
    pub(crate) shape: &'a dyn Shape,
    /// Makes copies of the training rows' pictures.
    pub(crate) copies: Option<&'a Copies>,
    /// Bytes of a shard in memory, about.
    pub(crate) shard_bytes: u64,
    pub(crate) threads: NonZeroUsize,
    /// Directory of the shards.
    pub(crate) out: &'a Path,
    /// Directory of what is said of them.
    pub(crate) work: &'a Path,
}

impl Writing<'_> {
    /// What is to be written.
    pub(crate) fn plan(&self) -> Result<Vec<Shard>, PrepareError> {
        let mut plan = Plan::new(self.shard_bytes);
        for key in self.rows.keys() {
            let (row, key) = key.map_err(|error| PrepareError::writing(self.work, error))?;
            let fate = self.fates.rows[row as usize];
            let of = if fate == Fate::Eval { Side::Eval } else { Side::Train };
            let growth = self.shape.growth(of);
            if growth > 0 {
                let copies = self.copies.filter(|_| fate == Fate::Train);
                let size = copies.map_or(key.size, |copies| copies.size(key.size));
                plan.add(row, u64::from(size) * growth, fate);
            }
        }
        plan.add_blocks(&self.shape.blocks());
        Ok(plan.finish())
    }

    /// Writes the `shards` that are not whole yet.
    pub(crate) fn run(
        &self,
        shards: &[Shard],
        counter: &mut Counter<'_>,
    ) -> Result<Written, PrepareError> {
        let mut written = Written::default();
        in_order(
            self.threads,
            |send| {
                for shard in shards {
                    if !send(shard, 1) {
                        break;
                    }
                }
                Ok(())
            },
            |shard| Ok((shard, self.shard(shard)?)),
            |(shard, report): (&Shard, ShardReport)| {
                counter.add(shard.rows, shard.bytes);
                let side = match shard.side {
                    Side::Train => &mut written.train,
                    Side::Eval => &mut written.eval,
                };
                side.merge(&report.summary);
                written.shaped.merge(report.shaped);
                written.files.push(report.file);
                Ok(())
            },
        )?;
        Ok(written)
    }

    fn shard(&self, shard: &Shard) -> Result<ShardReport, PrepareError> {
        let name = shard.name();
        let told = self.work.join(format!("{}.json", name.replace('/', "-")));
        if let Some(known) = read_json(&told) {
            return Ok(known);
        }
        let path = self.out.join(&name);
        let directory = path.parent().unwrap_or(self.out);
        let unwritten = |error| PrepareError::writing(&path, error);
        std::fs::create_dir_all(directory).map_err(unwritten)?;
        let out = Hashing::new(Whole::create(&path).map_err(unwritten)?);
        let mut writer = self.writer(shard, out)?;
        let (mut summary, mut shaped) = (Summary::default(), ShapeReport::default());
        let mut write = |batch: &RecordBatch| {
            summary.add(batch, self.touched);
            writer.write(batch).map_err(|error| told_by(&path, error))
        };
        let copies = self.copies.filter(|_| shard.side == Side::Train);
        self.rows_of(shard, &mut |made| {
            write(&made.batch)?;
            shaped.merge(made.report);
            if let Some(copies) = copies {
                copies.each(&made.batch, &mut shaped, &mut |copy| write(&copy))?;
            }
            Ok(())
        })?;
        let out = writer.into_inner().map_err(|error| told_by(&path, error))?;
        let file = FileEntry {
            name,
            bytes: out.bytes,
            blake3: out.hasher.finalize().to_hex().to_string(),
        };
        let report = ShardReport { file, summary, shaped };
        let finished = out
            .inner
            .finish()
            .and_then(|()| sync_directory(directory))
            .and_then(|()| sync_directory(self.out));
        finished.and_then(|()| write_json(&told, &report)).map_err(unwritten)?;
        Ok(report)
    }

    fn writer(
        &self,
        shard: &Shard,
        out: Hashing<Whole>,
    ) -> Result<ArrowWriter<Hashing<Whole>>, PrepareError> {
        let source = match (shard.side, self.rows.eval) {
            (Side::Eval, Some(eval)) => eval,
            _ => self.rows.train,
        };
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by("hearth-prepare".to_owned())
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_max_row_group_bytes(Some(GROUP_BYTES));
        if let Some(image) = self.touched.image() {
            // Pictures are packed already, and no two are equal.
            for path in [vec![image.to_owned()], vec![image.to_owned(), "bytes".to_owned()]] {
                let path = ColumnPath::new(path);
                properties = properties
                    .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
        }
        let schema = self.shape.schema(&source.schema)?;
        ArrowWriter::try_new(out, schema, Some(properties.build())).map_err(PrepareError::internal)
    }

    /// What the shard's rows became.
    fn rows_of(
        &self,
        shard: &Shard,
        take: &mut dyn FnMut(Shaped) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        if shard.made {
            return (shard.first..shard.end).try_for_each(|block| take(self.shape.block(block)?));
        }
        let reading = Reading { rows: self.rows, fates: self.fates, work: self.work };
        reading.each(&(shard.first..shard.end), shard.side.fate(), &mut |batch| {
            take(self.shape.shape(shard.side, batch)?)
        })
    }
}

fn told_by(path: &Path, error: ParquetError) -> PrepareError {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => PrepareError::writing(path, *source),
            Err(other) => PrepareError::internal(other),
        },
        other => PrepareError::internal(other),
    }
}

/// Hashes what is written.
struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
