//! Token ids, or pixels of pictures, on disk, keyed by the content of what they were made from, so
//! that ranks, restarts and reruns tokenize a file once.
//!
//! An entry is written while its file is read and is never held in memory whole; sequences are
//! read from it one by one. A mapping of the file would be as quick, but a file that someone cuts
//! meanwhile ends the process there, where a read only fails.
//!
//! A cache entry is never trusted further than its own hash: anything wrong
//! with it is a miss. Layout, little-endian: of each sequence `u32` ids and, where the kind has
//! one, a bit mask of the targets, or of each picture its bytes, and where the kind has some, `f32` facts;
//! `u32` lengths; `u32` notes; header (JSON); `u64` sizes of the
//! sequences, of the lengths and of the header; 32 bytes BLAKE3 of all before.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::sequence::{Fetched, Kind, Tokens};
use super::source::BadRow;

/// Changes when the layout or the meaning of an entry does.
const FORMAT: u32 = 3;
/// Sizes and hash at the end of an entry.
const FOOTER: usize = 3 * 8 + 32;
/// Entries up to this many bytes are kept in memory: a sequence of 137 tokens is then fetched in
/// 0.6 µs, where a read from the page cache takes 1.5 µs and one from a network volume far longer.
const IN_MEMORY: u64 = 64 << 20;
/// Sequences between two of which the start is known.
const STRIDE: usize = 64;

/// What a tokenized file holds besides token ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What the sequences are for.
    pub kind: Kind,
    /// Sequences of a sample.
    pub per_sample: u32,
    /// Distinct labels, in order of first appearance.
    pub labels: Vec<String>,
    /// Malformed rows that were skipped: line and reason.
    pub bad: Vec<(u64, String)>,
}

impl Header {
    /// Malformed rows that were skipped.
    pub fn bad_rows(&self) -> Vec<BadRow> {
        self.bad
            .iter()
            .map(|(line, reason)| BadRow { line: *line, reason: reason.clone() })
            .collect()
    }
}

/// A tokenized file.
#[derive(Debug)]
pub struct TokenStore {
    /// What it holds.
    pub header: Header,
    /// Of the whole entry.
    pub hash: blake3::Hash,
    data: Data,
    index: Index,
}

#[derive(Debug)]
enum Data {
    Memory(Vec<u8>),
    File(File),
}

/// Where sequences are, and a number for each: of [`Kind::Classes`] and [`Kind::Pixels`] the index of its label, of
/// [`Kind::Documents`] the number of its document, of [`Kind::Masked`] its targets.
#[derive(Debug, Default)]
struct Index {
    lengths: Vec<u32>,
    notes: Vec<u32>,
    /// Where every `STRIDE`-th sequence starts.
    starts: Vec<u64>,
}

impl Index {
    fn new(lengths: Vec<u32>, notes: Vec<u32>, kind: Kind) -> Self {
        let mut starts = Vec::with_capacity(lengths.len() / STRIDE + 1);
        let mut end = 0;
        for (row, length) in lengths.iter().enumerate() {
            if row % STRIDE == 0 {
                starts.push(end);
            }
            end += bytes_of(*length, kind);
        }
        Self { lengths, notes, starts }
    }

    /// Start and size in bytes.
    fn place(&self, row: usize, kind: Kind) -> (u64, u64) {
        let first = row - row % STRIDE;
        let before: u64 =
            self.lengths[first..row].iter().map(|length| bytes_of(*length, kind)).sum();
        (self.starts[row / STRIDE] + before, bytes_of(self.lengths[row], kind))
    }
}

fn bytes_of(length: u32, kind: Kind) -> u64 {
    content_of(length, kind) + 4 * kind.facts() as u64
}

/// Without the facts, which come last.
fn content_of(length: u32, kind: Kind) -> u64 {
    let length = u64::from(length);
    match kind {
        Kind::Classes | Kind::Documents => 4 * length,
        Kind::Masked => 4 * length + length.div_ceil(8),
        Kind::Pixels => length,
    }
}

impl TokenStore {
    /// Sequences.
    pub fn len(&self) -> usize {
        self.index.lengths.len()
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.index.lengths.is_empty()
    }

    /// Tokens of a sequence; bytes of a picture.
    pub fn length(&self, row: u32) -> u32 {
        self.index.lengths[row as usize]
    }

    /// The number that is noted of a sequence.
    pub(super) fn note(&self, row: u32) -> u32 {
        self.index.notes[row as usize]
    }

