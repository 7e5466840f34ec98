//! What agent 0 keeps on disk: counters that survive its own death, and the
//! result, which is written exactly once.

use std::path::{Path, PathBuf};
use std::{fs, io};

use hearth_crds::worker_config::{Failure, JobIdentity, TrainConfig, WorkerResult};
use serde::{Deserialize, Serialize};

use super::terms::Carried;
use crate::files::write_atomically;

/// `.hearth/agent.json` of a job's output directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The job that it is about.
    pub job: JobIdentity,
    /// Differs for each run of the job.
    pub run: String,
    /// Newest generation started.
    pub generation: u32,
    /// Failures so far.
    pub restarts: u32,
    /// Agents of that generation.
    #[serde(default)]
    pub agents: u32,
    /// Ranks run.
    pub running: bool,
    /// `result.json` holds this run's result.
    pub finished: bool,
    /// The newest failure.
    pub last_failure: Option<Failure>,
}

impl Record {
    /// The counters that a new coordinator goes on from.
    pub fn carried(&self) -> Carried {
        Carried {
            generation: self.generation,
            restarts: self.restarts,
            was_running: self.running,
            agents: self.agents,
            last_failure: self.last_failure.clone(),
        }
    }
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct RecordError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// The files below a job's output directory.
#[derive(Clone, Debug)]
pub struct Files {
    record: PathBuf,
    result: PathBuf,
}

impl Files {
    /// Files of the job of `config`.
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            record: config.output.join(".hearth/agent.json"),
            result: config.output.join("result.json"),
        }
    }

    /// The record of this job, where there is one. A record of another job or
    /// one that does not parse is none: it counts nothing that matters here.
    pub fn record(&self, job: &JobIdentity) -> Option<Record> {
        let record: Record = read_json(&self.record)?;
        (record.job == *job).then_some(record)
    }

    /// The result of the run in `record`.
    pub fn result(&self, record: &Record) -> Option<WorkerResult> {
        if record.finished { read_json(&self.result) } else { None }
    }

    /// Writes the record.
    pub fn write_record(&self, record: &Record) -> Result<(), RecordError> {
        write_json(&self.record, record)
    }

    /// Writes the result, then the record that vouches for it.
    pub fn write_result(&self, result: &WorkerResult, record: &Record) -> Result<(), RecordError> {
        write_json(&self.result, result)?;
        write_json(&self.record, record)
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    let text = fs::read_to_string(path).ok()?;
    serde_json::from_str(&text)
        .inspect_err(
            |error| tracing::warn!(path = %path.display(), %error, "not what it should be"),
        )
        .ok()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RecordError> {
    write_atomically(path, |out| Ok(serde_json::to_writer_pretty(out, value)?))
        .map_err(|source| RecordError { action: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn record(uid: &str) -> Record {
        Record {
            job: JobIdentity { namespace: "a".into(), name: "b".into(), uid: uid.into() },
            run: "r".into(),
            generation: 3,
            restarts: 2,
            agents: 2,
            running: true,
            finished: false,
            last_failure: None,
        }
    }

    fn result() -> WorkerResult {
        WorkerResult {
            succeeded: true,
            reason: "Completed".into(),
            message: "Done.".into(),
            exit_code: 0,
            restarts: 2,
            progress: None,
            evaluations: Vec::new(),
            checkpoint: None,
            model: None,
            compression: None,
            notes: Vec::new(),
            data: None,
        }
    }

    fn files(directory: &Path) -> Files {
        Files {
            record: directory.join(".hearth/agent.json"),
            result: directory.join("result.json"),
        }
    }

    #[test]
    fn a_record_belongs_to_one_job() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let written = record("1");
        assert_eq!(files.record(&written.job), None);
        files.write_record(&written).unwrap();
        assert_eq!(files.record(&written.job), Some(written));
        assert_eq!(files.record(&record("2").job), None);
    }

    #[test]
    fn a_result_counts_only_with_the_record_that_vouches_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let mut record = record("1");
        files.write_result(&result(), &record).unwrap();
        assert_eq!(files.result(&record), None);
        record.finished = true;
        assert_eq!(files.result(&record), Some(result()));
    }

    #[test]
    fn a_torn_record_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        files.write_record(&record("1")).unwrap();
        let file = OpenOptions::new().write(true).open(&files.record).unwrap();
        file.set_len(20).unwrap();
        assert_eq!(files.record(&record("1").job), None);
    }
}
