//! The order in which samples are seen, and which rank takes which.
//!
//! In: seed, counts, lengths. Out: row numbers. No I/O and no global state.
//!
//! Invariants:
//! 1. The rows of the samples `[offset, offset + n)` of an epoch depend on the
//!    seed, the epoch and the number of rows alone: not on the world size. So
//!    a run that changes its world size goes on with the rows not yet seen.
//! 2. [`micro_batches`] over all ranks is a partition of the global batch. The
//!    loss is a mean over the global batch, so how rows are dealt to ranks and
//!    forward passes changes rounding only.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

/// How far the data has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cursor {
    /// Passes over the data done.
    pub epoch: u64,
    /// Samples of the present pass already taken.
    pub offset: u64,
}

/// A generator for one purpose: streams of different purposes never mix.
pub fn generator(seed: i64, purpose: &str, index: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("hearth.dev 2026 random streams");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    hasher.update(purpose.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Shuffles in place (Fisher and Yates; Durstenfeld 1964).
pub fn shuffle<T>(items: &mut [T], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        // A modulus of 2^64 over at most 2^32 rows is biased by under 2^-32.
        let pick = random.next_u64() % (last as u64 + 1);
        items.swap(last, usize::try_from(pick).unwrap_or(last));
    }
}

/// Row numbers of an epoch in the order in which they are seen.
pub fn permutation(seed: i64, epoch: u64, rows: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows).collect();
    shuffle(&mut order, &mut generator(seed, "epoch", epoch));
    order
}

/// Samples of an epoch in their order, with such of like length near one another, so that little
/// is filled up.
///
/// As transformers' `LengthGroupedSampler`: a permutation is cut into groups of 50 batches (fewer
/// where the data would not give four groups), each sorted by length, longest first; the longest
/// sample of all comes first, so that memory runs out at once or not at all. `batch` is the
/// samples of a batch; to keep the order where the number of ranks changes, take one that does
/// not depend on it.
pub fn grouped_by_length(
    seed: i64,
    epoch: u64,
    rows: u32,
    batch: usize,
    length: impl Fn(u32) -> usize,
) -> Vec<u32> {
    let mut order = permutation(seed, epoch, rows);
    let batch = batch.max(1);
    let batches = (order.len() / (4 * batch)).clamp(1, 50);
    // Stable: rows of one length stay in their random order.
    for group in order.chunks_mut(batches * batch) {
        group.sort_by_key(|row| std::cmp::Reverse(length(*row)));
    }
    let firsts = (0..order.len()).step_by(batches * batch);
    let longest = firsts.rev().max_by_key(|first| length(order[*first]));
    if let Some(longest) = longest {
        order.swap(0, longest);
    }
    order
}

/// Splits samples into training and evaluation samples by their document: of all documents
/// `share`, rounded, but at least one, and never all. `documents` ascend. Both keep the order.
pub fn split_documents(documents: &[u32], share: f64, seed: i64) -> (Vec<u32>, Vec<u32>) {
    let mut distinct = documents.to_vec();
    distinct.dedup();
    let classes = vec![0; distinct.len()];
    let (_, held_out) = stratified_split(&classes, share, seed);
    let held_out: std::collections::HashSet<u32> =
        held_out.into_iter().map(|index| distinct[index as usize]).collect();
    (0u32..).zip(documents).map(|(sample, document)| (sample, held_out.contains(document))).fold(
        (Vec::new(), Vec::new()),
        |(mut train, mut eval), (sample, held)| {
            if held { &mut eval } else { &mut train }.push(sample);
            (train, eval)
        },
    )
}

/// Splits row numbers into training and evaluation rows: of each class
/// `share`, rounded, but at least one where the class has two rows. Both keep
/// the file's order.
pub fn stratified_split(classes: &[i64], share: f64, seed: i64) -> (Vec<u32>, Vec<u32>) {
    let count = usize::try_from(classes.iter().max().map_or(0, |max| max + 1)).unwrap_or(0);
    let mut by_class: Vec<Vec<u32>> = vec![Vec::new(); count];
    for (row, class) in (0u32..).zip(classes) {
        if let Some(rows) = usize::try_from(*class).ok().and_then(|class| by_class.get_mut(class)) {
            rows.push(row);
        }
    }
    let mut held_out = vec![false; classes.len()];
    for (class, rows) in (0u64..).zip(&mut by_class) {
        shuffle(rows, &mut generator(seed, "evalSplit", class));
        let wanted = share_of(rows.len(), share);
        for row in rows.iter().take(wanted) {
            held_out[*row as usize] = true;
        }
    }
    (0u32..).zip(&held_out).map(|(row, held)| (row, *held)).fold(
        (Vec::new(), Vec::new()),
        |(mut train, mut eval), (row, held)| {
            if held {
                eval.push(row);
            } else {
                train.push(row);
            }
            (train, eval)
        },
    )
}

fn share_of(rows: usize, share: f64) -> usize {
    if rows < 2 {
        return 0;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= share < 1, so the product is below `rows`"
    )]
    let wanted = (rows as f64 * share).round() as usize;
    wanted.clamp(1, rows - 1)
}

