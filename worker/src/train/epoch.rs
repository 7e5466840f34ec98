//! What an epoch consists of, in its order: samples, or packs of them. Pure.

use std::ops::Range;

use hearth_crds::training_arguments::TrainSamplingStrategy;

use crate::config::Config;
use crate::data::order::{Shape, grouped_by_length, micro_batches, permutation};
use crate::data::packing::{Packs, first_fit};

/// How samples are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Their order.
    pub strategy: TrainSamplingStrategy,
    /// Of shuffling.
    pub seed: i64,
    /// Leave out the end of an epoch that does not fill a step's batch.
    pub drop_last: bool,
    /// Put samples together into sequences of at most so many tokens.
    pub packing: Option<usize>,
    /// Samples among which those of like length are put together. Not the world's batch, so that
    /// the order stays where the number of ranks changes.
    pub group: usize,
}

impl Sampling {
    /// As `config` says, for sequences of at most `max_length` tokens.
    pub fn new(config: &Config, max_length: usize) -> Self {
        Self {
            strategy: config.sampling,
            seed: config.data_seed,
            drop_last: config.drop_last,
            packing: config.packing.then_some(max_length),
            group: config.train_batch.get() * config.accumulation.get(),
        }
    }
}

/// One pass over the data. An item is a sample, or a pack of some.
#[derive(Debug)]
pub struct Epoch {
    number: u64,
    items: Items,
}

#[derive(Debug)]
enum Items {
    Samples(Vec<u32>),
    Packs(Packs),
}

impl Epoch {
    /// Epoch `number` over `rows` samples of these lengths.
    pub fn new(number: u64, sampling: &Sampling, rows: u32, length: impl Fn(u32) -> usize) -> Self {
        let order = match sampling.strategy {
            TrainSamplingStrategy::Random => permutation(sampling.seed, number, rows),
            TrainSamplingStrategy::GroupByLength => {
                grouped_by_length(sampling.seed, number, rows, sampling.group, &length)
            }
            TrainSamplingStrategy::Sequential => (0..rows).collect(),
        };
        let items = match sampling.packing {
            None => Items::Samples(order),
            Some(max_length) => Items::Packs(first_fit(&order, max_length, length)),
        };
        Self { number, items }
    }

    /// Which pass over the data this is, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items.
    pub fn len(&self) -> u64 {
        match &self.items {
            Items::Samples(order) => order.len() as u64,
            Items::Packs(packs) => packs.len() as u64,
        }
    }

    /// Samples of the items in `range`.
    pub fn samples(&self, range: &Range<u64>) -> Vec<u32> {
        let range = to_index(range.start)..to_index(range.end);
        match &self.items {
            Items::Samples(order) => order[range].to_vec(),
            Items::Packs(packs) => range.flat_map(|index| packs.pack(index)).copied().collect(),
        }
    }

    /// A rank's samples of the items in `range`, by forward pass; a pass takes `shape.per_device`
    /// items.
    pub fn passes(
        &self,
        range: &Range<u64>,
        length: impl Fn(u32) -> usize,
        shape: Shape,
    ) -> Vec<Vec<u32>> {
        match &self.items {
            Items::Samples(order) => {
                micro_batches(&order[to_index(range.start)..to_index(range.end)], length, shape)
            }
            Items::Packs(packs) => {
                let members = |index: u32| packs.pack(index as usize).iter().copied();
                // Packs of an epoch are at most its samples, which are `u32`.
                let indices: Vec<u32> = (0u32..)
                    .skip(to_index(range.start))
                    .take(to_index(range.end - range.start))
                    .collect();
                let passes =
                    micro_batches(&indices, |index| members(index).map(&length).sum(), shape);
                passes
                    .into_iter()
                    .map(|pass| pass.into_iter().flat_map(members).collect())
                    .collect()
            }
        }
    }
}

/// Offsets within an epoch are counts of samples, which are `u32`.
fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(sample: u32) -> usize {
        10 + (sample as usize * 37) % 50
    }

    fn sampling(strategy: TrainSamplingStrategy, packing: Option<usize>) -> Sampling {
        Sampling { strategy, seed: 3, drop_last: false, packing, group: 8 }
    }

    fn all_passes(epoch: &Epoch, world_size: usize) -> Vec<u32> {
        let range = 0..epoch.len();
        let of_rank = |rank| {
            let shape = Shape { rank, world_size, per_device: 3 };
            epoch.passes(&range, length, shape).concat()
        };
        let mut samples: Vec<u32> = (0..world_size).flat_map(of_rank).collect();
        samples.sort_unstable();
        samples
    }

    #[test]
    fn every_sample_is_taken_once_by_one_rank_whatever_the_strategy() {
        for strategy in [
            TrainSamplingStrategy::Random,
            TrainSamplingStrategy::GroupByLength,
            TrainSamplingStrategy::Sequential,
        ] {
            for packing in [None, Some(120)] {
                let epoch = Epoch::new(1, &sampling(strategy, packing), 100, length);
                for world_size in [1, 2, 3] {
                    let all: Vec<u32> = (0..100).collect();
                    assert_eq!(all_passes(&epoch, world_size), all, "{strategy:?} {packing:?}");
                }
            }
        }
    }

    #[test]
    fn a_pass_takes_whole_packs_and_as_many_as_the_batch_says() {
        let epoch = Epoch::new(0, &sampling(TrainSamplingStrategy::Random, Some(120)), 100, length);
        let range = 2..8;
        let shape = Shape { rank: 0, world_size: 1, per_device: 2 };
        let passes = epoch.passes(&range, length, shape);
        assert_eq!(passes.len(), 3);
        for pass in &passes {
            let tokens: usize = pass.iter().map(|sample| length(*sample)).sum();
            assert!(tokens <= 240 && tokens > 120, "{tokens} tokens");
        }
        let mut taken = passes.concat();
        let mut samples = epoch.samples(&range);
        taken.sort_unstable();
        samples.sort_unstable();
        assert_eq!(taken, samples);
    }

    #[test]
    fn sequential_is_the_order_of_the_file() {
        let epoch = Epoch::new(5, &sampling(TrainSamplingStrategy::Sequential, None), 9, length);
        assert_eq!((epoch.number(), epoch.samples(&(0..9))), (5, (0..9).collect()));
    }
}
