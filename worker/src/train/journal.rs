//! The run's figures over time, for plots: `metrics.jsonl`, and the same in
//! TensorBoard's files below `runs/`, under the tags of transformers'
//! TensorBoardCallback.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;
use crate::files::write_atomically;
use crate::monitor::Probe;
use crate::monitor::tensorboard::EventWriter;

/// Both, open at their ends.
pub struct Journal {
    path: PathBuf,
    file: fs::File,
    events: EventWriter,
    /// Step of the newest evaluation that an earlier attempt left.
    evaluated: Option<u64>,
    probe: Probe,
}

impl Journal {
    /// Opens the journal of a run that stands at `step`. What a lost attempt
    /// wrote after that step is dropped, for it is made again.
    pub fn open(output: &Path, step: u64, probe: Probe) -> Result<Self, Error> {
        let path = output.join("metrics.jsonl");
        let read = || {
            let old = match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                other => other?,
            };
            // A damaged byte costs its line, not the run.
            let old = String::from_utf8_lossy(&old);
            let (kept, evaluated) = up_to(&old, step);
            write_atomically(&path, |out| out.write_all(kept.as_bytes()))?;
            Ok((fs::File::options().append(true).open(&path)?, evaluated))
        };
        let (file, evaluated) = read().map_err(failed(&path))?;
        let events =
            EventWriter::new(&output.join("runs"), i64::try_from(step).unwrap_or(i64::MAX));
        Ok(Self { path, file, events, evaluated, probe })
    }

    /// Appends one line; it must have a field `step`. A training line also
    /// gets what the process and its GPU use, as `system`. An evaluation that
    /// an earlier attempt told of already is not told again.
    pub fn append(&mut self, line: &Value) -> Result<(), Error> {
        let mut line = line.clone();
        let step = line.get("step").and_then(Value::as_u64);
        if line.get("eval").is_none() {
            line["system"] = self.probe.look().into();
        } else if step.is_some() && step == self.evaluated {
            return Ok(());
        }
        self.file.write_all(format!("{line}\n").as_bytes()).map_err(failed(&self.path))?;
        let step = step.and_then(|step| i64::try_from(step).ok()).unwrap_or(0);
        let added = self.events.add(step, &scalars(&line));
        added.map_err(failed(self.events.folder()))
    }

    /// Waits until all lines are on the disk.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(failed(&self.path))?;
        self.events.sync().map_err(failed(self.events.folder()))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    |source| Error::Output { path, source }
}

/// The whole lines up to `step`, and the step of the newest evaluation in them.
fn up_to(old: &str, step: u64) -> (String, Option<u64>) {
    let (mut kept, mut evaluated) = (String::new(), None);
    for line in old.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let Some(of) = value.get("step").and_then(Value::as_u64).filter(|of| *of <= step) else {
            continue;
        };
        kept.push_str(line);
        if value.get("eval").is_some() {
            evaluated = Some(of);
        }
    }
    (kept, evaluated)
}

/// Tags and values of a line: `train/loss`, `eval/f1`, `system/cpu_cores`.
fn scalars(line: &Value) -> Vec<(String, f64)> {
    let tagged = |object: &Value, prefix: &str| -> Vec<(String, f64)> {
        let fields = object.as_object().into_iter().flatten();
        let numbers = fields.filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)));
        numbers.map(|(name, value)| (format!("{prefix}/{}", tag(name)), value)).collect()
    };
    let Some(eval) = line.get("eval") else {
        let mut train = tagged(line, "train");
        train.retain(|(tag, _)| tag != "train/step");
        train.extend(line.get("system").iter().flat_map(|system| tagged(system, "system")));
        return train;
    };
    let mut scalars = tagged(eval, "eval");
    let of = |name: &str| eval.get(name).and_then(Value::as_f64);
    if let (Some(samples), Some(seconds)) = (of("samples"), of("seconds"))
        && seconds > 0.0
    {
        scalars.push(("eval/samples_per_second".to_owned(), samples / seconds));
    }
    scalars
}