/// Whose micro-batches, and how large.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rank that asks.
    pub rank: usize,
    /// Ranks.
    pub world_size: usize,
    /// Samples in one forward pass.
    pub per_device: usize,
}

/// This rank's share of a global batch, in forward passes of like length.
///
/// The batch is sorted by length, longest first, and dealt row by row: in
/// pass `m`, rank `r` takes every `world_size`-th row of the `m`-th group of
/// `world_size * per_device` rows. Ranks so get passes of equal size and
/// length, and little padding. A rank's last pass may be empty where the batch
/// is short.
pub fn micro_batches(
    global_batch: &[u32],
    length: impl Fn(u32) -> usize,
    shape: Shape,
) -> Vec<Vec<u32>> {
    let mut sorted = global_batch.to_vec();
    sorted.sort_by_key(|row| (std::cmp::Reverse(length(*row)), *row));
    sorted
        .chunks(shape.world_size * shape.per_device)
        .map(|group| group.iter().skip(shape.rank).step_by(shape.world_size).copied().collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_holds_every_row_once_and_depends_on_seed_and_epoch() {
        let first = permutation(7, 0, 1000);
        let mut sorted = first.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(first, permutation(7, 0, 1000));
        assert_ne!(first, permutation(7, 1, 1000));
        assert_ne!(first, permutation(8, 0, 1000));
    }

    #[test]
    fn the_order_is_the_same_on_every_machine_and_in_every_release() {
        assert_eq!(permutation(42, 3, 8), [4, 6, 1, 2, 7, 0, 3, 5]);
    }

    #[test]
    fn samples_of_like_length_come_together_and_the_longest_first() {
        let length = |row: u32| (row * 7919 % 500) as usize;
        let order = grouped_by_length(3, 1, 1000, 8, length);
        assert_eq!(length(order[0]), 499);
        let spread = |order: &[u32]| -> usize {
            let of_batch = |batch: &[u32]| {
                let lengths = || batch.iter().map(|row| length(*row));
                lengths().max().unwrap() - lengths().min().unwrap()
            };
            order.chunks(8).map(of_batch).sum()
        };
        assert!(20 * spread(&order) < spread(&permutation(3, 1, 1000)));
        assert_eq!(order, grouped_by_length(3, 1, 1000, 8, length));
        assert_ne!(order, grouped_by_length(3, 2, 1000, 8, length));
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<_>>());
        assert_eq!(grouped_by_length(3, 1, 0, 8, length), [0u32; 0]);
    }

    #[test]
    fn parts_of_a_document_are_never_split_between_training_and_evaluation() {
        let documents: Vec<u32> =
            (0..40).flat_map(|document| vec![document; 1 + document as usize % 3]).collect();
        let (train, eval) = split_documents(&documents, 0.25, 9);
        let of = |samples: &[u32]| -> std::collections::BTreeSet<u32> {
            samples.iter().map(|sample| documents[*sample as usize]).collect()
        };
        assert_eq!((of(&train).len(), of(&eval).len()), (30, 10));
        assert!(of(&train).is_disjoint(&of(&eval)));
        assert_eq!(train.len() + eval.len(), documents.len());
    }

    #[test]
    fn the_split_is_stratified_complete_and_repeatable() {
        let classes: Vec<i64> = (0..100).map(|row| i64::from(row % 10 == 0)).collect();
        let (train, eval) = stratified_split(&classes, 0.2, 1);
        let of_class = |rows: &[u32], class| {
            rows.iter().filter(|row| classes[**row as usize] == class).count()
        };
        assert_eq!((of_class(&eval, 0), of_class(&eval, 1)), (18, 2));
        let mut all = [train.clone(), eval.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        assert_eq!(stratified_split(&classes, 0.2, 1), (train, eval));
    }

    #[test]
    fn a_class_of_one_row_is_never_held_out_and_one_of_two_always_half() {
        let (train, eval) = stratified_split(&[0, 1, 1], 0.01, 5);
        assert_eq!((train.len(), eval.len()), (2, 1));
        assert!(train.contains(&0));
    }

    #[test]
    fn ranks_partition_the_global_batch_whatever_their_number() {
        let batch: Vec<u32> = (100..137).collect();
        let length = |row: u32| (row % 11) as usize;
        for world_size in [1, 2, 3, 4] {
            let mut seen: Vec<u32> = (0..world_size)
                .flat_map(|rank| {
                    micro_batches(&batch, length, Shape { rank, world_size, per_device: 4 })
                })
                .inspect(|pass| assert!(pass.len() <= 4))
                .flatten()
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, batch, "world size {world_size}");
        }
    }

    #[test]
    fn every_rank_makes_the_same_number_of_passes() {
        let passes = |rank| {
            micro_batches(&[1, 2, 3, 4, 5], |_| 1, Shape { rank, world_size: 2, per_device: 2 })
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>()
        };
        assert_eq!((passes(0), passes(1)), (vec![2, 1], vec![2, 0]));
    }
}
