//! Which rows say nearly the same.
//!
//! Band after band, keys are sorted; rows that share one are compared by their signatures, and
//! those that are alike joined. What has been joined is written down after each band.
//!
//! Invariant: rows are joined in an order that follows from the keys alone. In a bucket each row
//! is compared with at most [`COMPARED`] before it that are not alike: a bucket of n rows takes
//! n steps, not n².

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::files::write_whole;
use crate::text::similar::MinHash;

use super::compare::Rows;
use super::fate::{Fate, Fates};
use super::parts::PartFiles;
use super::sort::{Sorter, number, pair, row};

/// Rows of a bucket, no two of them alike, with which each is compared.
const COMPARED: usize = 16;
/// Files of signatures that are open at a time.
const OPEN: usize = 64;

/// Decides on rows that say nearly the same; `tell` learns when a band is done.
pub(super) fn near(
    rows: Rows<'_>,
    similar: &MinHash,
    fates: &mut Fates,
    tell: &mut dyn FnMut(),
) -> io::Result<()> {
    let bands = rows.parts().map(|(_, report)| report.bands).max().unwrap_or(0);
    let mut joined = Joined::resume(&rows.scratch.with_extension("joined"), fates.rows.len())?;
    let mut signatures = Signatures::new(rows, similar.len());
    for band in joined.band..bands {
        let mut sorter: Sorter<12> = rows.sorter()?;
        let mut first = 0;
        for (files, report) in rows.parts() {
            let count = report.kept();
            if count > 0 {
                let keys = files.band(band, report)?;
                for (row, key) in (first..).zip(keys) {
                    if fates.rows[row as usize].stays() {
                        sorter.push(pair(key, row))?;
                    }
                }
                first += u32::try_from(count).map_err(io::Error::other)?;
            }
        }
        let mut bucket = Bucket::default();
        for record in sorter.sorted()? {
            let record = record?;
            bucket.add(record, similar, &mut signatures, &mut joined)?;
        }
        joined.band = band + 1;
        joined.write()?;
        tell();
    }
    joined.decide(fates);
    Ok(())
}

/// Rows that share a band's key.
#[derive(Default)]
struct Bucket {
    key: Option<u64>,
    /// Those that are not alike, with their signatures once they are needed.
    rows: Vec<(u32, Option<Vec<u32>>)>,
}

impl Bucket {
    fn add(
        &mut self,
        record: [u8; 12],
        similar: &MinHash,
        signatures: &mut Signatures,
        joined: &mut Joined,
    ) -> io::Result<()> {
        let (key, row) = (number(&record[..8]), row(&record));
        if self.key != Some(key) {
            self.key = Some(key);
            self.rows.clear();
        }
        if self.rows.is_empty() {
            self.rows.push((row, None));
            return Ok(());
        }
        let own = signatures.of(row)?;
        for (other, signature) in &mut self.rows {
            let known = match signature {
                Some(known) => known,
                None => signature.insert(signatures.of(*other)?),
            };
            if similar.alike(known, &own) {
                joined.join(*other, row);
                return Ok(());
            }
        }
        if self.rows.len() < COMPARED {
            self.rows.push((row, Some(own)));
        }
        Ok(())
    }
}

/// Signatures on the disk.
struct Signatures {
    /// Each part with the number of its first row.
    parts: Vec<(u32, PartFiles)>,
    open: VecDeque<(usize, File)>,
    len: usize,
}

impl Signatures {
    fn new(rows: Rows<'_>, len: usize) -> Self {
        let mut first = 0;
        let mut parts = Vec::new();
        for (files, report) in rows.parts() {
            parts.push((first, files.clone()));
            first += u32::try_from(report.kept()).unwrap_or(u32::MAX);
        }
        Self { parts, open: VecDeque::new(), len }
    }

