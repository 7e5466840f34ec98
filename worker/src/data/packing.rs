//! Samples of an epoch put together into sequences of bounded length.
//!
//! In: samples in an order, and their lengths. Out: which samples share a sequence. No I/O and no global state.
//!
//! Invariant: packs depend on the order and the lengths alone, not on the world size; so
//! a cursor that counts packs is exact. How many packs an epoch has differs from epoch to epoch.

/// Packs that are filled at a time. More leave less room unused and move samples further from
/// their place in the epoch.
pub const WINDOW: usize = 128;

/// The packs of an epoch, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packs {
    samples: Vec<u32>,
    /// Where each pack ends in `samples`.
    ends: Vec<usize>,
}

impl Packs {
    /// Packs.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no pack.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Samples of a pack, in the order in which they were drawn.
    pub fn pack(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.samples[start..self.ends[index]]
    }

    /// All packs, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        (0..self.len()).map(|index| self.pack(index))
    }

    fn push(&mut self, pack: Vec<u32>) {
        self.samples.extend(pack);
        self.ends.push(self.samples.len());
    }
}

/// Puts each of `order` into the oldest open pack with room for it (first fit; Johnson 1974); of
/// more than [`WINDOW`] open packs the oldest is closed. A sample longer than `max_length` is a
/// pack of its own.
pub fn first_fit(order: &[u32], max_length: usize, length: impl Fn(u32) -> usize) -> Packs {
    let mut packs = Packs::default();
    let mut open: std::collections::VecDeque<(usize, Vec<u32>)> = std::collections::VecDeque::new();
    for sample in order {
        let tokens = length(*sample);
        let place = open.iter_mut().find(|(used, _)| used.saturating_add(tokens) <= max_length);
        if let Some((used, pack)) = place {
            *used += tokens;
            pack.push(*sample);
            continue;
        }
        open.push_back((tokens, vec![*sample]));
        if open.len() > WINDOW
            && let Some((_, oldest)) = open.pop_front()
        {
            packs.push(oldest);
        }
    }
    for (_, pack) in open {
        packs.push(pack);
    }
    packs
}

#[cfg(test)]
mod tests {
    use super::super::order::permutation;
    use super::*;

    fn length(sample: u32) -> usize {
        20 + (sample as usize * 7919) % 300
    }

    fn packed_epoch(seed: i64, epoch: u64) -> Packs {
        first_fit(&permutation(seed, epoch, 500), 512, length)
    }

    #[test]
    fn packs_hold_every_sample_once_within_bounds() {
        let packs = first_fit(&permutation(7, 2, 5000), 512, length);
        let mut all: Vec<u32> = packs.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..5000).collect::<Vec<_>>());
        let tokens = |pack: &[u32]| pack.iter().map(|sample| length(*sample)).sum::<usize>();
        assert!(packs.iter().all(|pack| !pack.is_empty() && tokens(pack) <= 512));
        let total: usize = (0..5000).map(length).sum();
        let full = total as f64 / (512.0 * packs.len() as f64);
        assert!(full > 0.95, "{full} of the room is used");
    }

    #[test]
    fn packs_depend_on_seed_and_epoch() {
        let packs = packed_epoch(7, 2);
        assert_eq!(packs, packed_epoch(7, 2));
        assert_ne!(packs, packed_epoch(7, 3));
        assert_ne!(packs, packed_epoch(8, 2));
    }

    #[test]
    fn packs_are_filled_first_fit_and_closed_oldest_first() {
        let lengths = [6, 5, 4, 9, 1, 12];
        let packs = first_fit(&[0, 1, 2, 3, 4, 5], 10, |sample| lengths[sample as usize]);
        let found: Vec<&[u32]> = packs.iter().collect();
        assert_eq!(found, [&[0, 2][..], &[1, 4], &[3], &[5]]);
        // The first pack is closed when the window is full, however much room it has.
        let many: Vec<u32> = (0..u32::try_from(WINDOW).unwrap() + 2).collect();
        let last = *many.last().unwrap();
        let packs = first_fit(&many, 10, |sample| if sample == last { 1 } else { 8 });
        assert_eq!((packs.pack(0), packs.pack(1)), (&[0][..], &[1, last][..]));
        assert!(first_fit(&[], 10, length).is_empty());
    }
}
