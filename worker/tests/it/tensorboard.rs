//! The real TensorBoard reads what a run writes, after a kill and a resume too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_worker::event::RankEvent;
use hearth_worker::monitor::tensorboard::EventWriter;
use serde_json::Value;

use crate::fixture::Fixture;
use crate::gang::Gang;

/// Steps and values by tag.
type Scalars = BTreeMap<String, Vec<(i64, f32)>>;

/// What TensorBoard's `EventAccumulator` finds in a folder.
fn read(folder: &Path, options: &[&str]) -> Scalars {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let setup = Command::new(repository.join("tests/setup/tensorboard.sh")).output().unwrap();
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    let python = String::from_utf8(setup.stdout).unwrap();
    let done = Command::new(python.trim())
        .arg(repository.join("worker/tests/it/read_events.py"))
        .arg(folder)
        .args(options)
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}

/// Event files in the order in which they were written.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// What `metrics.jsonl` says, under TensorBoard's tags.
fn journal(output: &Path, tags: &[(&str, &str)]) -> Scalars {
    let text = fs::read_to_string(output.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // Lines of evaluations say an epoch, too; TensorBoard gets it of training.
    let curve = |tag: &str, pointer: &str| {
        let point = |line: &Value| {
            #[expect(clippy::cast_possible_truncation, reason = "TensorBoard keeps 32 bits")]
            let value = line.pointer(pointer)?.as_f64()? as f32;
            if tag.starts_with("train/") && line.get("loss").is_none() {
                return None;
            }
            Some((line["step"].as_i64()?, value))
        };
        lines.iter().filter_map(point).collect()
    };
    tags.iter().map(|(tag, pointer)| ((*tag).to_owned(), curve(tag, pointer))).collect()
}

#[test]
fn tensorboard_reads_a_resumed_run_as_one() {
    let fixture = Fixture::new(0.1);
    let config = fixture.config("run", |config| {
        config["training"]["numTrainEpochs"] = 2.into();
        config["training"]["evalStrategy"] = "Steps".into();
        config["training"]["evalSteps"] = 5.into();
        config["data"]["evalSplit"] = 0.2.into();
    });
    let mut gang = Gang::start(&config, 1);
    gang.until(|_, event| matches!(event, RankEvent::Checkpoint { .. }));
    gang.until(|_, event| matches!(event, RankEvent::Step(report) if report.step >= 7));
    gang.kill();
    let resumed = Gang::run(&config, 1).succeeded();
    assert_eq!(resumed.resumed_from(), Some(5));

    let runs = fixture.path("run/runs");
    assert_eq!(files(&runs).len(), 2, "one file an attempt");
    let seen = read(&runs, &[]);
    let want = journal(
        &fixture.path("run"),
        &[
            ("train/loss", "/loss"),
            ("train/grad_norm", "/gradNorm"),
            ("train/learning_rate", "/learningRate"),
            ("train/epoch", "/epoch"),
            ("eval/loss", "/eval/loss"),
            ("eval/accuracy", "/eval/accuracy"),
            ("eval/f1", "/eval/f1"),
            ("system/memory_bytes", "/system/memoryBytes"),
        ],
    );
    let steps = |scalars: &Scalars, tag: &str| -> Vec<i64> {
        scalars[tag].iter().map(|(step, _)| *step).collect()
    };
    assert_eq!(steps(&seen, "train/loss"), (1..=10).map(|n| 2 * n).collect::<Vec<_>>());
    assert_eq!(steps(&seen, "eval/f1"), [5, 10, 15, 20]);
    for (tag, curve) in &want {
        assert_eq!(&seen[tag], curve, "{tag}");
    }
    // The planted bug: a reader that is not told where training was taken up
    // sees the lost attempt's steps twice.
    let all = read(&runs, &["all"]);
    assert!(all["train/loss"].len() > seen["train/loss"].len(), "{:?}", all["train/loss"]);
}

#[test]
fn tensorboard_refuses_a_record_whose_checksum_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::new(folder.path(), 0);
    for step in 1..=3 {
        writer.add(step, &[("train/loss".to_owned(), 0.0)]).unwrap();
    }
    let good = read(folder.path(), &[]);
    assert_eq!(good["train/loss"], [(1, 0.0), (2, 0.0), (3, 0.0)]);
    // The planted bug: the last byte is of the last record's checksum.
    let file = &files(folder.path())[0];
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    hearth_worker::files::write_synced(file, |out| std::io::Write::write_all(out, &bytes)).unwrap();
    assert_eq!(read(folder.path(), &[])["train/loss"], [(1, 0.0), (2, 0.0)]);
}
