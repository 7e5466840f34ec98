use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hearth_crds::preparation::PrepareConfig;

use crate::fixture::{Room, bytes, full, series, tabular, textual};

/// Runs the program on `config`, whose output is `output`.
pub(crate) fn start(room: &Room, config: &PrepareConfig, output: &Path, more: &[&str]) -> Child {
    let config = PrepareConfig { output: output.to_owned(), ..config.clone() };
    let text = serde_json::to_string(&config).unwrap();
    let name = output.file_name().unwrap().to_string_lossy();
    let path = room.file(&format!("{name}.json"), text).path;
    Command::new(env!("CARGO_BIN_EXE_hearth-prepare"))
        .arg(path)
        .args(["--part-bytes", "8192", "--chunk-bytes", "1024", "--shard-bytes", "32768"])
        .args(more)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub(crate) fn finish(child: Child) -> Result<(), String> {
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(told) }
}

/// The one result below `output`.
pub(crate) fn result(output: &Path) -> PathBuf {
    let found: Vec<PathBuf> =
        fs::read_dir(output).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// How far a run that is under way has come: files that are whole.
pub(crate) fn whole_files(output: &Path) -> usize {
    let Ok(partial) = fs::read_dir(output) else { return 0 };
    let partial: Vec<PathBuf> = partial.flatten().map(|entry| entry.path()).collect();
    let mut count = 0;
    let mut directories = partial;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else if !entry.file_name().to_string_lossy().starts_with('.') {
                count += 1;
            }
        }
    }
    count
}

#[test]
fn a_run_that_is_killed_goes_on_and_writes_the_same_bytes() {
    let room = Room::new();
    let stops = [0, 1, 20, 60, 100, 150, 200, 215];
    killed_and_compared(&room, &full(&room, 4000), &stops);
}

#[test]
fn a_table_whose_run_is_killed_has_the_same_bytes() {
    let room = Room::new();
    killed_and_compared(&room, &tabular(&room, 4000), &[0, 30, 80, 90, 95, 98, 100, 105]);
}

#[test]
fn windows_whose_run_is_killed_have_the_same_bytes() {
    let room = Room::new();
    killed_and_compared(&room, &series(&room, 4000), &[0, 10, 20, 30, 40, 45, 48, 50]);
}

#[test]
fn texts_made_of_texts_are_the_same_after_kills() {
    let room = Room::new();
    killed_and_compared(&room, &textual(&room, 4000), &[0, 60, 150, 200, 210, 215, 220, 225]);
}

/// Kills runs once so many files are whole, and compares what comes of them in the end.
fn killed_and_compared(room: &Room, config: &PrepareConfig, stops: &[usize]) {
    let output = room.path("whole");
    finish(start(room, config, &output, &["--threads", "2"])).unwrap();
    let want = bytes(&result(&output));

    let mut killed = 0;
    for (index, stop_at) in stops.iter().copied().enumerate() {
        let output = room.path(&format!("killed-{index}"));
        // It dies twice on its way: also a run that goes on is killed.
        for stop_at in [stop_at, stop_at + 7] {
            let mut child = start(room, config, &output, &["--threads", "2"]);
            while child.try_wait().unwrap().is_none() && whole_files(&output) < stop_at {
                std::thread::sleep(Duration::from_micros(200));
            }
            let before = child.try_wait().unwrap().is_none();
            child.kill().unwrap();
            child.wait().unwrap();
            killed += usize::from(before);
        }
        let threads = if index % 2 == 0 { "1" } else { "2" };
        finish(start(room, config, &output, &["--threads", threads])).unwrap();
        assert_eq!(bytes(&result(&output)), want, "killed at {stop_at} files");
    }
    assert!(killed >= 10, "{killed} runs were killed before they ended");
}

#[test]
fn what_an_earlier_run_left_is_used_and_the_comparison_can_fail() {
    let room = Room::new();
    let config = full(&room, 4000);
    let output = room.path("whole");
    finish(start(&room, &config, &output, &[])).unwrap();
    let want = bytes(&result(&output));

    let output = room.path("planted");
    let mut child = start(&room, &config, &output, &[]);
    while whole_files(&output) < 40 {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // A report that lies is believed: the run that goes on has used it.
    let partial = fs::read_dir(&output).unwrap().flatten().find(|entry| entry.path().is_dir());
    let report = partial.unwrap().path().join("work/train/part-00000.json");
    let text = fs::read_to_string(&report).unwrap();
    let planted = text.replacen("\"dropped\": {", "\"dropped\": {\"planted\": 1", 1);
    assert_ne!(planted, text);
    #[expect(clippy::disallowed_methods, reason = "damage is meant")]
    fs::write(&report, planted).unwrap();
    finish(start(&room, &config, &output, &[])).unwrap();
    let found = bytes(&result(&output));
    assert_ne!(found["card.json"], want["card.json"]);
    assert_eq!(found["train/00000.parquet"], want["train/00000.parquet"]);
}
