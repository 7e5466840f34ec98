//! Sorts more records than fit into memory: sorted runs go to files, which are merged.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Sorts records of `N` bytes, the first byte before the second: whole numbers in them are
/// big-endian.
pub(super) struct Sorter<const N: usize> {
    directory: PathBuf,
    most: usize,
    records: Vec<[u8; N]>,
    runs: Vec<PathBuf>,
}

impl<const N: usize> Sorter<N> {
    /// Sorts in `memory` bytes and, beyond them, in `directory`, whose content goes.
    pub(super) fn new(directory: &Path, memory: usize) -> io::Result<Self> {
        crate::files::remove_directory(directory)?;
        fs::create_dir_all(directory)?;
        let most = (memory / N).max(1);
        Ok(Self { directory: directory.to_owned(), most, records: Vec::new(), runs: Vec::new() })
    }

    pub(super) fn push(&mut self, record: [u8; N]) -> io::Result<()> {
        if self.records.len() == self.most {
            self.spill()?;
        }
        self.records.push(record);
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        self.records.sort_unstable();
        let path = self.directory.join(format!("run-{}", self.runs.len()));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        self.records.iter().try_for_each(|record| out.write_all(record))?;
        out.flush()?;
        self.records.clear();
        self.runs.push(path);
        Ok(())
    }

    /// All records in their order.
    pub(super) fn sorted(mut self) -> io::Result<Sorted<N>> {
        if self.runs.is_empty() {
            self.records.sort_unstable();
            return Ok(Sorted::Memory(self.records.into_iter()));
        }
        self.spill()?;
        let mut runs = Vec::new();
        let mut next = BinaryHeap::new();
        for (index, path) in self.runs.iter().enumerate() {
            let mut run = Run(BufReader::with_capacity(256 << 10, File::open(path)?));
            if let Some(record) = run.next()? {
                next.push(Reverse((record, index)));
            }
            runs.push(run);
        }
        Ok(Sorted::Merged { runs, next })
    }
}

/// Sorted records.
pub(super) enum Sorted<const N: usize> {
    Memory(std::vec::IntoIter<[u8; N]>),
    Merged { runs: Vec<Run<N>>, next: BinaryHeap<Reverse<([u8; N], usize)>> },
}

impl<const N: usize> Iterator for Sorted<N> {
    type Item = io::Result<[u8; N]>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Memory(records) => records.next().map(Ok),
            Self::Merged { runs, next } => {
                let Reverse((record, index)) = next.pop()?;
                match runs[index].next() {
                    Ok(Some(following)) => next.push(Reverse((following, index))),
                    Ok(None) => {}
                    Err(error) => return Some(Err(error)),
                }
                Some(Ok(record))
            }
        }
    }
}

/// A run in its file.
pub(super) struct Run<const N: usize>(BufReader<File>);

impl<const N: usize> Run<N> {
    fn next(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut record = [0; N];
        match self.0.read_exact(&mut record) {
            Ok(()) => Ok(Some(record)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A record of two big-endian numbers.
pub(super) fn pair(first: u64, row: u32) -> [u8; 12] {
    let mut record = [0; 12];
    record[..8].copy_from_slice(&first.to_be_bytes());
    record[8..].copy_from_slice(&row.to_be_bytes());
    record
}

/// The big-endian number in `bytes`.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The row's number in the last four of `bytes`.
pub(super) fn row(bytes: &[u8]) -> u32 {
    u32::try_from(number(&bytes[bytes.len() - 4..])).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_records_come_in_order(
            numbers in proptest::collection::vec(any::<(u64, u32)>(), 0..200),
            memory in 1..2000usize,
        ) {
            let directory = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(directory.path(), memory).unwrap();
            for (first, row) in &numbers {
                sorter.push(pair(*first, *row)).unwrap();
            }
            let sorted: Vec<_> = sorter
                .sorted()
                .unwrap()
                .map(|record| record.map(|record| (number(&record[..8]), row(&record))).unwrap())
                .collect();
            let mut want = numbers;
            want.sort_unstable();
            prop_assert_eq!(sorted, want);
        }
    }
}