    fn of(&mut self, row: u32) -> io::Result<Vec<u32>> {
        // Parts without rows begin where the next does: the last of them has it.
        let part = self.parts.partition_point(|(first, _)| *first <= row).saturating_sub(1);
        let (first, files) = &self.parts[part];
        let known = self.open.iter().position(|(of, _)| *of == part);
        let place = if let Some(place) = known {
            place
        } else {
            if self.open.len() == OPEN {
                self.open.pop_front();
            }
            self.open.push_back((part, files.signatures()?));
            self.open.len() - 1
        };
        let mut bytes = vec![0; self.len * 4];
        let offset = u64::from(row - first) * bytes.len() as u64;
        self.open[place].1.read_exact_at(&mut bytes, offset)?;
        let value =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        Ok(bytes.chunks_exact(4).map(value).collect())
    }
}

/// Sets of rows (Tarjan 1975), each known by its first.
struct Joined {
    path: PathBuf,
    /// The band that comes next.
    band: usize,
    parents: Vec<u32>,
}

impl Joined {
    fn resume(path: &Path, rows: usize) -> io::Result<Self> {
        let number = |bytes: &[u8]| u32::try_from(super::sort::number(bytes)).unwrap_or(u32::MAX);
        let parents = 0..u32::try_from(rows).map_err(io::Error::other)?;
        let new = Self { path: path.to_owned(), band: 0, parents: parents.collect() };
        let Ok(bytes) = fs::read(path) else { return Ok(new) };
        let numbers: Vec<u32> = bytes.chunks_exact(4).map(number).collect();
        match numbers.split_first() {
            Some((band, parents)) if parents.len() == rows => {
                Ok(Self { band: *band as usize, parents: parents.to_vec(), ..new })
            }
            _ => Ok(new),
        }
    }

    fn write(&self) -> io::Result<()> {
        write_whole(&self.path, |out| {
            let band = u32::try_from(self.band).map_err(io::Error::other)?;
            out.write_all(&band.to_be_bytes())?;
            self.parents.iter().try_for_each(|parent| out.write_all(&parent.to_be_bytes()))
        })
    }

    fn first(&mut self, row: u32) -> u32 {
        let mut at = row;
        while self.parents[at as usize] != at {
            let above = self.parents[self.parents[at as usize] as usize];
            self.parents[at as usize] = above;
            at = above;
        }
        at
    }

    fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.first(one), self.first(other));
        self.parents[one.max(other) as usize] = one.min(other);
    }

    /// Of each set the first row stays; of one with rows for evaluation no training row does.
    fn decide(&mut self, fates: &mut Fates) {
        // The first row for evaluation of each set, where there is one, by the set's first row.
        let mut eval = vec![u32::MAX; self.parents.len()];
        let rows = 0..u32::try_from(self.parents.len()).unwrap_or(u32::MAX);
        for row in rows.clone().filter(|row| fates.rows[*row as usize] == Fate::Eval) {
            let first = self.first(row) as usize;
            eval[first] = eval[first].min(row);
        }
        for row in rows {
            let first = self.first(row);
            let held = eval[first as usize];
            let fate = &mut fates.rows[row as usize];
            match *fate {
                Fate::Train if held != u32::MAX => *fate = Fate::AlsoInEval,
                Fate::Train if first != row => *fate = Fate::NearDuplicate,
                Fate::Eval if held != row => *fate = Fate::NearDuplicate,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_set_stays_and_evaluation_goes_before_training() {
        use Fate::{AlsoInEval, Eval, NearDuplicate, Train};
        for (name, pairs, before, want) in [
            (
                "a chain",
                vec![(1, 2), (0, 1)],
                vec![Train, Train, Train, Train],
                vec![Train, NearDuplicate, NearDuplicate, Train],
            ),
            (
                "with eval",
                vec![(0, 2), (2, 3)],
                vec![Train, Train, Eval, Eval],
                vec![AlsoInEval, Train, Eval, NearDuplicate],
            ),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let mut joined = Joined::resume(&directory.path().join("j"), 4).unwrap();
            for (one, other) in pairs {
                joined.join(one, other);
            }
            joined.band = 3;
            joined.write().unwrap();
            let mut joined = Joined::resume(&directory.path().join("j"), 4).unwrap();
            assert_eq!(joined.band, 3);
            let mut fates = Fates { rows: before, ..Fates::default() };
            joined.decide(&mut fates);
            assert_eq!(fates.rows, want, "{name}");
        }
    }
}
