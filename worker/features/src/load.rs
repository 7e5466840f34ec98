//! Parquet files into the store.
//!
//! A script of the server compares `__time` and replaces the hash in one step, so that two loads at once, or a load
//! beside a program that writes what just happened, leave the newest row, too; comparing here would lose such a
//! race between reading and writing. It also spares a round trip. An entity is replaced whole: a field that a
//! newer row lacks would otherwise pass for as new as that row.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hearth_crds::features::{FeatureView, TIME_FIELD};
use redis::aio::{ConnectionLike as _, MultiplexedConnection};
use redis::{Pipeline, RedisError, Value};
use tokio::sync::mpsc;

use crate::config::View;
use crate::error::LoadError;
use crate::layout::redis_key;
use crate::read::{self, Batch, Columns, Entry};
use crate::store::Store;

/// KEYS: the hash. ARGV: `__time`, milliseconds to live or 0, then fields and texts.
/// Answers 0 where a newer row is there, 1 where none was, 2 where one was replaced.
const SCRIPT: &str = r"
local old = tonumber(redis.call('HGET', KEYS[1], '__time') or '')
if old and old > tonumber(ARGV[1]) then return 0 end
local was = redis.call('EXISTS', KEYS[1])
-- A server that is short of memory refuses here, while the old row is whole.
redis.call('HSET', KEYS[1], '__time', ARGV[1])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if ARGV[2] ~= '0' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1 + was
";

/// Longest that connecting takes.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest that a batch's answers take.
const ANSWER: Duration = Duration::from_secs(30);
/// Attempts at a batch; the waits between them double from [`FIRST_DELAY`].
const ATTEMPTS: u32 = 6;
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// How files are loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// How long an entity stays in the store after it was last written; for good where left out.
    pub time_to_live: Option<Duration>,
    /// Rows that are read, and sent, at once; at least 1.
    pub batch_rows: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { time_to_live: None, batch_rows: 1000 }
    }
}

/// What became of rows: `rows` is the sum of the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Rows that were read.
    pub rows: u64,
    /// Written, for an entity that was not there.
    pub created: u64,
    /// Written, in the place of what was there: an older row, or one of the same time.
    pub replaced: u64,
    /// Passed over, since the store or another row of the batch was newer.
    pub older: u64,
    /// Passed over, since they name no entity.
    pub without_key: u64,
    /// Passed over, since they have no time.
    pub without_time: u64,
}

/// Loads files: of each entity the newest row stays, be it in one of them, in any order, or in the store already.
/// Rows of the same millisecond: the last one. Holds two batches and the pages that Parquet reads at once in
/// memory. Must run in tokio.
///
/// A connection that breaks is made anew for some seconds; what was written before is then counted as replaced.
pub async fn load(
    store: &Store,
    files: &[PathBuf],
    view: &FeatureView,
    columns: &Columns,
    options: &LoadOptions,
) -> Result<LoadReport, LoadError> {
    let view = Arc::new(View::new(view)?);
    let (send, mut batches) = mpsc::channel(1);
    let reader = {
        let (view, columns, files) = (Arc::clone(&view), columns.clone(), files.to_vec());
        let rows = options.batch_rows.max(1);
        tokio::task::spawn_blocking(move || read_files(&files, &view, &columns, rows, &send))
    };
    let mut writer = Writer {
        store,
        view: &view,
        time_to_live: options.time_to_live.map_or(0, |life| life.as_millis().max(1)),
        connection: None,
        report: LoadReport::default(),
    };
    while let Some(batch) = batches.recv().await {
        writer.write(&batch).await?;
    }
    match reader.await {
        Ok(read) => read.map(|()| writer.report),
        Err(error) => Err(LoadError::Read { path: PathBuf::new(), source: error.into() }),
    }
}

fn read_files(
    files: &[PathBuf],
    view: &View,
    columns: &Columns,
    rows: usize,
    send: &mpsc::Sender<Batch>,
) -> Result<(), LoadError> {
    for path in files {
        read::batches(path, view, columns, rows, |batch, first| {
            let batch = read::entries(batch, first, view, columns)?;
            // Nobody takes it once writing has failed.
            Ok(send.blocking_send(batch).is_ok())
        })?;
    }
    Ok(())
}

