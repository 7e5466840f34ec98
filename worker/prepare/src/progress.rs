//! How far a preparation is.

use std::fmt;

/// What is being done, in the order in which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The sources' content is hashed: it names the result.
    Hash,
    /// Rows are read for their fields and types.
    Scan,
    /// Rows are cleaned and filtered.
    Clean,
    /// Equal rows are found, and rows for evaluation chosen.
    Compare,
    /// Shards are written.
    Write,
    /// The result is described and published.
    Finish,
}

impl fmt::Display for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Hash => "hashing sources",
            Self::Scan => "finding fields",
            Self::Clean => "cleaning",
            Self::Compare => "comparing",
            Self::Write => "writing",
            Self::Finish => "finishing",
        })
    }
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update {
    /// Stage.
    pub stage: Stage,
    /// Rows that it has done.
    pub rows: u64,
    /// Bytes that it has done; while comparing, steps.
    pub bytes: u64,
    /// Bytes that it does in all.
    pub total: u64,
}

/// Is told how far a preparation is. Called many times a second: it is for the called to say
/// something more rarely.
pub trait Progress {
    /// How far it is now.
    fn update(&mut self, update: &Update);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn update(&mut self, update: &Update) {
        let _ = update;
    }
}

/// Counts the rows and bytes of one stage.
pub(crate) struct Counter<'a> {
    progress: &'a mut dyn Progress,
    now: Update,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(progress: &'a mut dyn Progress, stage: Stage, total: u64) -> Self {
        let now = Update { stage, rows: 0, bytes: 0, total };
        progress.update(&now);
        Self { progress, now }
    }

    pub(crate) fn add(&mut self, rows: u64, bytes: u64) {
        self.now.rows += rows;
        self.now.bytes = (self.now.bytes + bytes).min(self.now.total);
        self.progress.update(&self.now);
    }
}
