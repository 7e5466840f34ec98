//! Which rows are equal: to rows before them, and to rows for evaluation.
//!
//! Hashes are sorted in bounded memory; a byte a row says what was found.

use std::io;
use std::path::Path;

use crate::rows::Key;

use super::clean::Cleaned;
use super::fate::{Fate, Fates};
use super::sort::{Sorter, number, row};

/// The cleaned rows of all sources, training rows first.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) train: &'a Cleaned,
    pub(crate) eval: Option<&'a Cleaned>,
    /// Directory for what does not fit into memory.
    pub(crate) scratch: &'a Path,
    /// Bytes of memory for sorting.
    pub(crate) memory: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn parts(
        self,
    ) -> impl Iterator<Item = &'a (super::parts::PartFiles, super::parts::PartReport)> {
        self.train.parts.iter().chain(self.eval.into_iter().flat_map(|eval| &eval.parts))
    }

    /// Steps of comparing: of hashes, and of each band.
    pub(crate) fn steps(self) -> u64 {
        let bands = self.parts().map(|(_, report)| report.bands).max().unwrap_or(0);
        bands as u64 + 1
    }

    /// Every row's number and key.
    pub(crate) fn keys(self) -> impl Iterator<Item = io::Result<(u32, Key)>> {
        let keys = self.parts().flat_map(|(files, _)| {
            let (keys, failed) = match files.keys() {
                Ok(keys) => (Some(keys), None),
                Err(error) => (None, Some(Err(error))),
            };
            failed.into_iter().chain(keys.into_iter().flatten())
        });
        (0u32..).zip(keys).map(|(row, key)| Ok((row, key?)))
    }

    /// What rows are for, before any is dropped.
    pub(super) fn undecided(self) -> Fates {
        let count = |cleaned: &Cleaned| usize::try_from(cleaned.kept()).unwrap_or(usize::MAX);
        let mut rows = vec![Fate::Train; count(self.train)];
        rows.extend(self.eval.iter().flat_map(|eval| vec![Fate::Eval; count(eval)]));
        Fates { rows, ..Fates::default() }
    }

    pub(super) fn sorter<const N: usize>(self) -> io::Result<Sorter<N>> {
        Sorter::new(self.scratch, self.memory)
    }
}

/// Decides on rows that are equal. Of those for evaluation and of those for training the first
/// stays, where `deduplicate` says so; a training row that is for evaluation, too, goes always.
pub(super) fn exact(rows: Rows<'_>, deduplicate: bool, fates: &mut Fates) -> io::Result<()> {
    let mut sorter: Sorter<28> = rows.sorter()?;
    for key in rows.keys() {
        let (row, key) = key?;
        if fates.rows[row as usize].stays() {
            let mut record = [0; 28];
            record[..16].copy_from_slice(&key.content.to_be_bytes());
            record[16..20].copy_from_slice(&row.to_be_bytes());
            record[20..].copy_from_slice(&key.label.to_be_bytes());
            sorter.push(record)?;
        }
    }
    let mut equal: Vec<(u32, u64)> = Vec::new();
    let mut content = [0; 16];
    for record in sorter.sorted()? {
        let record = record?;
        if record[..16] != content {
            decide(&equal, deduplicate, fates);
            equal.clear();
            content.copy_from_slice(&record[..16]);
        }
        equal.push((row(&record[16..20]), number(&record[20..])));
    }
    decide(&equal, deduplicate, fates);
    Ok(())
}

/// Decides on rows that are equal, in their order, with their labels.
fn decide(equal: &[(u32, u64)], deduplicate: bool, fates: &mut Fates) {
    if equal.len() < 2 {
        return;
    }
    let of = |fates: &Fates, fate| {
        let rows = equal.iter().filter(|(row, _)| fates.rows[*row as usize] == fate);
        rows.copied().collect::<Vec<_>>()
    };
    let (train, eval) = (of(fates, Fate::Train), of(fates, Fate::Eval));
    for side in [&train, &eval] {
        if let Some(((_, first), others)) = side.split_first() {
            let conflicting = others.iter().filter(|(_, label)| label != first).count();
            fates.told.conflicting_labels += conflicting as u64;
        }
    }
    if deduplicate {
        for (row, _) in train.iter().skip(1).chain(eval.iter().skip(1)) {
            fates.rows[*row as usize] = Fate::Duplicate;
        }
    }
    if !eval.is_empty() {
        for (row, _) in &train {
            fates.rows[*row as usize] = Fate::AlsoInEval;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_rows_stays_and_evaluation_goes_before_training() {
        use Fate::{AlsoInEval, Duplicate, Eval, Train};
        for (name, before, deduplicate, want) in [
            ("first stays", vec![Train, Train, Train], true, vec![Train, Duplicate, Duplicate]),
            ("all stay", vec![Train, Train, Train], false, vec![Train, Train, Train]),
            ("eval stays", vec![Train, Train, Eval], true, vec![AlsoInEval, AlsoInEval, Eval]),
            ("also without", vec![Train, Eval, Eval], false, vec![AlsoInEval, Eval, Eval]),
            ("first of eval", vec![Eval, Eval, Eval], true, vec![Eval, Duplicate, Duplicate]),
        ] {
            let mut fates = Fates { rows: before, ..Fates::default() };
            decide(&[(0, 7), (1, 7), (2, 8)], deduplicate, &mut fates);
            assert_eq!(fates.rows, want, "{name}");
        }
        let mut fates = Fates { rows: vec![Train; 3], ..Fates::default() };
        decide(&[(0, 7), (1, 7), (2, 8)], true, &mut fates);
        assert_eq!(fates.told.conflicting_labels, 1);
    }
}
