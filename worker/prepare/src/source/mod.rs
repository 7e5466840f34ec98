//! Files → batches of rows, each row with the file and line (or row) that it comes from.
//!
//! A source is read twice: [`Format::scan`] finds its fields and cuts it into parts, then
//! [`Format::read`] deals a part's rows in chunks, which [`Format::decode`] turns into Arrow's
//! batches on other threads. A format that is yet to come is one more [`Format`].

mod build;
mod csv;
mod files;
mod folder;
#[cfg(test)]
mod fuzz;
mod import;
mod json;
mod kind;
mod lines;
mod parquet;
mod table;
mod text;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::DataFile;
use serde::{Deserialize, Serialize};

use crate::bad_rows::BadRows;
use crate::error::PrepareError;
use crate::files::hash_file;
use crate::progress::Counter;
use crate::rows::{Pictures, Pieces, Touched};

pub(crate) use files::{SourceFile, format_of, list};
use folder::{Dealt, Folder};
use import::ImportScan;
#[cfg(test)]
pub(crate) use json::parse;
pub(crate) use json::{Fields, Json};
pub(crate) use kind::Kind;
use lines::Lines;
use text::TextScan;

/// A row that is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bad {
    /// Line or row in its file, from 1.
    pub(crate) line: u64,
    /// What is wrong with it. Never what it holds.
    pub(crate) reason: String,
}

/// A part of a file: what is done whole, and done again where it was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Which of the source's files.
    pub(crate) file: usize,
    /// First byte, or row group.
    pub(crate) start: u64,
    /// The byte or row group after the last.
    pub(crate) end: u64,
    /// Line or row of the first row, from 1.
    pub(crate) line: u64,
    /// Rows, where that is known.
    pub(crate) rows: Option<u64>,
    /// Bytes in the file.
    pub(crate) bytes: u64,
}

/// What is dealt to threads.
pub(crate) enum Chunk {
    /// Rows as they stand in a file.
    Lines {
        lines: Lines,
        /// Which of the source's files.
        file: usize,
    },
    /// Rows that are decoded.
    Batch {
        batch: RecordBatch,
        /// Row in the file of the first of them, from 1.
        line: u64,
    },
    /// What a source of many files deals.
    Dealt(Vec<Dealt>),
}

/// What is told of a source's file, or of many of them.
pub(crate) struct Content {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// BLAKE3, in hexadecimal.
    pub(crate) blake3: String,
}

impl Content {
    /// Of a file; `tell` learns of each part that was read.
    pub(crate) fn of(
        path: &Path,
        name: String,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Self, PrepareError> {
        let (bytes, hash) =
            hash_file(path, tell).map_err(|error| PrepareError::reading(path, error))?;
        Ok(Self { name, bytes, blake3: hash.to_hex().to_string() })
    }
}

/// Decoded rows.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) batch: RecordBatch,
    /// Line or row of each in its file.
    pub(crate) lines: Vec<u64>,
    pub(crate) bad: Vec<Bad>,
    /// What was no row and nobody's mistake, by why.
    pub(crate) dropped: BTreeMap<String, u64>,
}

/// How a source is laid out.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) schema: SchemaRef,
    pub(crate) parts: Vec<Part>,
    bounds: Bounds,
    /// What rows of text are read by.
    text: Option<TextScan>,
    /// What rows of many files are read by.
    import: Option<ImportScan>,
}

/// The files of a source, and what is asked of their rows.
pub(crate) struct Source {
    pub(crate) data: DataFile,
    pub(crate) files: Vec<SourceFile>,
    pub(crate) touched: Touched,
    pub(crate) format: DataFormat,
    /// Where it is many files: [`Self::files`] is what says of what there is a row.
    folder: Option<Folder>,
}

/// Bounds of what is read at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) threads: NonZeroUsize,
    /// Bytes of a part, about.
    pub(crate) part_bytes: u64,
    /// Bytes of a chunk, about.
    pub(crate) chunk_bytes: usize,
}

/// Values of a chunk, over all columns: a sparse table must not fill the memory.
const CHUNK_VALUES: usize = 1 << 20;
/// Most rows of a chunk.
const CHUNK_ROWS: usize = 8192;

impl Bounds {
    /// Most rows of a chunk of so many columns.
    fn rows(columns: usize) -> usize {
        (CHUNK_VALUES / columns.max(1)).clamp(1, CHUNK_ROWS)
    }
}

/// How files are written down.
pub(crate) trait Format: Sync {
    /// Finds the fields of all rows, and cuts the files into parts.
    fn scan(
        &self,
        source: &Source,
        bounds: Bounds,
        bad: &mut BadRows,
        counter: &mut Counter<'_>,
    ) -> Result<Scan, PrepareError>;

    /// Deals the rows of a part, in order, each chunk with the bytes that it takes; ends where
    /// `send` says that nobody wants more.
    fn read(
        &self,
        source: &Source,
        scan: &Scan,
        part: &Part,
        send: &mut dyn FnMut(Chunk, u64) -> bool,
    ) -> Result<(), PrepareError>;

