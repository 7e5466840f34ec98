//! `metrics.jsonl`: the run's figures over time, for plots.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::files::write_atomically;

/// The file, open at its end.
pub struct Journal {
    path: PathBuf,
    file: fs::File,
}

impl Journal {
    /// Opens `metrics.jsonl` of a run that stands at `step`. What a lost
    /// attempt wrote after that step is dropped, for it is made again.
    pub fn open(output: &Path, step: u64) -> io::Result<Self> {
        let path = output.join("metrics.jsonl");
        let old = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        let kept: String = old
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n') && step_of(line).is_some_and(|of| of <= step))
            .collect();
        write_atomically(&path, |out| out.write_all(kept.as_bytes()))?;
        let file = fs::File::options().append(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// Appends one line; it must have a field `step`.
    pub fn append(&mut self, line: &Value) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_drops_what_it_will_write_again() {
        let output = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(output.path(), 0).unwrap();
        for step in [10, 20, 30] {
            journal.append(&serde_json::json!({"step": step})).unwrap();
        }
        journal.file.write_all(b"{\"step\": 20, \"lo").unwrap();
        let mut journal = Journal::open(output.path(), 20).unwrap();
        journal.append(&serde_json::json!({"step": 30, "again": true})).unwrap();
        let text = fs::read_to_string(journal.path()).unwrap();
        assert_eq!(text.lines().filter_map(step_of).collect::<Vec<_>>(), [10, 20, 30]);
        assert!(
            text.ends_with("{\"step\":30,\"again\":true}\n") || text.contains("again"),
            "{text}"
        );
    }
}
