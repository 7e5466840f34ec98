//! A run's own files: the worker's configuration, results, logs.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use hearth_crds::worker_config::WorkerResult;
use serde::Serialize;
use tempfile::TempDir;

use super::RunError;

/// A directory that goes with the run, unless it is kept.
#[derive(Debug)]
pub(super) struct WorkDirectory(TempDir);

impl WorkDirectory {
    pub(super) fn new(name: &str) -> Result<Self, RunError> {
        let prefix = format!("hearth-run-{name}-");
        tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir()
            .map(Self)
            .map_err(RunError::WorkDirectory)
    }

    /// Writes the worker's configuration; its path.
    pub(super) fn write_config<T: Serialize>(&self, config: &T) -> Result<PathBuf, RunError> {
        self.write("config.json", config)
    }

    /// Writes a document; its path.
    pub(super) fn write<T: Serialize>(&self, name: &str, config: &T) -> Result<PathBuf, RunError> {
        let path = self.0.path().join(name);
        let failed = |source| RunError::Write { path: path.clone(), source };
        let mut file = File::create(&path).map_err(failed)?;
        let text = serde_json::to_vec_pretty(config).map_err(|error| failed(error.into()))?;
        file.write_all(&text).map_err(failed)?;
        Ok(path)
    }

    /// Where an agent leaves its result.
    pub(super) fn result(&self, agent: u32) -> PathBuf {
        self.0.path().join(format!("result-{agent}.json"))
    }

    /// Where the preparation of rows leaves its result.
    pub(super) fn prepared(&self) -> PathBuf {
        self.0.path().join("prepared.json")
    }

    /// Where the preparation of rows logs.
    pub(super) fn log_of_preparation(&self) -> PathBuf {
        self.0.path().join("prepare.log")
    }

    /// Where an agent logs.
    pub(super) fn log(&self, agent: u32) -> PathBuf {
        self.0.path().join(format!("agent-{agent}.log"))
    }

    /// Leaves the directory where it is; its path.
    pub(super) fn keep(self) -> PathBuf {
        self.0.keep()
    }
}

/// The result that an agent left, if it left a whole one.
pub(super) fn read_result(path: &Path) -> Option<WorkerResult> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
