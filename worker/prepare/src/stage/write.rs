//! Cleaned parts → shards: Parquet, packed with zstd.
//!
//! A shard is known before it is written, so that shards are written by several threads, each once
//! and whole. `NAME.json` in the work directory says that one is.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::filter::filter_record_batch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};

use crate::card::Summary;
use crate::error::PrepareError;
use crate::files::{Whole, read_json, sync_directory, write_json};
use crate::manifest::FileEntry;
use crate::parallel::in_order;
use crate::progress::Counter;
use crate::rows::{Key, Touched};

use super::compare::Rows;
use super::copies::Copies;
use super::fate::{Fate, Fates};
use super::parts::{PartFiles, PartReport};
use super::shards::{Plan, Shard, Side};

/// Bytes of a row group, packed but not yet compressed: what a writer keeps in memory.
const GROUP_BYTES: usize = 32 << 20;
/// Most rows of a row group.
const GROUP_ROWS: usize = 1 << 20;

/// What rows become before they are written. The seam for what is learned from the training rows
/// (values for missing ones, bounds of outliers) and for rows made of rows.
pub(crate) trait Shape: Sync {
    /// The schema of rows that have `schema`.
    fn schema(&self, schema: &SchemaRef) -> SchemaRef;
    /// What a batch of one side becomes.
    fn shape(&self, side: Side, batch: RecordBatch) -> Result<RecordBatch, PrepareError>;
}

/// Rows stay as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AsTheyAre;

impl Shape for AsTheyAre {
    fn schema(&self, schema: &SchemaRef) -> SchemaRef {
        SchemaRef::clone(schema)
    }

    fn shape(&self, _side: Side, batch: RecordBatch) -> Result<RecordBatch, PrepareError> {
        Ok(batch)
    }
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) files: Vec<FileEntry>,
    pub(crate) train: Summary,
    pub(crate) eval: Summary,
    /// Rows with copies of pictures.
    pub(crate) copies: u64,
}

#[derive(Serialize, Deserialize)]
struct ShardReport {
    file: FileEntry,
    summary: Summary,
    copies: u64,
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
            let copies = self.copies.filter(|_| fate == Fate::Train);
            let size = copies.map_or(key.size, |copies| copies.size(key.size));
            plan.add(row, &Key { size, ..key }, fate);
        }
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
                written.copies += report.copies;
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
        let (mut summary, mut copies) = (Summary::default(), 0);
        let mut write = |batch: RecordBatch| {
            summary.add(&batch, self.touched);
            writer.write(&batch).map_err(|error| told_by(&path, error))
        };
        let mut first = 0;
        for (files, report) in self.rows.parts() {
            let end = first + u32::try_from(report.kept()).unwrap_or(u32::MAX);
            if first < shard.end && shard.first < end {
                self.part(shard, first, (files, report), &mut |batch| {
                    write(batch.clone())?;
                    if let (Some(of), Side::Train) = (self.copies, shard.side) {
                        copies += of.each(&batch, &mut write)?;
                    }
                    Ok(())
                })?;
            }
            first = end;
        }
        let out = writer.into_inner().map_err(|error| told_by(&path, error))?;
        let file = FileEntry {
            name,
            bytes: out.bytes,
            blake3: out.hasher.finalize().to_hex().to_string(),
        };
        let report = ShardReport { file, summary, copies };
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
        let schema = self.shape.schema(&source.schema);
        ArrowWriter::try_new(out, schema, Some(properties.build())).map_err(PrepareError::internal)
    }

    /// The shard's rows of a part, whose first row has the number `first`.
    fn part(
        &self,
        shard: &Shard,
        mut first: u32,
        (files, report): (&PartFiles, &PartReport),
        take: &mut dyn FnMut(RecordBatch) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        let unread = |error: ArrowError| match error {
            ArrowError::IoError(_, source) => PrepareError::writing(self.work, source),
            other => PrepareError::internal(other),
        };
        let mut rows = files.rows().map_err(unread)?;
        for (index, count) in report.batches.iter().enumerate() {
            let end = first + count;
            let wanted = |row| {
                (shard.first..shard.end).contains(&row)
                    && self.fates.rows[row as usize] == shard.side.fate()
            };
            let keep: BooleanArray = (first..end).map(|row| Some(wanted(row))).collect();
            if keep.true_count() > 0 {
                rows.set_index(index).map_err(unread)?;
                let batch = rows.next().ok_or_else(|| PrepareError::internal("a batch is gone"))?;
                let batch = filter_record_batch(&batch.map_err(unread)?, &keep);
                take(self.shape.shape(shard.side, batch.map_err(unread)?)?)?;
            }
            first = end;
        }
        Ok(())
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
