//! What ends a rank, and the exit code and reason that go with it: one place.

use std::io;
use std::path::PathBuf;

use hearth_crds::worker_config::ExitCode;
use hearth_tabular::TabularError;

use crate::config::ConfigError;
use crate::data::DataError;
use crate::diagnosis::memory::tells_of_memory;
use crate::model::ModelError;

/// What ended a rank.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model of a table.
    #[error(transparent)]
    Tabular(#[from] TabularError),
    /// The output directory.
    #[error("cannot write {}", path.display())]
    Output {
        /// File or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A checkpoint that passed its check and still cannot be used.
    #[error("checkpoint {}: {detail}", path.display())]
    Checkpoint {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Checkpoints of a run with other settings.
    #[error(
        "{} holds checkpoints of a run with other {what}; use another output.destination or remove that directory",
        path.display()
    )]
    OtherRun {
        /// The checkpoints' directory.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The environment that the agent sets.
    #[error("environment: {0}")]
    Environment(String),
    /// The master's address.
    #[error("cannot reach the master {address}: {detail}")]
    Unreachable {
        /// `MASTER_ADDR`.
        address: String,
        /// Why.
        detail: String,
    },
    /// Other ranks, or the accelerator.
    #[error("communication between ranks failed")]
    Comm(#[from] nccl_rs::Error),
    /// No GPU for this rank.
    #[error(
        "rank needs CUDA device {wanted}, but {devices} are visible; request a GPU for each process in workers.resources"
    )]
    NoDevice {
        /// `LOCAL_RANK`.
        wanted: usize,
        /// Visible devices.
        devices: usize,
    },
    /// Rank 0 could not go on; it tells the reason itself.
    #[error("rank 0 gave up: {detail}")]
    LeaderFailed {
        /// What rank 0 said.
        detail: String,
    },
    /// libtorch, outside of the model.
    #[error("libtorch failed")]
    Torch(#[from] tch::TchError),
    /// Loss or gradient is NaN or infinite.
    #[error(
        "step {step} is not finite: its loss is {loss}, and {place}{}; lower training.learningRate or training.maxGradNorm, lengthen training.warmupSteps, or look at the data of that step",
        if *in_a_row > 1 { format!(" ({in_a_row} steps in a row)") } else { String::new() }
    )]
    NotFinite {
        /// Optimizer step.
        step: u64,
        /// The step's loss.
        loss: f64,
        /// What was not finite first.
        place: String,
        /// Such steps up to this one.
        in_a_row: u32,
    },
    /// Memory ran out.
    #[error("step {step}: {explanation}")]
    OutOfMemory {
        /// Optimizer step.
        step: u64,
        /// What memory went into, and what to change.
        explanation: String,
    },
    /// Memory ran out, and the ranks that start next take half the batch.
    #[error(
        "memory ran out at step {step} with {from} samples in a forward pass; training goes on with {to} and more passes a step (training.autoFindBatchSize)"
    )]
    BatchHalved {
        /// Optimizer step.
        step: u64,
        /// Samples in a forward pass before.
        from: usize,
        /// Samples in a forward pass from now on.
        to: usize,
    },
    /// SIGTERM.
    #[error("stopped by SIGTERM after step {step}; a checkpoint was saved")]
    Terminated {
        /// Optimizer steps done.
        step: u64,
    },
    /// The agent that reads the events is gone.
    #[error(
        "nobody reads this rank's events any more; it stops so that no two gangs train at once"
    )]
    Orphaned,
    /// A bug.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// CamelCase reason, from a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            _ if self.is_failed_allocation() => "OutOfMemory",
            Self::Config(ConfigError::Missing { .. } | ConfigError::Prepared { .. })
            | Self::Data(DataError::Missing { .. })
            | Self::Model(ModelError::Missing { .. }) => "MissingInput",
            Self::Config(_) | Self::Environment(_) | Self::Data(DataError::Cleaning(_)) => {
                "BadConfig"
            }
            Self::OtherRun { .. } => "OtherRun",
            Self::Data(
                DataError::Read { .. } | DataError::Changed { .. } | DataError::Cache { .. },
            )
            | Self::Model(ModelError::Read { .. }) => "ReadFailed",
            Self::Data(DataError::Tokenizer { .. } | DataError::Chat { .. })
            | Self::Model(ModelError::Malformed { .. }) => "BadModel",
            Self::Data(
                DataError::BadRows { .. }
                | DataError::Setting { .. }
                | DataError::Empty { .. }
                | DataError::OneLabel { .. }
                | DataError::TooManyLabels { .. },
            ) => "BadData",
            Self::Model(ModelError::Unsupported { .. }) => "UnsupportedModel",
            Self::Model(ModelError::Torch(_) | ModelError::Pass(_) | ModelError::Elsewhere)
            | Self::Torch(_) => "TorchFailed",
            Self::Model(ModelError::Onnx(_)) => "OnnxRuntimeFailed",
            Self::Tabular(error) => tabular_reason(error),
            Self::Output { .. } => "OutputFailed",
            Self::Checkpoint { .. } => "CheckpointFailed",
            Self::Comm(error) | Self::Model(ModelError::Operator(error)) => comm_reason(error),
            Self::Unreachable { .. } | Self::LeaderFailed { .. } => "PeerLost",
            Self::NoDevice { .. } => "AcceleratorUnavailable",
            Self::NotFinite { .. } => "NotFinite",
            Self::OutOfMemory { .. } | Self::Model(ModelError::Room { .. }) => "OutOfMemory",
            Self::BatchHalved { .. } => hearth_crds::worker_config::BATCH_HALVED,
            Self::Terminated { .. } => "Terminated",
            Self::Orphaned => "Orphaned",
            Self::Internal(_) => "InternalError",
        }
    }

    /// Exit code: 64 to 78 where a retry cannot help.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            _ if self.is_failed_allocation() => ExitCode::OutOfMemory,
            Self::Config(ConfigError::Missing { .. })
            | Self::Data(DataError::Missing { .. })
            | Self::Model(ModelError::Missing { .. }) => ExitCode::NoInput,
            Self::Config(ConfigError::Parse { .. } | ConfigError::Setting { .. })
            | Self::Environment(_)
            | Self::OtherRun { .. }
            | Self::Data(DataError::Cleaning(_))
            | Self::Model(ModelError::Unsupported { .. }) => ExitCode::Usage,
            Self::Config(
                ConfigError::Read { source, .. } | ConfigError::Prepared { source, .. },
            )
            | Self::Data(DataError::Read { source, .. } | DataError::Cache { source })
            | Self::Model(ModelError::Read { source, .. }) => read_code(source),
            Self::Tabular(error) => tabular_code(error),
            Self::Output { source, .. } => write_code(source),
            Self::Comm(error) | Self::Model(ModelError::Operator(error)) => comm_code(error),
            Self::NoDevice { .. } => ExitCode::Unavailable,
            Self::Terminated { .. } => ExitCode::Terminated,
            Self::OutOfMemory { .. } | Self::Model(ModelError::Room { .. }) => {
                ExitCode::OutOfMemory
            }
            Self::Model(
                ModelError::Torch(_)
                | ModelError::Pass(_)
                | ModelError::Elsewhere
                | ModelError::Onnx(_),
            )
            | Self::Torch(_)
            | Self::Checkpoint { .. }
            | Self::Unreachable { .. }
            | Self::LeaderFailed { .. }
            | Self::BatchHalved { .. }
            | Self::Orphaned
            | Self::Data(DataError::Changed { .. })
            | Self::Internal(_) => ExitCode::Failure,
            // A resumed run meets the same numbers again: a retry cannot help.
            Self::NotFinite { .. } | Self::Data(_) | Self::Model(ModelError::Malformed { .. }) => {
                ExitCode::Data
            }
        }
    }

    /// libtorch got no memory, where nobody said yet what it went into.
    fn is_failed_allocation(&self) -> bool {
        match self {
            Self::Model(ModelError::Torch(error)) | Self::Torch(error) => {
                tells_of_memory(&error.to_string())
            }
            _ => false,
        }
    }

    /// The whole chain in one line, for people.
    pub fn sentence(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let next = first_lines(&error.to_string());
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = error.source();
        }
        if let Self::Output { source, .. } = self
            && source.kind() == io::ErrorKind::StorageFull
        {
            text.push_str("; free space on the output volume, the last good checkpoint stands");
        }
        text
    }
}