    /// The rows of a chunk.
    fn decode(&self, source: &Source, scan: &Scan, chunk: Chunk) -> Result<Rows, PrepareError>;
}

/// How `format` is read.
pub(crate) fn format(format: DataFormat) -> &'static dyn Format {
    match format {
        DataFormat::JSONL | DataFormat::CSV | DataFormat::Text => &text::TextFormat,
        DataFormat::Parquet => &table::TableFormat,
        DataFormat::ImageFolder | DataFormat::LabelStudio | DataFormat::DICOM => {
            &import::ImportFormat
        }
    }
}

impl Source {
    /// Looks a source's files up.
    pub(crate) fn open(data: &DataFile, touched: Touched) -> Result<Self, PrepareError> {
        let data = data.clone();
        if let Some((folder, file)) = Folder::open(&data, &touched)? {
            let (format, files, folder) = (data.format, vec![file], Some(folder));
            return Ok(Self { data, files, touched, format, folder });
        }
        let (format, files) = list(&data)?;
        Ok(Self { data, files, touched, format, folder: None })
    }

    /// How its files are read.
    pub(crate) fn format(&self) -> &'static dyn Format {
        if self.folder.is_some() { &import::ImportFormat } else { format(self.format) }
    }

    /// What the card calls one of its files, where that is not the path: of a source that was
    /// fetched from a bucket, where the file came from.
    pub(crate) fn origin(&self, file: &str) -> Option<String> {
        let rest = Path::new(file).strip_prefix(&self.data.path).ok()?;
        let uri =
            self.data.uri.starts_with("s3://").then_some(self.data.uri.trim_end_matches('/'))?;
        let below = !rest.as_os_str().is_empty();
        Some(if below { format!("{uri}/{}", rest.display()) } else { uri.to_owned() })
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.folder {
            Some(folder) => folder.bytes,
            None => self.files.iter().map(|file| file.size).sum(),
        }
    }

    /// Refuses files that somebody wrote to since they were looked up.
    pub(crate) fn unchanged(&self) -> Result<(), PrepareError> {
        self.files.iter().try_for_each(SourceFile::unchanged)?;
        self.folder.as_ref().map_or(Ok(()), Folder::unchanged)
    }

    /// Deals all of its rows: each batch with its file, and the line or row of its first.
    pub(crate) fn each_batch(
        &self,
        bounds: Bounds,
        bad: &mut BadRows,
        counter: &mut Counter<'_>,
        take: &mut dyn FnMut(&Path, u64, RecordBatch) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        let format = self.format();
        let scan = format.scan(self, bounds, bad, counter)?;
        for part in &scan.parts {
            let path = &self.files[part.file].path;
            let mut ended = Ok(());
            format.read(self, &scan, part, &mut |chunk, _| {
                let dealt = format.decode(self, &scan, chunk).and_then(|mut rows| {
                    rows.bad.drain(..).try_for_each(|row| bad.add(path, row))?;
                    let first = rows.lines.first().copied().unwrap_or(part.line);
                    take(path, first, rows.batch)
                });
                ended = dealt;
                ended.is_ok()
            })?;
            ended?;
        }
        Ok(())
    }

    /// Hashes its content; `tell` learns of each part that was read.
    pub(crate) fn hash(&self, tell: &mut dyn FnMut(u64)) -> Result<Vec<Content>, PrepareError> {
        if let Some(folder) = &self.folder {
            return Ok(vec![folder.hash(&self.files[0], tell)?]);
        }
        self.files.iter().map(|file| Content::of(&file.path, file.name.clone(), tell)).collect()
    }

    /// Refuses texts and pictures that are none.
    pub(crate) fn check(&self, schema: &SchemaRef) -> Result<(), PrepareError> {
        let known =
            self.touched.texts().iter().filter_map(|name| schema.field_with_name(name).ok());
        for field in known {
            if let Some(detail) = Pieces::refusal(field) {
                return Err(PrepareError::damaged(&self.data.path, 0, detail));
            }
        }
        let image = self.touched.image().and_then(|name| schema.field_with_name(name).ok());
        match image.and_then(Pictures::refusal) {
            Some(detail) => Err(PrepareError::damaged(&self.data.path, 0, detail)),
            None => Ok(()),
        }
    }

    /// Refuses a source without a column that is needed.
    fn needs(&self, path: &Path, names: &[&str]) -> Result<(), PrepareError> {
        match self.touched.names().find(|name| !names.contains(name)) {
            Some(name) => Err(PrepareError::damaged(
                path,
                0,
                format!(
                    "it has no column {name:?}, only {}; name the right one in the job's data",
                    names.iter().take(20).copied().collect::<Vec<_>>().join(", ")
                ),
            )),
            None => Ok(()),
        }
    }
}

impl Scan {
    fn new(schema: SchemaRef, parts: Vec<Part>, bounds: Bounds) -> Self {
        Self { schema, parts, bounds, text: None, import: None }
    }
}
