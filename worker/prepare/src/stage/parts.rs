//! Parts of the input on the disk, cleaned: rows as Arrow's IPC file (LZ4), and their keys,
//! signatures and bands. `part-N.json` comes last; a part without it is made again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use arrow_ipc::CompressionType;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{ArrowError, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::bad_rows::BadRow;
use crate::error::PrepareError;
use crate::files::{Whole, read_json, sync_directory, write_json};
use crate::rows::{KEY_BYTES, Key, Processed};
use crate::text::similar::MinHash;

/// What became of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartReport {
    /// Rows read, the malformed ones included.
    pub(crate) rows: u64,
    /// Rows in each batch of those that stay.
    pub(crate) batches: Vec<u32>,
    pub(crate) bad: u64,
    pub(crate) first_bad: Vec<BadRow>,
    pub(crate) dropped: BTreeMap<String, u64>,
    pub(crate) masked: BTreeMap<String, u64>,
    /// Bands of a signature.
    pub(crate) bands: usize,
}

impl PartReport {
    /// Rows that stay.
    pub(crate) fn kept(&self) -> u64 {
        self.batches.iter().map(|rows| u64::from(*rows)).sum()
    }
}

/// Where a part is.
#[derive(Clone, Debug)]
pub(crate) struct PartFiles {
    directory: PathBuf,
    number: usize,
}

impl PartFiles {
    pub(crate) fn new(directory: &Path, number: usize) -> Self {
        Self { directory: directory.to_owned(), number }
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.directory.join(format!("part-{:05}.{ending}", self.number))
    }

    /// What became of it, where it is whole.
    pub(crate) fn report(&self) -> Option<PartReport> {
        read_json(&self.path("json"))
    }

    /// Its rows' keys, in order.
    pub(crate) fn keys(&self) -> io::Result<impl Iterator<Item = io::Result<Key>> + use<>> {
        let mut input = BufReader::with_capacity(1 << 20, File::open(self.path("keys"))?);
        Ok(std::iter::from_fn(move || {
            let mut bytes = [0; KEY_BYTES];
            match input.read_exact(&mut bytes) {
                Ok(()) => Some(Ok(Key::of_bytes(&bytes))),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => Some(Err(error)),
            }
        }))
    }

    /// Its rows' signatures.
    pub(crate) fn signatures(&self) -> io::Result<File> {
        File::open(self.path("signatures"))
    }

    /// Keys of a band, in the order of rows. The file holds batch after batch, of each a band's
    /// after another's.
    pub(crate) fn band(&self, band: usize, report: &PartReport) -> io::Result<Vec<u64>> {
        use std::os::unix::fs::FileExt as _;
        let file = File::open(self.path("bands"))?;
        let (mut keys, mut before) = (Vec::new(), 0);
        for rows in report.batches.iter().map(|rows| *rows as usize) {
            let mut bytes = vec![0; rows * 8];
            file.read_exact_at(&mut bytes, (before * report.bands + band * rows) as u64 * 8)?;
            keys.extend(bytes.chunks_exact(8).map(super::sort::number));
            before += rows;
        }
        Ok(keys)
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> Result<FileReader<BufReader<File>>, ArrowError> {
        let input = BufReader::with_capacity(1 << 20, File::open(self.path("arrow"))?);
        FileReader::try_new(input, None)
    }
}

/// Writes a part.
pub(crate) struct PartWriter {
    files: PartFiles,
    rows: FileWriter<Whole>,
    keys: Whole,
    signatures: Whole,
    bands: Whole,
    report: PartReport,
}

impl PartWriter {
    pub(crate) fn create(files: PartFiles, schema: &SchemaRef) -> Result<Self, PrepareError> {
        let begin = |ending| {
            let path = files.path(ending);
            Whole::create(&path).map_err(|error| PrepareError::writing(&path, error))
        };
        let options = IpcWriteOptions::default()
            .try_with_compression(Some(CompressionType::LZ4_FRAME))
            .map_err(PrepareError::internal)?;
        let rows = FileWriter::try_new_with_options(begin("arrow")?, schema, options)
            .map_err(|error| unwritten(&files.directory, error))?;
        let (keys, signatures, bands) = (begin("keys")?, begin("signatures")?, begin("bands")?);
        Ok(Self { files, rows, keys, signatures, bands, report: PartReport::default() })
    }

    /// Adds what became of a batch; `bad` are its malformed rows, with their file.
    pub(crate) fn add(
        &mut self,
        made: &Processed,
        bad: Vec<BadRow>,
        similar: Option<&MinHash>,
    ) -> Result<(), PrepareError> {
        let report = &mut self.report;
        report.rows += made.rows;
        report.bad += bad.len() as u64;
        let room = 100_usize.saturating_sub(report.first_bad.len());
        report.first_bad.extend(bad.into_iter().take(room));
        for (reason, count) in &made.dropped {
            *report.dropped.entry(reason.clone()).or_default() += count;
        }
        for (kind, count) in &made.masked {
            *report.masked.entry(format!("{kind:?}")).or_default() += count;
        }
        if made.batch.num_rows() > 0 {
            report.batches.push(u32::try_from(made.batch.num_rows()).unwrap_or(u32::MAX));
            self.write(made, similar)?;
        }
        Ok(())
    }

    fn write(&mut self, made: &Processed, similar: Option<&MinHash>) -> Result<(), PrepareError> {
        let directory = &self.files.directory;
        self.rows.write(&made.batch).map_err(|error| unwritten(directory, error))?;
        let written = (|| {
            made.keys.iter().try_for_each(|key| self.keys.write_all(&key.to_bytes()))?;
            let mut signatures = made.signatures.iter();
            signatures.try_for_each(|value| self.signatures.write_all(&value.to_le_bytes()))?;
            let Some(similar) = similar else { return Ok(()) };
            let signatures = made.signatures.chunks_exact(similar.len().max(1));
            let bands: Vec<Vec<u64>> = signatures.map(|of| similar.bands(of)).collect();
            self.report.bands = bands.first().map_or(0, Vec::len);
            for band in 0..self.report.bands {
                bands
                    .iter()
                    .try_for_each(|keys| self.bands.write_all(&keys[band].to_be_bytes()))?;
            }
            Ok(())
        })();
        written.map_err(|error| PrepareError::writing(directory, error))
    }

    /// Makes it whole.
    pub(crate) fn finish(self) -> Result<PartReport, PrepareError> {
        let Self { files, rows, keys, signatures, bands, report } = self;
        let rows = rows.into_inner().map_err(|error| unwritten(&files.directory, error))?;
        let written = (|| {
            [rows, keys, signatures, bands].into_iter().try_for_each(Whole::finish)?;
            // The report must not be there before what it tells of.
            sync_directory(&files.directory)?;
            write_json(&files.path("json"), &report)
        })();
        written.map_err(|error| PrepareError::writing(&files.directory, error))?;
        Ok(report)
    }
}

fn unwritten(path: &Path, error: ArrowError) -> PrepareError {
    match error {
        ArrowError::IoError(_, source) => PrepareError::writing(path, source),
        other => PrepareError::internal(other),
    }
}
