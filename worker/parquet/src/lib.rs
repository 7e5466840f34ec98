//! Parquet files that anybody may have written, checked before the library believes what they say.
//!
//! The library makes room for as many bytes as headers claim, unpacks some pages without a bound, follows
//! columns into one another without one, and panics at some of what it does not expect. So a file's footer
//! is looked at when the file is opened, the pages of a row group before it is read, and panics become
//! errors.

mod bombs;
mod pages;
mod thrift;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};

/// Most bytes of a file's footer, which is read at once.
const MAX_FOOTER: u64 = 256 << 20;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Reading fails.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It is damaged, or holds what is not read.
    #[error("not a Parquet file that can be read: {0}; write it again")]
    Damaged(String),
}

impl Fault {
    /// With the row group that is to blame.
    #[must_use]
    pub fn in_group(self, index: usize) -> Self {
        match self {
            Self::Read(error) => Self::Read(error),
            Self::Damaged(detail) => Self::Damaged(format!("row group {index}: {detail}")),
        }
    }
}

/// A file whose footer was looked at.
#[derive(Debug)]
pub struct Opened {
    file: File,
    size: u64,
    metadata: Arc<ParquetMetaData>,
}

impl Opened {
    /// Reads and checks what a file says of itself.
    ///
    /// # Errors
    ///
    /// What cannot be read, and what is no Parquet file.
    pub fn new(file: File) -> Result<Self, Fault> {
        let damaged = |detail: &str| Fault::Damaged(detail.to_owned());
        let size = file.metadata()?.len();
        let claimed =
            footer_size(&file, size).filter(|claimed| *claimed <= size.min(MAX_FOOTER) - 8);
        let claimed = claimed.ok_or_else(|| damaged("it does not end as one: truncated?"))?;
        let mut footer = vec![0; usize::try_from(claimed).unwrap_or(0)];
        file.read_exact_at(&mut footer, size - 8 - claimed)?;
        pages::check_nesting(&footer).map_err(|detail| damaged(&detail))?;
        drop(footer);
        let metadata = guarded(|| ParquetMetaDataReader::new().parse_and_finish(&file))?;
        Ok(Self { file, size, metadata: Arc::new(metadata) })
    }

    /// What the footer says.
    pub fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }

    /// The same for readers of record batches. What a writer says of Arrow's types is passed over:
    /// dictionaries and views become texts.
    ///
    /// # Errors
    ///
    /// Columns that Arrow has no types for.
    pub fn arrow(&self) -> Result<ArrowReaderMetadata, Fault> {
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        guarded(|| ArrowReaderMetadata::try_new(Arc::clone(&self.metadata), options))
    }

    /// Checks row group `index` before it is read: whether it can be where it says that it is, and its pages
    /// what they say that they are. Of columns whose outermost name is not `wanted` nothing is checked.
    ///
    /// # Errors
    ///
    /// The first that is not so, with the row group and the column.
    pub fn check(&self, index: usize, wanted: impl Fn(&str) -> bool) -> Result<(), Fault> {
        let Some(group) = self.metadata.row_groups().get(index) else {
            return Err(Fault::Damaged(format!("it has no row group {index}")));
        };
        let is_wanted = |column: &&ColumnChunkMetaData| {
            column.column_path().parts().first().is_some_and(|root| wanted(root))
        };
        for column in group.columns().iter().filter(is_wanted) {
            self.check_column(column).map_err(|detail| {
                let name = column.column_path().string();
                Fault::Damaged(format!("column {name:?}: {detail}")).in_group(index)
            })?;
        }
        Ok(())
    }

    /// [`Self::check`] of all row groups.
    ///
    /// # Errors
    ///
    /// Its errors.
    pub fn check_all(&self, wanted: impl Fn(&str) -> bool) -> Result<(), Fault> {
        (0..self.metadata.num_row_groups()).try_for_each(|index| self.check(index, &wanted))
    }

    fn check_column(&self, column: &ColumnChunkMetaData) -> Result<(), String> {
        let unsigned =
            |number: i64| u64::try_from(number).map_err(|_| "a negative size".to_owned());
        let data = unsigned(column.data_page_offset())?;
        let dictionary = column.dictionary_page_offset().map(unsigned).transpose()?;
        let start = dictionary.filter(|start| *start > 0).map_or(data, |start| start.min(data));
        let length = unsigned(column.compressed_size())?;
        if let packed @ (Compression::BROTLI(_) | Compression::LZO) = column.compression() {
            let packed = packed.to_string();
            let packed = packed.split('(').next().unwrap_or(&packed);
            return Err(format!("it is packed with {packed}, which is not read; use ZSTD"));
        }
        if start.checked_add(length).is_none_or(|end| end > self.size) {
            return Err("it goes beyond the file's end: truncated?".to_owned());
        }
        pages::check(&self.file, start, length, column.compression())
    }

    /// The file.
    pub fn into_file(self) -> File {
        self.file
    }
}

/// Bytes of the footer, as the file's last eight say.
fn footer_size(file: &File, size: u64) -> Option<u64> {
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, size.checked_sub(8)?).ok()?;
    let [a, b, c, d, magic @ ..] = tail;
    (&magic == b"PAR1").then(|| u64::from(u32::from_le_bytes([a, b, c, d])))
}

/// Calls the library, which panics at some of what it does not expect.
///
/// # Errors
///
/// What it returned, or that it panicked.
pub fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, Fault> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(Fault::Damaged(error.to_string())),
        Err(_) => Err(Fault::Damaged("it holds what the reader does not expect".to_owned())),
    }
}

#[cfg(test)]
mod tests;