/// libtorch appends a C++ stack trace; the first line says what failed.
fn first_lines(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

fn tabular_reason(error: &TabularError) -> &'static str {
    match error {
        TabularError::Column { .. } | TabularError::Setting { .. } => "BadConfig",
        TabularError::Data(_) | TabularError::Row { .. } => "BadData",
        TabularError::Read { .. } => "ReadFailed",
        TabularError::Write { .. } => "OutputFailed",
        TabularError::Damaged { .. } => "BadModel",
        TabularError::Engine { .. } => "LightGBMFailed",
        TabularError::Network { .. } => "TorchFailed",
        TabularError::Scorer(_) => "OnnxRuntimeFailed",
    }
}

fn tabular_code(error: &TabularError) -> ExitCode {
    match error {
        TabularError::Column { .. } | TabularError::Setting { .. } => ExitCode::Usage,
        TabularError::Data(_) | TabularError::Row { .. } | TabularError::Damaged { .. } => {
            ExitCode::Data
        }
        TabularError::Read { source, .. } => read_code(source),
        TabularError::Write { source, .. } => write_code(source),
        TabularError::Engine { .. } | TabularError::Network { .. } | TabularError::Scorer(_) => {
            ExitCode::Failure
        }
    }
}

fn comm_reason(error: &nccl_rs::Error) -> &'static str {
    match error {
        nccl_rs::Error::Unavailable { .. } => "AcceleratorUnavailable",
        nccl_rs::Error::Timeout { .. } => "RankHung",
        nccl_rs::Error::PeerLost { .. } => "PeerLost",
        _ => "CommunicationFailed",
    }
}

