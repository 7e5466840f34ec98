//! `hearth run FILE`: a file's jobs on this machine, one after the other.

mod agents;
mod config;
mod job;
mod machine;
mod prepare;
mod status;
mod stop;

use std::path::PathBuf;

use hearth_operator::fault::SpecFaults;

use crate::args::RunArgs;
use crate::display;
use crate::documents::{self, Document, DocumentsError};
use crate::{exit, render};
use machine::MachineError;
use stop::Stop;

/// Exit code of a file or a command that cannot be run (`EX_USAGE`).
const USAGE: i32 = 64;
/// Exit code of something that is not there (`EX_NOINPUT`).
const NO_INPUT: i32 = 66;
/// Exit code of a program that is not there (`EX_UNAVAILABLE`).
const UNAVAILABLE: i32 = 69;

/// Why nothing ran, or why it stopped.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: std::io::Error },
    #[error("{file}: {source}")]
    Documents { file: String, source: DocumentsError },
    #[error("{file}: {what} cannot be run:\n{}", indented(.faults))]
    Refused { file: String, what: String, faults: SpecFaults },
    #[error(
        "{file}: {what}: a local run trains and does nothing else; apply a {kind} to a cluster with `kubectl apply`"
    )]
    Kind { file: String, what: String, kind: String },
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("cannot make a directory for this run's files: {0}")]
    WorkDirectory(std::io::Error),
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot start {}: {source}; build it with `make build`, or name it with --worker", .program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

impl RunError {
    fn exit_code(&self) -> i32 {
        match self {
            Self::Read { .. } => NO_INPUT,
            Self::Documents { .. } | Self::Refused { .. } | Self::Kind { .. } => USAGE,
            Self::Machine(error) => error.exit_code(),
            Self::Start { .. } => UNAVAILABLE,
            Self::WorkDirectory(_) | Self::Write { .. } | Self::Signals(_) => exit::FAILED,
        }
    }
}

fn indented(faults: &SpecFaults) -> String {
    faults.to_string().lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// Runs the file; the process's exit code.
pub async fn run(args: &RunArgs) -> i32 {
    match all(args).await {
        Ok(code) => code,
        Err(error) => {
            display::err(&format!("hearth run: {error}"));
            error.exit_code()
        }
    }
}

async fn all(args: &RunArgs) -> Result<i32, RunError> {
    let file = args.file.display().to_string();
    let text = documents::read(&args.file)
        .map_err(|source| RunError::Read { file: file.clone(), source })?;
    let documents = documents::split(&text)
        .map_err(|source| RunError::Documents { file: file.clone(), source })?;
    let machine = machine::inspect(args)?;
    // Everything is checked before anything starts.
    let planned: Vec<job::Planned> = documents
        .iter()
        .map(|document| plan(document, &file, &machine))
        .collect::<Result<_, _>>()?;
    if let [_, _, ..] = planned.as_slice() {
        let names: Vec<_> = documents.iter().map(title).collect();
        display::out(&format!("{file}: {} run one after the other", names.join(", ")));
    }
    let mut stop = Stop::listen().map_err(RunError::Signals)?;
    for planned in planned {
        let code = planned.run(&machine, &mut stop, args.verbose).await?;
        if code != exit::DONE {
            return Ok(code);
        }
    }
    Ok(exit::DONE)
}

fn title(document: &Document) -> String {
    let Document { kind, name, .. } = document;
    format!("{kind}/{name}")
}

/// Where a document is, for messages: `document 2 (line 14), TrainingJob/spam`.
fn place(document: &Document) -> String {
    format!("document {} (line {}), {}", document.number, document.line, title(document))
}

fn plan(
    document: &Document,
    file: &str,
    machine: &machine::Machine,
) -> Result<job::Planned, RunError> {
    let (file, what) = (file.to_owned(), place(document));
    if matches!(document.kind.as_str(), "ModelDeployment" | "HyperparamSweep") {
        return Err(RunError::Kind { file, what, kind: document.kind.clone() });
    }
    job::plan(&document.text, machine).map_err(|faults| RunError::Refused { file, what, faults })
}

/// How long something took, for people.
fn took(since: std::time::Instant) -> String {
    render::time(since.elapsed().as_secs())
}
