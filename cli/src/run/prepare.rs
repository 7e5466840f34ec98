//! Preparing a job's rows, before its agents start.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::Stdio;

use hearth_crds::preparation::PrepareConfig;
use hearth_crds::worker_config::WorkerResult;
use tokio::process::Command;

use super::RunError;
use super::config::{WorkDirectory, read_result};
use super::stop::Stop;

/// How a preparation ended.
pub(super) enum Prepared {
    /// Rows are there, or are not: the process's last words and exit code.
    Ended(Option<Box<WorkerResult>>, i32),
    /// By Ctrl-C. The same command goes on from there.
    Interrupted,
}

/// Runs `hearth-worker prepare`.
pub(super) async fn prepare(
    worker: &Path,
    config: &PrepareConfig,
    files: &WorkDirectory,
    stop: &mut Stop,
    verbose: bool,
) -> Result<Prepared, RunError> {
    let path = files.write("prepare.json", config)?;
    let result = files.prepared();
    let mut command = Command::new(worker);
    command
        .arg("prepare")
        .arg("--config")
        .arg(path)
        .env("HEARTH_TERMINATION_LOG", &result)
        .process_group(0)
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if !verbose {
        let log = files.log_of_preparation();
        let open = OpenOptions::new().create(true).append(true).open(&log);
        command.stderr(Stdio::from(open.map_err(|source| RunError::Write { path: log, source })?));
    }
    let failed = |source| RunError::Start { program: worker.to_owned(), source };
    let mut child = command.spawn().map_err(failed)?;
    tokio::select! {
        status = child.wait() => {
            let code = status.map_err(failed)?.code().unwrap_or(1);
            Ok(Prepared::Ended(read_result(&result).map(Box::new), code))
        }
        () = stop.asked() => {
            let _ = child.kill().await;
            Ok(Prepared::Interrupted)
        }
    }
}
