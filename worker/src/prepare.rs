//! `hearth-worker prepare`: raw rows, fetched where they are in a bucket → prepared ones, by
//! [`hearth_prepare`], and a word of which of them the job has.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use hearth_crds::preparation::{DataCard, DataStatus, Pointer, PrepareConfig, pointer};
use hearth_crds::worker_config::{DataFile, ExitCode, WorkerResult};
use hearth_prepare::{PrepareError, Prepared, Progress, Stage, Update};

use crate::config::ConfigError;
use crate::data::{DataError, source};
use crate::error::Error;
use crate::fetch::{FetchError, fetch_rows};
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
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
}

/// How a preparation failed: reason, sentence and exit code.
struct Told(&'static str, String, i32);

impl From<Failure> for Told {
    fn from(failure: Failure) -> Self {
        let known = |error: Error| Self(error.reason(), error.sentence(), error.exit_code() as i32);
        match failure {
            Failure::Config(error) => known(error.into()),
            Failure::Data(error) => known(error.into()),
            Failure::Fetch(error) => {
                Self(error.reason(), error.sentence(), error.exit_code() as i32)
            }
            Failure::Prepare(error) => {
                let code = match error.reason() {
                    "MissingInput" => ExitCode::NoInput,
                    "BadData" => ExitCode::Data,
                    "BadConfig" => ExitCode::Usage,
                    _ => ExitCode::Failure,
                };
                Self(error.reason(), error.sentence(), code as i32)
            }
        }
    }
}

impl Told {
    /// Names what was fetched as the job does, not by where it is now.
    fn of_sources(self, config: &PrepareConfig) -> Self {
        let rows = [Some(&config.train), config.eval.as_ref()].into_iter().flatten();
        let fetched = rows.filter(|rows| rows.uri.starts_with("s3://"));
        let sentence = fetched.fold(self.1, |text, DataFile { path, uri, .. }| {
            let path = path.display().to_string();
            if path.is_empty() { text } else { text.replace(&path, uri.trim_end_matches('/')) }
        });
        Self(self.0, sentence, self.2)
    }
}

/// Runs `hearth-worker prepare`; the process's exit code.
pub fn run(config: &Path) -> i32 {
    let ended = crate::config::read(config).map_err(|error| Failure::Config(error).into());
    let ended = ended.and_then(|mut config: PrepareConfig| {
        prepare(&mut config).map_err(|error| Told::from(error).of_sources(&config))
    });
    match ended {
        Ok(result) => {
            tracing::info!("{}", result.message);
            tell(&result)
        }
        Err(Told(reason, message, code)) => {
            tracing::error!("{message}");
            tell(&failure(reason, message, code))
        }
    }
}

fn prepare(config: &mut PrepareConfig) -> Result<WorkerResult, Failure> {
    obtain_sources(config)?;
    if config.text_fields.len() > 1 {
        // A conversation, a prompt with its answer, or a text: what the first row has.
        let known = source::first_fields(&config.train)?;
        config.text_fields.retain(|field| known.contains(field));
    }
    let prepared = hearth_prepare::run(config, &mut Log::default())?;
    point(config, &prepared)?;
    Ok(succeeded(config, &prepared))
}

/// Waits until the sources are there, as long as the job says, and fetches those in buckets. What of the
/// others is still missing then is told by whoever reads it.
fn obtain_sources(config: &mut PrepareConfig) -> Result<(), FetchError> {
    let longest = Duration::from_secs(u64::try_from(config.preparation.wait_seconds).unwrap_or(0));
    let until = Instant::now() + longest;
    let rows = [Some(&config.train.path), config.eval.as_ref().map(|rows| &rows.path)];
    let here = rows.into_iter().flatten().filter(|path| !path.as_os_str().is_empty());
    wait_for(here.chain(&config.synonyms).chain(&config.features), longest);
    fetch_rows(&mut config.train, &config.output, until)?;
    config.eval.as_mut().map_or(Ok(()), |rows| fetch_rows(rows, &config.output, until))
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
