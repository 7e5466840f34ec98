//! `hearth-worker prepare`: raw rows → prepared ones, by [`hearth_prepare`], and a word of which of
//! them the job has.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_crds::preparation::{DataCard, DataStatus, Pointer, PrepareConfig, pointer};
use hearth_crds::worker_config::{ExitCode, WorkerResult};
use hearth_prepare::{PrepareError, Prepared, Progress, Stage, Update};

use crate::config::ConfigError;
use crate::data::{DataError, source};
use crate::error::Error;
use crate::files::write_atomically;
use crate::termination::{failure, tell};
use crate::wait::wait_for;

/// Time between two lines of the log.
const EVERY: Duration = Duration::from_secs(10);

/// What ends a preparation.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
}

impl Failure {
    fn known(error: &Error) -> (&'static str, String, i32) {
        (error.reason(), error.sentence(), error.exit_code() as i32)
    }

    /// Reason, sentence and exit code.
    fn told(self) -> (&'static str, String, i32) {
        match self {
            Self::Config(error) => Self::known(&error.into()),
            Self::Data(error) => Self::known(&error.into()),
            Self::Prepare(error) => {
                let code = match error.reason() {
                    "MissingInput" => ExitCode::NoInput,
                    "BadData" => ExitCode::Data,
                    "BadConfig" => ExitCode::Usage,
                    _ => ExitCode::Failure,
                };
                (error.reason(), error.sentence(), code as i32)
            }
        }
    }
}

/// Runs `hearth-worker prepare`; the process's exit code.
pub fn run(config: &Path) -> i32 {
    match prepare(config) {
        Ok(result) => {
            tracing::info!("{}", result.message);
            tell(&result)
        }
        Err(error) => {
            let (reason, message, code) = error.told();
            tracing::error!("{message}");
            tell(&failure(reason, message, code))
        }
    }
}

fn prepare(config: &Path) -> Result<WorkerResult, Failure> {
    let mut config: PrepareConfig = crate::config::read(config)?;
    wait_for_sources(&config);
    if config.text_fields.len() > 1 {
        // A conversation, a prompt with its answer, or a text: what the first row has.
        let known = source::first_fields(&config.train)?;
        config.text_fields.retain(|field| known.contains(field));
    }
    let prepared = hearth_prepare::run(&config, &mut Log::default())?;
    point(&config, &prepared)?;
    Ok(succeeded(&config, &prepared))
}

/// Waits until the sources are there, as long as the job says. What is still missing then is told by
/// whoever reads it.
fn wait_for_sources(config: &PrepareConfig) {
    let longest = Duration::from_secs(u64::try_from(config.preparation.wait_seconds).unwrap_or(0));
    let paths = [Some(&config.train.path), config.eval.as_ref().map(|rows| &rows.path)];
    let paths = paths.into_iter().flatten().chain(&config.synonyms).chain(&config.features);
    wait_for(paths, longest);
}

/// Says which prepared rows the job has.
fn point(config: &PrepareConfig, prepared: &Prepared) -> Result<(), PrepareError> {
    let path = config.output.join(pointer(&config.job));
    let text = serde_json::to_vec(&Pointer { id: prepared.card.id.clone() }).unwrap_or_default();
    write_atomically(&path, |out| out.write_all(&text))
        .map_err(|source| PrepareError::Write { path, source })
}

fn succeeded(config: &PrepareConfig, prepared: &Prepared) -> WorkerResult {
    let card = &prepared.card;
    let data = status(card, &format!("{}/{}", config.output_uri.trim_end_matches('/'), card.id));
    let told = if prepared.known { "are prepared already" } else { "were prepared" };
    let message = format!(
        "{} of {} rows {told} for training and {} for evaluation; {}/card.md tells what became of the rest",
        data.train_rows, data.rows, data.eval_rows, data.uri
    );
    WorkerResult {
        succeeded: true,
        data: Some(data),
        ..failure("Completed", message, ExitCode::Done as i32)
    }
}

fn status(card: &DataCard, uri: &str) -> DataStatus {
    let count = |rows: u64| i64::try_from(rows).unwrap_or(i64::MAX);
    DataStatus {
        uri: uri.to_owned(),
        rows: count(card.rows),
        train_rows: count(card.train_rows),
        eval_rows: count(card.eval_rows),
        dropped: count(card.malformed + card.dropped.values().sum::<u64>()),
    }
}

/// A line of the log at each stage, and every ten seconds.
#[derive(Default)]
struct Log(Option<(Stage, Instant)>);

impl Progress for Log {
    fn update(&mut self, update: &Update) {
        let fresh = |(stage, at): &(Stage, Instant)| *stage == update.stage && at.elapsed() < EVERY;
        if self.0.as_ref().is_some_and(fresh) {
            return;
        }
        self.0 = Some((update.stage, Instant::now()));
        let Update { stage, rows, bytes, total } = update;
        tracing::info!(rows, bytes, total, "{stage}");
    }
}
