//! Which rows are for evaluation.
//!
//! Rows are drawn by a hash over the seed and what they hold (or their group), so that the same
//! rows are drawn whatever the number of threads, and equal rows are drawn together.

use std::collections::HashMap;
use std::io;

use crate::rows::Key;

use super::compare::Rows;
use super::fate::{Fate, Fates};
use super::sort::{Sorter, number, pair, row};

/// How rows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The same share of each label.
    Label,
    /// Whole groups.
    Group,
    /// The latest.
    Time,
}

/// Draws `share` of the rows that are left for evaluation. False: rows cannot be divided so.
pub(super) fn split(
    rows: Rows<'_>,
    by: By,
    share: f64,
    seed: i64,
    fates: &mut Fates,
) -> io::Result<bool> {
    match by {
        By::Label => by_label(rows, share, seed, fates)?,
        By::Group => by_group(rows, share, seed, fates)?,
        By::Time => by_time(rows, share, fates)?,
    }
    Ok(fates.rows.contains(&Fate::Eval) && fates.rows.contains(&Fate::Train))
}

fn left(rows: Rows<'_>, fates: &Fates) -> impl Iterator<Item = io::Result<(u32, Key)>> {
    rows.keys().filter(|key| {
        key.as_ref().map_or(true, |(row, _)| fates.rows[*row as usize] == Fate::Train)
    })
}

/// Of each label `share`, rounded; of two rows or more at least one, and never all.
fn by_label(rows: Rows<'_>, share: f64, seed: i64, fates: &mut Fates) -> io::Result<()> {
    let mut counts: HashMap<u64, u64> = HashMap::new();
    let mut sorter: Sorter<20> = rows.sorter()?;
    for key in left(rows, fates) {
        let (row, key) = key?;
        *counts.entry(key.label).or_default() += 1;
        let mut record = [0; 20];
        record[..8].copy_from_slice(&key.label.to_be_bytes());
        record[8..].copy_from_slice(&pair(draw(seed, &key.content.to_be_bytes()), row));
        sorter.push(record)?;
    }
    let (mut label, mut wanted) = (None, 0);
    for record in sorter.sorted()? {
        let record = record?;
        let of = number(&record[..8]);
        if label != Some(of) {
            label = Some(of);
            wanted = share_of(counts.get(&of).copied().unwrap_or(0), share);
        }
        if wanted > 0 {
            wanted -= 1;
            fates.rows[row(&record) as usize] = Fate::Eval;
        }
    }
    Ok(())
}

/// Groups in the order of their draws, each where it still fits; the smallest where none does.
fn by_group(rows: Rows<'_>, share: f64, seed: i64, fates: &mut Fates) -> io::Result<()> {
    let sorted = |fates: &Fates| {
        let mut sorter: Sorter<12> = rows.sorter()?;
        for key in left(rows, fates) {
            let (row, key) = key?;
            sorter.push(pair(draw(seed, &key.split.to_be_bytes()), row))?;
        }
        sorter.sorted()
    };
    // Sizes of groups, in the order of their draws.
    let (mut sizes, mut group) = (Vec::<u32>::new(), None);
    for record in sorted(fates)? {
        let of = number(&record?[..8]);
        if group.replace(of) != Some(of) {
            sizes.push(0);
        }
        if let Some(size) = sizes.last_mut() {
            *size += 1;
        }
    }
    let chosen = choose(&sizes, share);
    let (mut index, mut group) = (0, None);
    for record in sorted(fates)? {
        let record = record?;
        let of = number(&record[..8]);
        if group.replace(of).is_some_and(|before| before != of) {
            index += 1;
        }
        if chosen[index] {
            fates.rows[row(&record) as usize] = Fate::Eval;
        }
    }
    Ok(())
}

fn choose(sizes: &[u32], share: f64) -> Vec<bool> {
    let total = sizes.iter().map(|size| u64::from(*size)).sum();
    let mut left = share_of(total, share);
    let mut chosen = vec![false; sizes.len()];
    for (chosen, size) in chosen.iter_mut().zip(sizes) {
        if u64::from(*size) <= left {
            left -= u64::from(*size);
            *chosen = true;
        }
    }
    if sizes.len() > 1
        && !chosen.contains(&true)
        && let Some((smallest, _)) = sizes.iter().enumerate().min_by_key(|(_, size)| **size)
    {
        chosen[smallest] = true;
    }
    chosen
}

/// The latest; of rows of one time those that come later in the source.
fn by_time(rows: Rows<'_>, share: f64, fates: &mut Fates) -> io::Result<()> {
    let mut sorter: Sorter<12> = rows.sorter()?;
    let mut count = 0;
    for key in left(rows, fates) {
        let (row, key) = key?;
        sorter.push(pair(key.split, row))?;
        count += 1;
    }
    let earlier = count - share_of(count, share);
    for (place, record) in (0..).zip(sorter.sorted()?) {
        if place >= earlier {
            fates.rows[row(&record?) as usize] = Fate::Eval;
        }
    }
    Ok(())
}

fn draw(seed: i64, of: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("hearth.dev 2026 evalSplit");
    hasher.update(&seed.to_le_bytes()).update(of);
    number(&hasher.finalize().as_bytes()[..8])
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 <= share < 1, so the product is below `rows`"
)]
fn share_of(rows: u64, share: f64) -> u64 {
    if rows < 2 {
        return 0;
    }
    ((rows as f64 * share).round() as u64).clamp(1, rows - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_rounded_and_is_neither_nothing_nor_all() {
        for (rows, share, want) in
            [(0, 0.5, 0), (1, 0.5, 0), (2, 0.01, 1), (2, 0.9, 1), (10, 0.25, 3), (100, 0.1, 10)]
        {
            assert_eq!(share_of(rows, share), want, "{rows} {share}");
        }
    }

    #[test]
    fn groups_are_chosen_while_they_fit() {
        for (sizes, share, want) in [
            (vec![5, 3, 2, 90], 0.1, vec![true, true, true, false]),
            (vec![90, 5, 6], 0.1, vec![false, true, false]),
            (vec![50, 40], 0.1, vec![false, true]),
            (vec![50], 0.1, vec![false]),
        ] {
            assert_eq!(choose(&sizes, share), want, "{sizes:?}");
        }
    }
}