struct Writer<'a> {
    store: &'a Store,
    view: &'a View,
    /// Milliseconds; 0 for good.
    time_to_live: u128,
    /// With the script's name there.
    connection: Option<(MultiplexedConnection, String)>,
    report: LoadReport,
}

/// Why a batch was not written.
enum Failed {
    /// It may be another time.
    Passing(RedisError),
    /// This entry, by its number, for this reason.
    Entry(usize, String),
}

impl Writer<'_> {
    async fn write(&mut self, batch: &Batch) -> Result<(), LoadError> {
        let mut delay = FIRST_DELAY;
        for attempt in 1.. {
            match self.attempt(&batch.entries).await {
                Ok(answers) => {
                    self.count(batch, &answers);
                    break;
                }
                Err(Failed::Entry(number, code)) => {
                    let key = batch.entries.get(number).map(|entry| self.key(entry));
                    return Err(LoadError::Refused { key: key.unwrap_or_default(), code });
                }
                Err(Failed::Passing(source)) if attempt == ATTEMPTS => {
                    return Err(LoadError::Down { rows: self.report.rows, source });
                }
                Err(Failed::Passing(error)) => {
                    let why = self.store.why(&error);
                    tracing::warn!(address = self.store.address(), why, "a batch is sent again");
                    self.connection = None;
                    tokio::time::sleep(delay).await;
                    delay *= 2;
                }
            }
        }
        Ok(())
    }

    /// Writes entries; for each, what the script answers.
    async fn attempt(&mut self, entries: &[Entry]) -> Result<Vec<i64>, Failed> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let (mut connection, script) = match self.connection.take() {
            Some(kept) => kept,
            None => self.connect().await.map_err(Failed::Passing)?,
        };
        let mut commands = Pipeline::with_capacity(entries.len());
        for entry in entries {
            self.command(entry, &script, &mut commands);
        }
        let answers = connection.req_packed_commands(&commands, 0, entries.len()).await;
        let answers = answers.map_err(Failed::Passing)?;
        let mut written = Vec::with_capacity(answers.len());
        for (number, answer) in answers.into_iter().enumerate() {
            written.push(written_of(answer, number)?);
        }
        self.connection = Some((connection, script));
        Ok(written)
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, String), RedisError> {
        let mut connection = self.store.connect(CONNECT, ANSWER).await?;
        let mut load = redis::cmd("SCRIPT");
        let script = load.arg("LOAD").arg(SCRIPT).query_async(&mut connection).await?;
        Ok((connection, script))
    }

    fn command(&self, entry: &Entry, script: &str, commands: &mut Pipeline) {
        commands.cmd("EVALSHA").arg(script).arg(1).arg(self.key(entry)).arg(entry.time);
        commands.arg(self.time_to_live.to_string()).arg(TIME_FIELD).arg(entry.time);
        for (number, text) in &entry.fields {
            commands.arg(&self.view.features[*number].field).arg(text);
        }
    }

    fn key(&self, entry: &Entry) -> String {
        redis_key(&self.view.entity, &entry.entity)
    }

    fn count(&mut self, batch: &Batch, answers: &[i64]) {
        let report = &mut self.report;
        report.rows += batch.rows;
        report.older += batch.older;
        report.without_key += batch.without_key;
        report.without_time += batch.without_time;
        for answer in answers {
            match answer {
                0 => report.older += 1,
                1 => report.created += 1,
                _ => report.replaced += 1,
            }
        }
    }
}

/// What the script answered, or why it did not.
fn written_of(answer: Value, number: usize) -> Result<i64, Failed> {
    let error = match answer {
        Value::Int(written) => return Ok(written),
        Value::ServerError(error) => RedisError::from(error),
        _ => return Err(Failed::Entry(number, "an answer of another kind".to_owned())),
    };
    match error.code() {
        Some("LOADING" | "NOSCRIPT" | "MASTERDOWN" | "TRYAGAIN" | "BUSY") => {
            Err(Failed::Passing(error))
        }
        code => Err(Failed::Entry(number, code.unwrap_or("ERR").to_owned())),
    }
}
