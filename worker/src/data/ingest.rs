//! A file of rows → a file of token ids, in one pass: one thread reads, several tokenize, the
//! caller's writes.
//!
//! Invariant: what comes out does not depend on the number of threads. Chunk `k` goes to thread
//! `k mod n` and is taken from it in that order; channels are short, so that memory is bounded.

use std::collections::HashMap;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::DataError;
use super::cache::{Header, Writer};
use super::facts::Facts;
use super::sequence::{Kind, Tokens};
use super::source::{BadRow, Columns, Parts, Record, SourceFile};

/// Most rows of a chunk.
const CHUNK_ROWS: usize = 256;
/// Bytes after which a chunk is full.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that wait before and after a thread.
const WAITING: usize = 2;

/// Makes sequences of rows.
pub(super) trait Encode: Sync {
    /// What the sequences are for.
    fn kind(&self) -> Kind;

    /// Sequences of a sample.
    fn per_sample(&self) -> u32 {
        1
    }

    /// All that decides on the sequences besides the file, as text.
    fn recipe(&self, columns: &Columns) -> String;

    /// Hash over what the rows of `file` name and the file does not hold.
    fn outside(&self, file: &SourceFile) -> Result<Option<blake3::Hash>, DataError> {
        let _ = file;
        Ok(None)
    }

    /// Most rows of a chunk.
    fn rows_per_chunk(&self) -> usize {
        CHUNK_ROWS
    }

    /// Sequences of a row, or its picture.
    fn encode(&self, parts: Parts) -> Result<Encoded, Refusal>;
}

/// Sequences of a row, or its picture.
pub(super) struct Encoded {
    /// Label, where rows are labelled.
    pub(super) label: Option<String>,
    /// Sequences.
    pub(super) sequences: Vec<Tokens>,
    /// Prepared pixels of a picture.
    pub(super) pixels: Option<Vec<u8>>,
    /// What the input is like, where that is kept.
    pub(super) facts: Facts,
}

/// Why a row has no sequences.
pub(super) enum Refusal {
    /// The row is malformed.
    Malformed(String),
    /// The tokenizer or the template does not work.
    Failed(DataError),
}

/// What ended the reading of a file.
pub(super) enum IngestError {
    /// The file, or the tokenizer.
    Data(DataError),
    /// The entry cannot be written.
    Write(io::Error),
}

impl From<DataError> for IngestError {
    fn from(error: DataError) -> Self {
        Self::Data(error)
    }
}

type Rows = Vec<(u64, Result<Encoded, String>)>;

/// Tokenizes the rows of `file` into `out`. Returns what else the entry needs.
pub(super) fn ingest<W: Write>(
    file: &SourceFile,
    encoder: &dyn Encode,
    threads: NonZeroUsize,
    max_bad_rows: u64,
    out: &mut Writer<W>,
) -> Result<Header, IngestError> {
    let refused = AtomicBool::new(false);
    let mut taken = Taken {
        out,
        kind: encoder.kind(),
        known: HashMap::new(),
        labels: Vec::new(),
        documents: 0,
        bad: Vec::new(),
        bad_rows: 0,
    };
    thread::scope(|scope| {
        let mut inputs = Vec::new();
        let mut outputs = Vec::new();
        for _ in 0..threads.get() {
            let (input, chunks) = sync_channel(WAITING);
            let (done, output) = sync_channel(WAITING);
            let refused = &refused;
            scope.spawn(move || encode_chunks(encoder, &file.columns, &chunks, &done, refused));
            inputs.push(input);
            outputs.push(output);
        }
        scope.spawn(move || read_chunks(file, encoder.rows_per_chunk(), &inputs));
        for output in outputs.iter().cycle() {
            // The reader has ended, and this would have been the next chunk.
            let Ok(rows) = output.recv() else { break };
            taken.add(rows?, max_bad_rows)?;
            if taken.bad_rows > max_bad_rows {
                refused.store(true, Ordering::Relaxed);
            }
        }
        Ok::<(), IngestError>(())
    })?;
    taken.finish(file, encoder.per_sample(), max_bad_rows)
}

/// Deals the rows of a file to threads in chunks.
fn read_chunks(
    file: &SourceFile,
    most: usize,
    inputs: &[SyncSender<Result<Vec<Record>, DataError>>],
) {
    let mut next = inputs.iter().cycle();
    let mut send = |chunk| next.next().is_some_and(|input| input.send(chunk).is_ok());
    let records = match file.records() {
        Ok(records) => records,
        Err(error) => {
            send(Err(error));
            return;
        }
    };
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for record in records {
        match record {
            Ok(record) => {
                bytes += record.size();
                chunk.push(record);
            }
            Err(error) => {
                send(Err(error));
                return;
            }
        }
        if chunk.len() == most || bytes >= CHUNK_BYTES {
            bytes = 0;
            if !send(Ok(std::mem::take(&mut chunk))) {
                return;
            }
        }
    }
    if !chunk.is_empty() {
        send(Ok(chunk));
    }
}