    /// Tokens of a sequence that are to be predicted.
    pub fn target_tokens(&self, row: u32) -> u32 {
        match self.header.kind {
            Kind::Classes | Kind::Pixels => 0,
            Kind::Documents => self.length(row).saturating_sub(1),
            Kind::Masked => self.note(row),
        }
    }

    /// Reads a sequence and adds it to `into`.
    pub fn fetch(&self, row: u32, class: i64, into: &mut Fetched) -> io::Result<()> {
        let kind = self.header.kind;
        let (start, _) = self.index.place(row as usize, kind);
        let size = content_of(self.length(row), kind);
        let length = self.length(row) as usize;
        match &self.data {
            Data::Memory(bytes) => {
                let start = to_usize(start)?;
                into.push(&bytes[start..start + to_usize(size)?], length, kind, class);
            }
            Data::File(file) => {
                let mut buffer = std::mem::take(&mut into.bytes);
                buffer.resize(to_usize(size)?, 0);
                let read = file.read_exact_at(&mut buffer, start);
                if read.is_ok() {
                    into.push(&buffer, length, kind, class);
                }
                into.bytes = buffer;
                read?;
            }
        }
        Ok(())
    }

    /// Numbers that tell what a row's input is like ([`super::facts`]).
    pub fn facts(&self, row: u32) -> io::Result<Facts> {
        let kind = self.header.kind;
        let (start, _) = self.index.place(row as usize, kind);
        let start = start + content_of(self.length(row), kind);
        let mut buffer = vec![0; 4 * kind.facts()];
        match &self.data {
            Data::Memory(bytes) => {
                let start = to_usize(start)?;
                let end = start + buffer.len();
                buffer.copy_from_slice(&bytes[start..end]);
            }
            Data::File(file) => file.read_exact_at(&mut buffer, start)?,
        }
        Ok(numbers(&buffer, f32::from_le_bytes))
    }

    /// Reads an entry; `None` where there is none to rely on.
    pub fn open(path: &Path) -> Option<Self> {
        Self::open_keeping(path, IN_MEMORY)
    }

    /// As [`Self::open`]; entries of up to `in_memory` bytes are kept in memory.
    pub fn open_keeping(path: &Path, in_memory: u64) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let size = file.metadata().ok()?.len();
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, size.checked_sub(FOOTER as u64)?).ok()?;
        let (sizes, hash) = footer.split_first_chunk::<24>()?;
        let sizes = numbers(sizes, u64::from_le_bytes);
        let [data, table, header] = sizes[..] else { return None };
        // The hash speaks for the sizes only once they are known to fit.
        let whole = data.checked_add(table.checked_mul(2)?)?.checked_add(header)?;
        if whole.checked_add(FOOTER as u64)? != size {
            return None;
        }
        let keep = data <= in_memory;
        let (found, mut memory) =
            hash_of(&mut file, size - 32, if keep { data } else { 0 }).ok()?;
        if found.as_bytes() != hash {
            return None;
        }
        let part = |start: u64, size: u64| {
            let mut bytes = vec![0; to_usize(size).ok()?];
            file.read_exact_at(&mut bytes, start).ok()?;
            Some(bytes)
        };
        let lengths = numbers(&part(data, table)?, u32::from_le_bytes);
        let notes = numbers(&part(data + table, table)?, u32::from_le_bytes);
        let header: Header = serde_json::from_slice(&part(data + 2 * table, header)?).ok()?;
        memory.shrink_to_fit();
        Some(Self {
            hash: found,
            index: Index::new(lengths, notes, header.kind),
            data: if keep { Data::Memory(memory) } else { Data::File(file) },
            header,
        })
    }
}

/// Hash of the first `size` bytes, and the first `keep` of them.
fn hash_of(file: &mut File, size: u64, keep: u64) -> io::Result<(blake3::Hash, Vec<u8>)> {
    let keep = to_usize(keep)?;
    let mut kept = Vec::with_capacity(keep);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut input = file.take(size);
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finalize(), kept)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&buffer[..read]);
        let wanted = read.min(keep - kept.len());
        kept.extend(&buffer[..wanted]);
    }
}

