//! Why a node has no copy of a model, and the exit code and reason that go with it.

use std::io;
use std::path::PathBuf;

use hearth_crds::worker_config::ExitCode;

use crate::agent::service::chain;
use crate::config::ConfigError;
use crate::error::{read_code, write_code};

/// Why a node has no copy of a model.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A configuration without a cache.
    #[error("the configuration names no cache of the node; set serving.nodeCache")]
    NotAsked,
    /// No model.
    #[error("{} holds no model; correct model.source, or put the model there", .0.display())]
    Missing(PathBuf),
    /// The model cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is not as the model's card says.
    #[error(
        "{}: its content does not match its hash in hearth.json; write the model anew",
        .0.display()
    )]
    Damaged(PathBuf),
    /// A model that is being written.
    #[error("{} changed while it was copied; it is copied again", .0.display())]
    Changed(PathBuf),
    /// A model that never fits.
    #[error(
        "the model has {bytes} bytes, and serving.nodeCache.maxBytes allows {most} for all; raise it, or leave serving.nodeCache out"
    )]
    TooLarge {
        /// Bytes of the model.
        bytes: u64,
        /// Bytes that are allowed.
        most: u64,
    },
    /// What is there is in use.
    #[error(
        "the model's {bytes} bytes do not fit into the node's cache, claim {claim}: {what}, and all other models there are in use; {advice}"
    )]
    NoRoom {
        /// Bytes of the model.
        bytes: u64,
        /// The cache's claim.
        claim: String,
        /// What leaves no room.
        what: String,
        /// What to do.
        advice: &'static str,
    },
    /// The cache cannot be written.
    #[error("cannot write {} in the node's cache, claim {claim}", path.display())]
    Write {
        /// File or directory.
        path: PathBuf,
        /// The cache's claim.
        claim: String,
        /// Why.
        source: io::Error,
    },
}

impl CacheError {
    /// CamelCase reason, from a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::NotAsked | Self::TooLarge { .. } => "BadConfig",
            Self::Missing(_) => "MissingInput",
            Self::Read { .. } | Self::Changed(_) => "ReadFailed",
            Self::Damaged(_) => "BadModel",
            Self::NoRoom { .. } => "CacheFull",
            Self::Write { source, .. } if is_full(source) => "CacheFull",
            Self::Write { .. } => "OutputFailed",
        }
    }

    /// Exit code: 64 to 78 where a retry cannot help.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::NotAsked | Self::TooLarge { .. } => ExitCode::Usage,
            Self::Missing(_) => ExitCode::NoInput,
            Self::Damaged(_) => ExitCode::Data,
            Self::Read { source, .. } => read_code(source),
            Self::Write { source, .. } => write_code(source),
            Self::Changed(_) | Self::NoRoom { .. } => ExitCode::Failure,
        }
    }

    /// The whole chain in one line, and what to do, for people.
    pub fn sentence(&self) -> String {
        let advice = match self {
            Self::Write { source, .. } if is_full(source) => {
                "; free space on its volume, or set serving.nodeCache.maxBytes below its size"
            }
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "; let the group 65532 write to its volume"
            }
            Self::Write { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                "; give it a volume that can be written"
            }
            _ => "",
        };
        format!("{}{advice}", chain(self))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
