//! What goes wrong. Messages name views, entities and columns, and never a value of a feature.

use std::io;
use std::path::{Path, PathBuf};

/// Settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {detail}")]
pub struct ConfigError {
    /// The setting's name, below the feature store's.
    pub setting: String,
    /// What is wrong, and what to do.
    pub detail: String,
}

impl ConfigError {
    pub(crate) fn new(setting: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { setting: setting.into(), detail: detail.into() }
    }
}

/// Why a row has no features: a closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The row has no entity key.
    #[error("the row holds no key, a text or a whole number: give it, or the features themselves")]
    NoKey,
    /// Nothing is stored of the entity.
    #[error("nothing is stored of it: load it, or give the feature a default")]
    NoEntity,
    /// The entity is there and the feature is not.
    #[error("the feature is not stored: load it, or give it a default")]
    NoFeature,
    /// It is older than `maxAgeSeconds`, or does not say how old it is.
    #[error(
        "what is stored is older than maxAgeSeconds: load it anew, or give the feature a default"
    )]
    Stale,
    /// The store did not answer in time.
    #[error("the store did not answer within timeoutMilliseconds: look at its load, or raise that")]
    Timeout,
    /// There is no connection.
    #[error("the store is not reached: look at whether it runs, and at url and passwordSecret")]
    Down,
    /// The store answered with an error.
    #[error("the store refuses: the key must be a hash that the user may read")]
    Refused,
    /// A stored text that is not of the feature's type.
    #[error("what is stored is not of the feature's type: load it anew, or correct type")]
    Unreadable,
}

impl Reason {
    /// Whether the store failed, so that `onFailure` decides; else there is merely nothing.
    pub fn is_failure(self) -> bool {
        match self {
            Self::Timeout | Self::Down | Self::Refused | Self::Unreadable => true,
            Self::NoKey | Self::NoEntity | Self::NoFeature | Self::Stale => false,
        }
    }
}

/// Why a request's rows have no features.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// A row lacks a feature.
    #[error(
        "row {row}: view {view:?}{}{}: {reason}",
        entity.as_ref().map(|entity| format!(", entity {entity:?}")).unwrap_or_default(),
        feature.as_ref().map(|feature| format!(", feature {feature:?}")).unwrap_or_default(),
    )]
    Row {
        /// Which of the request's rows, from 0.
        row: usize,
        /// The view.
        view: String,
        /// The entity's key, where the row has one.
        entity: Option<String>,
        /// The feature, where one is to blame.
        feature: Option<String>,
        /// Why.
        reason: Reason,
    },
    /// A request asks of more entities than one may.
    #[error("{asked} entities in one request, {most} at most: send fewer rows at once")]
    TooMany {
        /// Views times rows, each entity once.
        asked: usize,
        /// [`crate::MAX_LOOKUPS`].
        most: usize,
    },
}

impl LookupError {
    /// Whether the same request may be answered later (a server's 503), or is itself at fault.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Row { reason, .. } => reason.is_failure(),
            Self::TooMany { .. } => false,
        }
    }
}

/// A table that does not hold what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A column is not there.
    #[error("there is no column {column:?}; there are {there}")]
    NoColumn {
        /// Its name.
        column: String,
        /// Names of those that are.
        there: String,
    },
    /// A column of a type that is not read here.
    #[error("column {column:?} holds {found}, and {wanted} is needed: write it as that")]
    Type {
        /// Its name.
        column: String,
        /// Its type.
        found: String,
        /// What would do.
        wanted: &'static str,
    },
    /// A value that does not fit.
    #[error(
        "column {column:?}, row {row}: a value that is not {wanted}: repair it, or leave it empty"
    )]
    Value {
        /// Column.
        column: String,
        /// Row of the file or of the batch, from 0.
        row: u64,
        /// What would do.
        wanted: &'static str,
    },
    /// The rows to join have a column of a feature's name.
    #[error("the rows have a column {column:?} already: rename it, or leave the feature out")]
    Double {
        /// Its name.
        column: String,
    },
    /// More features than memory is given for.
    #[error(
        "the features take more than {limit} bytes of memory, at {rows} rows: give fewer columns or a \
         shorter span of time, or raise the limit"
    )]
    TooLarge {
        /// Bytes permitted.
        limit: usize,
        /// Rows that were read so far.
        rows: u64,
    },
    /// Arrow refuses what this crate made.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

/// Why features were not loaded. What was written before stays, and loading again is safe.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read.
    #[error("cannot read {}: is it a whole Parquet file?", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{}", path.display())]
    Table {
        /// File.
        path: PathBuf,
        /// Why.
        source: TableError,
    },
    /// The store cannot be reached, or stays away.
    #[error("the feature store is not reached after {rows} rows: when it runs, load again")]
    Down {
        /// Rows that were written or passed over.
        rows: u64,
        /// Why.
        source: redis::RedisError,
    },
    /// The store refuses a key.
    #[error(
        "the feature store refuses {key:?} ({code}): the key must be a hash or absent, and the user permitted EVALSHA, SCRIPT, HGET, HSET, DEL, EXISTS and PEXPIRE"
    )]
    Refused {
        /// Key of the store.
        key: String,
        /// The server's code, such as `WRONGTYPE`.
        code: String,
    },
}

impl LoadError {
    pub(crate) fn table(path: &Path, source: TableError) -> Self {
        Self::Table { path: path.to_owned(), source }
    }

    pub(crate) fn read(
        path: &Path,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Read { path: path.to_owned(), source: io::Error::other(source) }
    }
}
