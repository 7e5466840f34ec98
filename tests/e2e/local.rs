//! `hearth run`: the same YAML on this machine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use hearth_tests::cluster::await_value;
use hearth_tests::{jobs, processes, tiny};
use tempfile::TempDir;

/// Binaries of this build.
fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let directory = this.parent().unwrap().parent().unwrap();
    let path = directory.join(name);
    assert!(path.exists(), "{} is not built: run `make build`", path.display());
    path
}

/// A directory with the tiny model, its rows and a job.
fn home_of(job: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    jobs::fill_directories(&home.path().join("models"), &home.path().join("data")).unwrap();
    tiny::write_file(&home.path().join("job.yaml"), job.as_bytes()).unwrap();
    home
}

/// `hearth run` of that job.
fn hearth_run(home: &Path) -> Command {
    let mut command = Command::new(binary("hearth"));
    command
        .arg("run")
        .arg(home.join("job.yaml"))
        .arg("--worker")
        .arg(binary("hearth-worker"))
        .args(["--volume", &format!("models={}", home.join("models").display())])
        .args(["--volume", &format!("data={}", home.join("data").display())]);
    command
}

fn run(job: &str) -> (TempDir, Output) {
    let home = home_of(job);
    let done = hearth_run(home.path()).output().unwrap();
    (home, done)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_job_runs_on_this_machine_with_two_workers_and_leaves_a_model() {
    let (home, done) = run(&jobs::training_job("local", 2, 120, |_| {}));
    let said = text(&done.stdout) + &text(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert!(said.contains("120"), "{said}");
    assert!(home.path().join("models/local/model/config.json").exists());
}

#[test]
fn a_bad_row_ends_the_run_with_its_exit_code_and_sentence() {
    let (_home, done) = run(&jobs::training_job("local", 1, 20, |job| {
        job["spec"]["data"]["train"]["label"] = "verdict".into();
    }));
    let said = text(&done.stdout) + &text(&done.stderr);
    assert_eq!(done.status.code(), Some(65), "{said}");
    assert!(said.contains("verdict") && said.contains("rows.jsonl"), "{said}");
}

#[test]
fn an_unknown_field_is_refused_by_its_path() {
    let (_home, done) = run(&jobs::training_job("local", 1, 20, |job| {
        job["spec"]["training"]["learningrate"] = 1.into();
    }));
    let said = text(&done.stdout) + &text(&done.stderr);
    assert!(!done.status.success());
    assert!(said.contains("spec.training.learningrate"), "{said}");
}

#[test]
fn ctrl_c_saves_and_the_next_run_goes_on_from_there_to_the_same_weights() {
    let job = jobs::training_job("local", 2, 600, |_| {});
    let (twin, done) = run(&job);
    assert!(done.status.success(), "{}", text(&done.stderr));

    let home = home_of(&job);
    let mut first = hearth_run(home.path()).spawn().unwrap();
    let saved = home.path().join("models/local/checkpoints/step-200/manifest.json");
    await_value(Duration::from_mins(1), || Ok(saved.exists()), &|exists| *exists).unwrap();
    processes::signal(first.id(), "INT").unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(130));
    assert!(!home.path().join("models/local/model").exists(), "it trained to the end");

    let second = hearth_run(home.path()).output().unwrap();
    assert!(second.status.success(), "{}", text(&second.stderr));
    let weights = |home: &TempDir| {
        std::fs::read(home.path().join("models/local/model/model.safetensors")).unwrap()
    };
    assert!(weights(&home) == weights(&twin), "the weights differ from an undisturbed run's");
}
