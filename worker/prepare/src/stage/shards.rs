//! Which rows go into which file. Pure.

use crate::rows::Key;

use super::fate::Fate;

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Training.
    Train,
    /// Evaluation.
    Eval,
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

/// A file of rows: those of a side from one row up to another, which it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    pub(crate) side: Side,
    number: usize,
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

    /// Adds the next row.
    pub(crate) fn add(&mut self, row: u32, key: &Key, fate: Fate) {
        let (place, side) = match fate {
            Fate::Train => (0, Side::Train),
            Fate::Eval => (1, Side::Eval),
            _ => return,
        };
        let number = self.done[place].len();
        let shard = self.open[place].get_or_insert(Shard {
            side,
            number,
            first: row,
            end: row,
            rows: 0,
            bytes: 0,
        });
        shard.end = row + 1;
        shard.rows += 1;
        shard.bytes += u64::from(key.size);
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
            plan.add(row, &Key { size: 5, ..Key::default() }, fate);
        }
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
                (name("eval/00000.parquet"), 1, 6, 2),
            ]
        );
    }
}