/// Tokenizes chunks. Of a file that is `refused` malformed rows are counted, and no more is done.
fn encode_chunks(
    encoder: &dyn Encode,
    columns: &Columns,
    chunks: &Receiver<Result<Vec<Record>, DataError>>,
    done: &SyncSender<Result<Rows, DataError>>,
    refused: &AtomicBool,
) {
    let encode = |record: Record| {
        let line = record.line;
        let parts = match record.parts(columns) {
            Ok(_) if refused.load(Ordering::Relaxed) => return Ok(None),
            Ok(parts) => parts,
            Err(reason) => return Ok(Some((line, Err(reason)))),
        };
        match encoder.encode(parts) {
            Ok(sequences) => Ok(Some((line, Ok(sequences)))),
            Err(Refusal::Malformed(reason)) => Ok(Some((line, Err(reason)))),
            Err(Refusal::Failed(error)) => Err(error),
        }
    };
    for chunk in chunks {
        let rows = chunk.and_then(|records| {
            records.into_iter().filter_map(|record| encode(record).transpose()).collect()
        });
        if done.send(rows).is_err() {
            return;
        }
    }
}

/// What was taken from a file so far.
struct Taken<'a, W> {
    out: &'a mut Writer<W>,
    kind: Kind,
    known: HashMap<String, u32>,
    labels: Vec<String>,
    documents: u32,
    /// Those that are permitted, and the one that is too many.
    bad: Vec<(u64, String)>,
    bad_rows: u64,
}

impl<W: Write> Taken<'_, W> {
    fn add(&mut self, rows: Rows, max_bad_rows: u64) -> Result<(), IngestError> {
        for (line, row) in rows {
            match row {
                Ok(encoded) if self.bad_rows <= max_bad_rows => self.add_row(encoded)?,
                Ok(_) => {}
                Err(reason) => {
                    if self.bad_rows <= max_bad_rows {
                        self.bad.push((line, reason));
                    }
                    self.bad_rows += 1;
                }
            }
        }
        Ok(())
    }

    fn add_row(&mut self, encoded: Encoded) -> Result<(), IngestError> {
        let class = encoded.label.map(|label| {
            let next = count(self.known.len());
            *self.known.entry(label).or_insert_with_key(|label| {
                self.labels.push(label.clone());
                next
            })
        });
        if let Some(pixels) = &encoded.pixels {
            self.out
                .push_pixels(pixels, class.unwrap_or(0), &encoded.facts)
                .map_err(IngestError::Write)?;
        }
        for tokens in &encoded.sequences {
            let note = match self.kind {
                Kind::Classes | Kind::Pixels => class.unwrap_or(0),
                Kind::Documents => self.documents,
                Kind::Masked => tokens.targets.as_ref().map_or_else(
                    || count(tokens.ids.len().saturating_sub(1)),
                    super::sequence::Mask::count,
                ),
            };
            self.out.push(tokens, note, &encoded.facts).map_err(IngestError::Write)?;
        }
        self.documents += 1;
        Ok(())
    }

    fn finish(self, file: &SourceFile, per_sample: u32, max: u64) -> Result<Header, IngestError> {
        if self.bad_rows > max {
            let (line, reason) = self.bad.into_iter().next().unwrap_or_default();
            return Err(bad_rows(file, BadRow { line, reason }, self.bad_rows, max).into());
        }
        if self.out.len() == 0 {
            return Err(DataError::Empty { path: file.path.clone() }.into());
        }
        if self.out.len() > u32::MAX as usize {
            return Err(DataError::Setting {
                path: file.path.clone(),
                detail: format!("{} sequences; at most {} are read", self.out.len(), u32::MAX),
            }
            .into());
        }
        Ok(Header { kind: self.kind, per_sample, labels: self.labels, bad: self.bad })
    }
}

/// The refusal of a file whose `first` malformed row is one of `bad`.
pub(super) fn bad_rows(file: &SourceFile, first: BadRow, bad: u64, max: u64) -> DataError {
    let BadRow { line, reason } = first;
    DataError::BadRows { path: file.path.clone(), line, reason, bad, max }
}

/// Counts of rows fit `u32`; more are refused when the file has been read.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
