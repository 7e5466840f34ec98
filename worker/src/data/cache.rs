//! Token ids on disk, keyed by the content of what they were made from, so
//! that ranks, restarts and reruns tokenize a file once.
//!
//! A cache entry is never trusted further than its own hash: anything wrong
//! with it is a miss. Layout, little-endian: 32 bytes BLAKE3 of the rest, `u64`
//! length of the header, header (JSON), `u64` offsets, `u32` classes, `u32` ids.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hearth_crds::worker_config::DataFile;
use serde::{Deserialize, Serialize};

use super::source::BadRow;
use super::tokenize::TextEncoder;
use crate::files::write_atomically;

/// Changes when the layout or the meaning of an entry does.
const FORMAT: u32 = 1;

/// A tokenized file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedFile {
    /// Distinct labels, in order of first appearance.
    pub labels: Vec<String>,
    /// Of each row, the index of its label in `labels`.
    pub classes: Vec<u32>,
    /// Token ids of all rows, one after another.
    pub ids: Vec<u32>,
    /// Where each row starts in `ids`, and where the last ends.
    pub offsets: Vec<u64>,
    /// Malformed rows that were skipped.
    pub bad: Vec<BadRow>,
}

impl EncodedFile {
    /// Rows.
    pub fn len(&self) -> usize {
        self.classes.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// Token ids of a row.
    pub fn row(&self, row: u32) -> &[u32] {
        let row = row as usize;
        let at = |index: usize| usize::try_from(self.offsets[index]).unwrap_or(usize::MAX);
        &self.ids[at(row)..at(row + 1)]
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    labels: Vec<String>,
    rows: usize,
    ids: usize,
    bad: Vec<(u64, String)>,
}

/// Name of the entry for `file`, given its bytes and what encodes it.
pub fn key(file: &DataFile, bytes: &[u8], encoder: &TextEncoder) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("hearth.dev 2026 token cache");
    hasher.update(&FORMAT.to_le_bytes());
    hasher.update(blake3::hash(bytes).as_bytes());
    hasher.update(encoder.fingerprint.as_bytes());
    let how = (&file.text, &file.label, &encoder.clean, encoder.max_length);
    hasher.update(format!("{how:?}").as_bytes());
    hasher.finalize()
}

/// Path of an entry.
pub fn path(directory: &Path, key: &blake3::Hash) -> PathBuf {
    directory.join(format!("tokens-{}.bin", &key.to_hex()[..32]))
}

/// Writes an entry.
pub fn write(path: &Path, file: &EncodedFile) -> io::Result<()> {
    let header = serde_json::to_vec(&Header {
        labels: file.labels.clone(),
        rows: file.len(),
        ids: file.ids.len(),
        bad: file.bad.iter().map(|row| (row.line, row.reason.clone())).collect(),
    })?;
    let mut body = Vec::with_capacity(header.len() + 12 * file.len() + 4 * file.ids.len() + 64);
    body.extend((header.len() as u64).to_le_bytes());
    body.extend(&header);
    file.offsets.iter().for_each(|value| body.extend(value.to_le_bytes()));
    file.classes.iter().for_each(|value| body.extend(value.to_le_bytes()));
    file.ids.iter().for_each(|value| body.extend(value.to_le_bytes()));
    write_atomically(path, |out| {
        out.write_all(blake3::hash(&body).as_bytes())?;
        out.write_all(&body)
    })
}

/// Reads an entry; `None` where there is none to rely on.
pub fn read(path: &Path) -> Option<EncodedFile> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, body) = bytes.split_first_chunk::<32>()?;
    if blake3::hash(body) != *hash {
        return None;
    }
    let (length, body) = body.split_first_chunk::<8>()?;
    let (header, body) =
        body.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let (offsets, body) = body.split_at_checked(8 * (header.rows + 1))?;
    let (classes, ids) = body.split_at_checked(4 * header.rows)?;
    if ids.len() != 4 * header.ids {
        return None;
    }
    Some(EncodedFile {
        labels: header.labels,
        classes: numbers(classes, u32::from_le_bytes),
        ids: numbers(ids, u32::from_le_bytes),
        offsets: numbers(offsets, u64::from_le_bytes),
        bad: header.bad.into_iter().map(|(line, reason)| BadRow { line, reason }).collect(),
    })
}

fn numbers<const N: usize, T>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> EncodedFile {
        EncodedFile {
            labels: vec!["b".into(), "a".into()],
            classes: vec![0, 1],
            ids: vec![1, 2, 3],
            offsets: vec![0, 1, 3],
            bad: vec![BadRow { line: 7, reason: "not UTF-8".into() }],
        }
    }

    #[test]
    fn an_entry_reads_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deeper/tokens");
        write(&path, &example()).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back, example());
        assert_eq!((back.row(0), back.row(1)), (&[1][..], &[2, 3][..]));
    }

    #[test]
    fn a_flipped_byte_anywhere_or_a_cut_is_a_miss() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        write(&path, &example()).unwrap();
        let good = std::fs::read(&path).unwrap();
        let put = |bytes: &[u8]| {
            let path = directory.path().join("tokens");
            write_atomically(&path, |out| out.write_all(bytes)).unwrap();
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            put(&bad);
            assert_eq!(read(&path), None, "byte {at}");
        }
        for length in 0..good.len() {
            put(&good[..length]);
            assert_eq!(read(&path), None, "length {length}");
        }
    }
}
