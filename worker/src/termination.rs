//! The container's termination message: how a result reaches the operator
//! though the network is down.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use hearth_crds::worker_config::{TERMINATION_LOG, WorkerResult};

/// Environment variable with another path, for local runs.
const VARIABLE: &str = "HEARTH_TERMINATION_LOG";

/// Leaves `result` where the kubelet finds it; its exit code. Outside a pod,
/// and without `HEARTH_TERMINATION_LOG`, there is no such place.
pub fn tell(result: &WorkerResult) -> i32 {
    let path = match std::env::var_os(VARIABLE) {
        Some(path) => Some(PathBuf::from(path)),
        None => Some(PathBuf::from(TERMINATION_LOG)).filter(|path| path.exists()),
    };
    if let Some(path) = path
        && let Err(error) = write(&path, result)
    {
        tracing::error!(%error, "cannot write the termination message to {}", path.display());
    }
    result.exit_code
}

/// In place: the kubelet has mounted the file itself, so that no rename can
/// replace it.
fn write(path: &Path, result: &WorkerResult) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
    file.write_all(result.to_termination_message().as_bytes())
}

/// A result without a model.
pub fn failure(reason: &str, message: String, exit_code: i32) -> WorkerResult {
    WorkerResult {
        succeeded: false,
        reason: reason.to_owned(),
        message,
        exit_code,
        restarts: 0,
        progress: None,
        evaluations: Vec::new(),
        checkpoint: None,
        model: None,
        compression: None,
        notes: Vec::new(),
        data: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_replaces_the_longer_one_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        write(&path, &failure("Long", "x".repeat(2000), 1)).unwrap();
        let short = failure("Short", "y".to_owned(), 1);
        write(&path, &short).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<WorkerResult>(&text).unwrap(), short);
    }
}
