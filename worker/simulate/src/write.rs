//! Transfers and what is known of accounts, as Parquet.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use jiff::{SignedDuration, Timestamp};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::{COLUMNS, DAY, HOUR, History, Snapshot, Transfer, Typology};

/// Rows of a batch.
const ROWS: usize = 1 << 16;

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No file.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No Parquet.
    #[error("cannot write Parquet")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// No table.
    #[error("cannot make a table")]
    Arrow(#[from] arrow_schema::ArrowError),
    /// No time.
    #[error("a time that no calendar has")]
    Time(#[from] jiff::Error),
}

/// Writes `transfers.parquet` and `accounts.parquet` below `directory`; the first day begins at `start`.
///
/// Of transfers, `at` is when, `hour` and `weekday` (0 is Monday, where `start` is one) are of it, `suspicious` is
/// what a model is to learn, and `typology` why. Of accounts,
/// a row says what was known `at` that time, once a transfer of the account was booked.
///
/// # Errors
///
/// Files that cannot be written.
pub fn write(directory: &Path, transfers: &[Transfer], start: Timestamp) -> Result<(), WriteError> {
    fs::create_dir_all(directory)
        .map_err(|source| WriteError::File { path: directory.to_owned(), source })?;
    let mut history = History::default();
    let snapshots = transfers.chunks(ROWS / 2).map(|chunk| {
        let snapshots: Vec<Snapshot> =
            chunk.iter().flat_map(|transfer| history.book(transfer)).collect();
        account_rows(&snapshots, start)
    });
    parquet(&directory.join("accounts.parquet"), snapshots)?;
    let batches = transfers.chunks(ROWS).enumerate();
    let batches = batches.map(|(part, chunk)| transfer_rows(part * ROWS, chunk, start));
    parquet(&directory.join("transfers.parquet"), batches)
}

/// A file that appears under its name when it is whole.
fn parquet(
    path: &Path,
    batches: impl Iterator<Item = Result<RecordBatch, WriteError>>,
) -> Result<(), WriteError> {
    let unwritten = |source| WriteError::File { path: path.to_owned(), source };
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("hearth-simulate".to_owned())
        .build();
    let mut batches = batches.peekable();
    let Some(Ok(first)) = batches.peek() else {
        return batches.next().map_or(Ok(()), |batch| batch.map(drop));
    };
    let partial = path.with_extension("partial");
    let file = File::create(&partial).map_err(unwritten)?;
    let mut writer = ArrowWriter::try_new(file, first.schema(), Some(properties))?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    writer.into_inner()?.sync_all().map_err(unwritten)?;
    fs::rename(&partial, path).map_err(unwritten)
}

/// The time as RFC 3339.
fn time(at: i64, start: Timestamp) -> Result<String, WriteError> {
    Ok(start.checked_add(SignedDuration::from_secs(at))?.to_string())
}

/// An account's name.
fn name(account: u32) -> String {
    if account == crate::CASH { "CASH".to_owned() } else { format!("A{account:07}") }
}

fn transfer_rows(
    first: usize,
    transfers: &[Transfer],
    start: Timestamp,
) -> Result<RecordBatch, WriteError> {
    let times: Result<Vec<String>, _> = transfers.iter().map(|of| time(of.at, start)).collect();
    let texts = |of: &dyn Fn(&Transfer) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(transfers.iter().map(of)))
    };
    let numbers = |of: &dyn Fn(&Transfer) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(transfers.iter().map(of)))
    };
    let ids = (first..).take(transfers.len()).map(|number| format!("T{number:09}"));
    Ok(RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from_iter_values(ids)) as ArrayRef),
        ("at", Arc::new(StringArray::from(times?))),
        ("hour", numbers(&|of| of.at.rem_euclid(DAY) / HOUR)),
        ("weekday", numbers(&|of| of.at.div_euclid(DAY) % 7)),
        ("sender", texts(&|of| name(of.sender))),
        ("receiver", texts(&|of| name(of.receiver))),
        ("amount", Arc::new(Float64Array::from_iter_values(transfers.iter().map(|of| of.amount)))),
        ("channel", texts(&|of| of.channel.name().to_owned())),
        (
            "suspicious",
            Arc::new(
                transfers.iter().map(|of| Some(of.typology.is_some())).collect::<BooleanArray>(),
            ),
        ),
        ("typology", texts(&|of| of.typology.map_or("none", Typology::name).to_owned())),
    ])?)
}

fn account_rows(snapshots: &[Snapshot], start: Timestamp) -> Result<RecordBatch, WriteError> {
    let times: Result<Vec<String>, _> = snapshots.iter().map(|of| time(of.at, start)).collect();
    let names = snapshots.iter().map(|of| name(of.account));
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("account", Arc::new(StringArray::from_iter_values(names))),
        ("at", Arc::new(StringArray::from(times?))),
    ];
    for (place, column) in COLUMNS.into_iter().enumerate() {
        let values = snapshots.iter().map(|of| of.values[place]);
        columns.push((column, Arc::new(Float64Array::from_iter_values(values))));
    }
    Ok(RecordBatch::try_from_iter(columns)?)
}