/// Writes an entry, or keeps one in memory.
#[derive(Debug)]
pub(super) struct Writer<W> {
    out: W,
    hasher: blake3::Hasher,
    kind: Kind,
    size: u64,
    lengths: Vec<u32>,
    notes: Vec<u32>,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W, kind: Kind) -> Self {
        Self {
            out,
            hasher: blake3::Hasher::new(),
            kind,
            size: 0,
            lengths: Vec::new(),
            notes: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Sequences so far.
    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Adds a sequence with the facts of its kind; see [`TokenStore`] for what is noted of it.
    pub(super) fn push(&mut self, tokens: &Tokens, note: u32, facts: &[f32]) -> io::Result<()> {
        let length = u32::try_from(tokens.ids.len()).map_err(io::Error::other)?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend(tokens.ids.iter().flat_map(|id| id.to_le_bytes()));
        if self.kind == Kind::Masked {
            match &tokens.targets {
                Some(targets) => buffer.extend(targets.bytes()),
                None => buffer.extend(super::sequence::Mask::all(tokens.ids.len()).bytes()),
            }
        }
        buffer.extend(self.facts(facts));
        let written = self.write(&buffer);
        self.size += buffer.len() as u64;
        self.buffer = buffer;
        self.lengths.push(length);
        self.notes.push(note);
        written
    }

    /// Adds a picture with its facts; see [`TokenStore`] for what is noted of it.
    pub(super) fn push_pixels(
        &mut self,
        pixels: &[u8],
        note: u32,
        facts: &[f32],
    ) -> io::Result<()> {
        let length = u32::try_from(pixels.len()).map_err(io::Error::other)?;
        let facts: Vec<u8> = self.facts(facts).collect();
        self.size += (pixels.len() + facts.len()) as u64;
        self.lengths.push(length);
        self.notes.push(note);
        self.write(pixels)?;
        self.write(&facts)
    }

    /// As many as the kind has.
    fn facts(&self, facts: &[f32]) -> impl Iterator<Item = u8> + use<W> {
        let mut facts: Vec<f32> = facts.to_vec();
        facts.resize(self.kind.facts(), f32::NAN);
        facts.into_iter().flat_map(f32::to_le_bytes)
    }

    /// Writes what follows the sequences. Returns the entry's hash.
    pub(super) fn finish(&mut self, header: &Header) -> io::Result<blake3::Hash> {
        let table = 4 * self.lengths.len() as u64;
        let (lengths, notes) = (std::mem::take(&mut self.lengths), std::mem::take(&mut self.notes));
        for numbers in [&lengths, &notes] {
            for part in numbers.chunks(1 << 16) {
                let bytes: Vec<u8> = part.iter().flat_map(|number| number.to_le_bytes()).collect();
                self.write(&bytes)?;
            }
        }
        (self.lengths, self.notes) = (lengths, notes);
        let header = serde_json::to_vec(header)?;
        self.write(&header)?;
        for size in [self.size, table, header.len() as u64] {
            self.write(&size.to_le_bytes())?;
        }
        let hash = self.hasher.finalize();
        self.out.write_all(hash.as_bytes())?;
        Ok(hash)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }
}

impl Writer<Vec<u8>> {
    /// The entry, without a file.
    pub(super) fn keep(mut self, header: Header) -> io::Result<TokenStore> {
        let hash = self.finish(&header)?;
        self.out.truncate(to_usize(self.size)?);
        let index = Index::new(self.lengths, self.notes, header.kind);
        Ok(TokenStore { header, hash, data: Data::Memory(self.out), index })
    }
}

/// What else than the file's bytes decides on an entry.
pub(super) fn key(file: &blake3::Hash, encoding: &str) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("hearth.dev 2026 token cache");
    hasher.update(&FORMAT.to_le_bytes());
    hasher.update(file.as_bytes());
    hasher.update(encoding.as_bytes());
    hasher.finalize()
}

/// Path of an entry.
pub fn path(directory: &Path, key: &blake3::Hash) -> PathBuf {
    directory.join(format!("tokens-{}.bin", &key.to_hex()[..32]))
}

fn numbers<const N: usize, T>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