fn comm_code(error: &nccl_rs::Error) -> ExitCode {
    match error {
        nccl_rs::Error::Unavailable { .. } => ExitCode::Unavailable,
        _ => ExitCode::Failure,
    }
}

/// Exit code of a failed read.
pub(crate) fn read_code(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => ExitCode::NoInput,
        io::ErrorKind::InvalidData => ExitCode::Data,
        _ => ExitCode::Failure,
    }
}

/// Exit code of a failed write.
pub(crate) fn write_code(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory => ExitCode::CannotCreate,
        _ => ExitCode::Failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_reasons() {
        let path = || PathBuf::from("/data/x.jsonl");
        let not_finite =
            Error::NotFinite { step: 3, loss: f64::NAN, place: String::new(), in_a_row: 1 };
        let disk = |kind| Error::Output { path: path(), source: io::Error::from(kind) };
        for (error, code, reason) in [
            (DataError::Missing { path: path() }.into(), ExitCode::NoInput, "MissingInput"),
            (DataError::Empty { path: path() }.into(), ExitCode::Data, "BadData"),
            (not_finite, ExitCode::Data, "NotFinite"),
            (disk(io::ErrorKind::ReadOnlyFilesystem), ExitCode::CannotCreate, "OutputFailed"),
            (disk(io::ErrorKind::StorageFull), ExitCode::Failure, "OutputFailed"),
            (Error::Terminated { step: 3 }, ExitCode::Terminated, "Terminated"),
        ] {
            assert_eq!((error.exit_code(), error.reason()), (code, reason), "{error}");
        }
    }

    #[test]
    fn the_sentence_tells_the_cause_once() {
        let error: Error = DataError::Read {
            path: "/x".into(),
            source: io::Error::other("disk on fire\nstack trace"),
        }
        .into();
        assert_eq!(error.sentence(), "cannot read /x: disk on fire");
    }
}
