//! What this machine gives to a run: the worker program and directories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{NO_INPUT, UNAVAILABLE, USAGE};
use crate::args::RunArgs;

/// Program that trains.
const WORKER: &str = "hearth-worker";

/// This machine, as far as a run needs it.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// `hearth-worker`.
    pub(super) worker: PathBuf,
    /// Absolute directory of each claim.
    pub(super) claims: BTreeMap<String, PathBuf>,
    /// Agents instead of `workers.replicas`.
    pub(super) workers: Option<i32>,
}

/// What the machine lacks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("--volume {claim}={}: {source}; make the directory, or correct its name", .directory.display())]
    Volume { claim: String, directory: PathBuf, source: std::io::Error },
    #[error("--volume {claim}={}: that is no directory", .directory.display())]
    NoDirectory { claim: String, directory: PathBuf },
    #[error("--volume gives the claim {claim} two directories")]
    TwoVolumes { claim: String },
    #[error("there is no worker program {}: build it with `make build`, or correct --worker", .0.display())]
    NoSuchWorker(PathBuf),
    #[error(
        "{WORKER} is neither beside this program nor in PATH: build it with `make build`, or name it with --worker"
    )]
    NoWorker,
}

impl MachineError {
    pub(super) fn exit_code(&self) -> i32 {
        match self {
            Self::Volume { .. } | Self::NoDirectory { .. } => NO_INPUT,
            Self::TwoVolumes { .. } => USAGE,
            Self::NoSuchWorker(_) | Self::NoWorker => UNAVAILABLE,
        }
    }
}

/// Looks for all that the arguments name.
pub(super) fn inspect(args: &RunArgs) -> Result<Machine, MachineError> {
    let mut claims = BTreeMap::new();
    for (claim, directory) in &args.volumes {
        let (claim, directory) = (claim.clone(), directory.clone());
        let absolute = match directory.canonicalize() {
            Ok(absolute) if absolute.is_dir() => absolute,
            Ok(_) => return Err(MachineError::NoDirectory { claim, directory }),
            Err(source) => return Err(MachineError::Volume { claim, directory, source }),
        };
        if claims.insert(claim.clone(), absolute).is_some() {
            return Err(MachineError::TwoVolumes { claim });
        }
    }
    Ok(Machine { worker: worker(args.worker.as_deref())?, claims, workers: args.workers })
}

fn worker(named: Option<&Path>) -> Result<PathBuf, MachineError> {
    if let Some(named) = named {
        let found = named.is_file().then(|| named.to_owned());
        return found.ok_or_else(|| MachineError::NoSuchWorker(named.to_owned()));
    }
    let beside = std::env::current_exe().ok().and_then(|this| this.parent().map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = beside.into_iter().chain(std::env::split_paths(&path));
    let mut candidates = directories.map(|directory| directory.join(WORKER));
    candidates.find(|candidate| candidate.is_file()).ok_or(MachineError::NoWorker)
}
