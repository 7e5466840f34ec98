//! What becomes of each cleaned row: a byte each.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{read_json, write_json, write_whole};

/// What becomes of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Fate {
    /// For training.
    Train = 0,
    /// For evaluation.
    Eval = 1,
    /// It is what a row before it is.
    Duplicate = 2,
    /// It says nearly what a row before it says.
    NearDuplicate = 3,
    /// It is, or nearly is, what a row for evaluation is.
    AlsoInEval = 4,
}

impl Fate {
    const ALL: [Self; 5] =
        [Self::Train, Self::Eval, Self::Duplicate, Self::NearDuplicate, Self::AlsoInEval];

    /// Why such a row went; `None`: it stays.
    pub(crate) fn dropped(self) -> Option<&'static str> {
        match self {
            Self::Train | Self::Eval => None,
            Self::Duplicate => Some("duplicate"),
            Self::NearDuplicate => Some("near duplicate"),
            Self::AlsoInEval => Some("also in eval"),
        }
    }

    /// Whether such a row is written.
    pub(crate) fn stays(self) -> bool {
        self.dropped().is_none()
    }
}

/// What becomes of all rows, in the order of sources, files and rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    pub(crate) rows: Vec<Fate>,
    pub(crate) told: Told,
}

/// What was found besides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Rows that have the texts of a row before them, and another label.
    pub(crate) conflicting_labels: u64,
}

const BYTES: &str = "fates";
const TOLD: &str = "fates.json";

impl Fates {
    /// Rows with a fate.
    pub(crate) fn count(&self, fate: Fate) -> u64 {
        self.rows.iter().filter(|of| **of == fate).count() as u64
    }

    /// Those that an earlier run wrote down.
    pub(crate) fn read(directory: &Path, rows: u64) -> Option<Self> {
        let told = read_json(&directory.join(TOLD))?;
        let bytes = fs::read(directory.join(BYTES)).ok()?;
        let rows = (bytes.len() as u64 == rows).then_some(bytes)?;
        let of = |byte: u8| Fate::ALL.get(usize::from(byte)).copied();
        Some(Self { rows: rows.into_iter().map(of).collect::<Option<_>>()?, told })
    }

    /// Writes them down.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        write_whole(&directory.join(BYTES), |out| {
            self.rows.iter().try_for_each(|fate| out.write_all(&[*fate as u8]))
        })?;
        write_json(&directory.join(TOLD), &self.told)
    }
}
