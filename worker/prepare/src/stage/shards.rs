//! Which rows go into which file. Pure.

use super::fate::Fate;
use super::write::Block;

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Training.
    Train = 0,
    /// Evaluation.
    Eval = 1,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }

    /// The fate of its rows.
    pub(crate) fn fate(self) -> Fate {
        match self {
            Self::Train => Fate::Train,
            Self::Eval => Fate::Eval,
        }
    }
}

/// A file of rows: those of a side from one row up to another, which it does not hold; or blocks of
/// rows that are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) side: Side,
    number: usize,
    /// Whether `first` and `end` are of blocks.
    pub(crate) made: bool,
    pub(crate) first: u32,
    pub(crate) end: u32,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

impl Shard {
    /// Name of its file, in a directory of its side.
    pub(crate) fn name(&self) -> String {
        format!("{}/{:05}.parquet", self.side.name(), self.number)
    }
}

/// Cuts rows into shards of about `bytes`, training rows first.
#[derive(Debug)]
pub(crate) struct Plan {
    bytes: u64,
    open: [Option<Shard>; 2],
    done: [Vec<Shard>; 2],
}

impl Plan {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, open: [None, None], done: [Vec::new(), Vec::new()] }
    }

    /// Adds the next row, of so many bytes.
    pub(crate) fn add(&mut self, row: u32, bytes: u64, fate: Fate) {
        match fate {
            Fate::Train => self.extend((Side::Train, false), row, (1, bytes)),
            Fate::Eval => self.extend((Side::Eval, false), row, (1, bytes)),
            _ => {}
        }
    }

    /// Adds blocks of rows that are made, after all other rows.
    pub(crate) fn add_blocks(&mut self, blocks: &[Block]) {
        for (open, done) in self.open.iter_mut().zip(&mut self.done) {
            done.extend(open.take());
        }
        for (number, block) in (0..).zip(blocks) {
            self.extend((block.side, true), number, (block.rows, block.bytes));
        }
    }

    fn extend(&mut self, (side, made): (Side, bool), item: u32, (rows, bytes): (u64, u64)) {
        let place = side as usize;
        let number = self.done[place].len();
        let shard = self.open[place].get_or_insert(Shard {
            side,
            number,
            made,
            first: item,
            end: item,
            rows: 0,
            bytes: 0,
        });
        shard.end = item + 1;
        shard.rows += rows;
        shard.bytes += bytes;
        if shard.bytes >= self.bytes {
            self.done[place].extend(self.open[place].take());
        }
    }

    /// All shards.
    pub(crate) fn finish(self) -> Vec<Shard> {
        let [train, eval] = self.done;
        let [train_open, eval_open] = self.open;
        train.into_iter().chain(train_open).chain(eval).chain(eval_open).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_cut_by_bytes_and_sides_do_not_mix() {
        let mut plan = Plan::new(10);
        let fates =
            [Fate::Train, Fate::Eval, Fate::Duplicate, Fate::Train, Fate::Train, Fate::Eval];
        for (row, fate) in (0..).zip(fates) {
            plan.add(row, 5, fate);
        }
        let block = |rows| Block { side: Side::Train, rows, bytes: 6 };
        plan.add_blocks(&[block(3), block(4), block(5)]);
        let told: Vec<_> = plan
            .finish()
            .iter()
            .map(|shard| (shard.name(), shard.first, shard.end, shard.rows))
            .collect();
        let name = |name: &str| name.to_owned();
        assert_eq!(
            told,
            [
                (name("train/00000.parquet"), 0, 4, 2),
                (name("train/00001.parquet"), 4, 5, 1),
                (name("train/00002.parquet"), 0, 2, 7),
                (name("train/00003.parquet"), 2, 3, 5),
                (name("eval/00000.parquet"), 1, 6, 2),
            ]
        );
    }
}