fn to_usize(size: u64) -> io::Result<usize> {
    usize::try_from(size).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::super::sequence::{Mask, Targets};
    use super::*;
    use crate::files::write_atomically;

    fn write(path: &Path, kind: Kind, rows: &[(Tokens, u32)]) -> Header {
        let header = Header {
            kind,
            per_sample: 1,
            labels: vec!["b".into(), "a".into()],
            bad: vec![(7, "not UTF-8".into())],
        };
        write_atomically(path, |out| {
            let mut writer = Writer::new(out, kind);
            for (tokens, note) in rows {
                writer.push(tokens, *note, &[])?;
            }
            writer.finish(&header).map(drop)
        })
        .unwrap();
        header
    }

    fn tokens(ids: &[u32], targets: &[usize]) -> Tokens {
        let mut mask = Mask::none(ids.len());
        for position in targets {
            mask.insert(*position);
        }
        Tokens { ids: ids.to_vec(), targets: Some(mask) }
    }

    #[test]
    fn an_entry_reads_back_as_written_from_memory_and_from_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper/tokens");
        // More rows than one stride, of lengths around a byte of mask.
        let rows: Vec<(Tokens, u32)> = (0..200u32)
            .map(|row| {
                let ids: Vec<u32> = (0..row % 19).map(|id| 1000 * row + id).collect();
                let targets: Vec<usize> = (1..ids.len()).filter(|at| at % 3 != 0).collect();
                (tokens(&ids, &targets), u32::try_from(targets.len()).unwrap())
            })
            .collect();
        let header = write(&path, Kind::Masked, &rows);
        for in_memory in [0, IN_MEMORY] {
            let store = TokenStore::open_keeping(&path, in_memory).unwrap();
            assert_eq!((&store.header, store.len()), (&header, rows.len()));
            let mut fetched = Fetched::default();
            for row in [199, 0, 64, 63, 128, 18, 1] {
                fetched.clear();
                store.fetch(row, -1, &mut fetched).unwrap();
                let (want, targets) = &rows[row as usize];
                let got = fetched.sequence(0);
                assert_eq!(got.ids, want.ids, "row {row}");
                assert_eq!(got.targets, Targets::Bits(want.targets.as_ref().unwrap().bytes()));
                assert_eq!(
                    (store.length(row) as usize, store.target_tokens(row)),
                    (want.ids.len(), *targets)
                );
                assert_eq!(got.target_tokens(), *targets as usize);
            }
        }
    }

    #[test]
    fn facts_are_read_behind_what_they_are_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        let facts = |row: u8| [1.0, 2.0, 3.0, 4.0].map(|fact| fact + f32::from(row) / 8.0);
        let header = Header { kind: Kind::Classes, per_sample: 1, labels: vec![], bad: vec![] };
        write_atomically(&path, |out| {
            let mut writer = Writer::new(out, Kind::Classes);
            for row in 0..100_u8 {
                let ids = vec![u32::from(row); usize::from(row % 5)];
                writer.push(&Tokens { ids, targets: None }, 0, &facts(row))?;
            }
            writer.finish(&header).map(drop)
        })
        .unwrap();
        for in_memory in [0, IN_MEMORY] {
            let store = TokenStore::open_keeping(&path, in_memory).unwrap();
            let mut fetched = Fetched::default();
            for row in [99_u8, 0, 63, 64] {
                assert_eq!(store.facts(row.into()).unwrap(), facts(row));
                fetched.clear();
                store.fetch(row.into(), 0, &mut fetched).unwrap();
                let want = vec![u32::from(row); usize::from(row % 5)];
                assert_eq!(fetched.sequence(0).ids, want);
            }
        }
        let mut writer = Writer::new(Vec::new(), Kind::Pixels);
        writer.push_pixels(&[7; 12], 0, &[0.5; 7]).unwrap();
        writer.push_pixels(&[8; 12], 0, &[0.25; 7]).unwrap();
        let store = writer.keep(Header { kind: Kind::Pixels, ..header }).unwrap();
        assert_eq!(store.facts(1).unwrap(), [0.25; 7]);
    }

    #[test]
    fn a_flipped_byte_anywhere_or_a_cut_is_a_miss() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        write(&path, Kind::Masked, &[(tokens(&[1], &[]), 0), (tokens(&[2, 3], &[1]), 1)]);
        let good = std::fs::read(&path).unwrap();
        let put = |bytes: &[u8]| {
            let path = directory.path().join("tokens");
            write_atomically(&path, |out| out.write_all(bytes)).unwrap();
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            put(&bad);
            assert!(TokenStore::open(&path).is_none(), "byte {at}");
        }
        for length in 0..good.len() {
            put(&good[..length]);
            assert!(TokenStore::open(&path).is_none(), "length {length}");
        }
        put(&good);
        assert!(TokenStore::open(&path).is_some());
    }

    #[test]
    fn an_entry_that_is_cut_while_it_is_used_fails_and_does_not_end_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        write(&path, Kind::Classes, &[(Tokens { ids: vec![5; 9], targets: None }, 1)]);
        let store = TokenStore::open_keeping(&path, 0).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(3).unwrap();
        assert!(store.fetch(0, 1, &mut Fetched::default()).is_err());
    }
}