/// transformers' name of a field: `gradNorm` is `grad_norm`, and the seconds of
/// an evaluation are its `runtime`.
fn tag(name: &str) -> String {
    if name == "seconds" {
        return "runtime".to_owned();
    }
    name.chars().fold(String::new(), |mut tag, letter| {
        if letter.is_ascii_uppercase() {
            tag.push('_');
        }
        tag.push(letter.to_ascii_lowercase());
        tag
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn open(output: &Path, step: u64) -> Journal {
        Journal::open(output, step, Probe::default()).unwrap()
    }

    fn lines(output: &Path) -> Vec<Value> {
        let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn steps(output: &Path) -> Vec<u64> {
        lines(output).iter().filter_map(|line| line["step"].as_u64()).collect()
    }

    #[test]
    fn a_resumed_run_drops_what_it_will_write_again() {
        let output = tempfile::tempdir().unwrap();
        let mut journal = open(output.path(), 0);
        for step in [10, 20, 30] {
            journal.append(&json!({"step": step})).unwrap();
        }
        journal.file.write_all(b"{\"step\": 20, \"lo").unwrap();
        let mut journal = open(output.path(), 20);
        assert_eq!(steps(output.path()), [10, 20]);
        journal.append(&json!({"step": 30, "again": true})).unwrap();
        assert_eq!(steps(output.path()), [10, 20, 30]);
        assert_eq!(lines(output.path())[2]["again"], true);
    }

    #[test]
    fn a_damaged_line_is_dropped_alone() {
        let output = tempfile::tempdir().unwrap();
        let mut journal = open(output.path(), 0);
        journal.append(&json!({"step": 10})).unwrap();
        journal.file.write_all(b"{\"step\": \xff\xfe}\n").unwrap();
        journal.append(&json!({"step": 20})).unwrap();
        open(output.path(), 20);
        assert_eq!(steps(output.path()), [10, 20]);
    }

    #[test]
    fn an_evaluation_is_told_once_though_it_is_made_again() {
        let output = tempfile::tempdir().unwrap();
        let evaluation = |step| json!({"step": step, "eval": {"f1": 0.5}});
        let mut journal = open(output.path(), 0);
        journal.append(&json!({"step": 10})).unwrap();
        journal.append(&evaluation(10)).unwrap();
        // The attempt ended before it could save that the evaluation was done.
        let mut journal = open(output.path(), 10);
        journal.append(&evaluation(10)).unwrap();
        journal.append(&evaluation(20)).unwrap();
        assert_eq!(steps(output.path()), [10, 10, 20]);
    }

    #[test]
    fn tags_are_those_of_transformers() {
        let train = json!({"step": 3, "epoch": 0.5, "loss": 1.0, "learningRate": 0.1,
            "gradNorm": 2.0, "system": {"memoryBytes": 7}});
        let tags: BTreeMap<String, f64> = scalars(&train).into_iter().collect();
        let want = [
            "system/memory_bytes",
            "train/epoch",
            "train/grad_norm",
            "train/learning_rate",
            "train/loss",
        ];
        assert_eq!(tags.into_keys().collect::<Vec<_>>(), want);
        let eval = json!({"step": 3, "epoch": 0.5, "eval": {"loss": 1.0, "f1Macro": 0.5,
            "samples": 8, "seconds": 2.0, "f1ByClass": {"ham": 1.0}}});
        let want = [
            ("eval/f1_macro", 0.5),
            ("eval/loss", 1.0),
            ("eval/samples", 8.0),
            ("eval/runtime", 2.0),
            ("eval/samples_per_second", 4.0),
        ];
        let want: BTreeMap<String, f64> =
            want.into_iter().map(|(tag, value)| (tag.to_owned(), value)).collect();
        assert_eq!(scalars(&eval).into_iter().collect::<BTreeMap<_, _>>(), want);
    }
}
