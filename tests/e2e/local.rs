//! `hearth run`: the same YAML on this machine.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;
use std::process::{Command, Output};

use hearth_tests::{jobs, tiny};

/// Binaries of this build.
fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let directory = this.parent().unwrap().parent().unwrap();
    let path = directory.join(name);
    assert!(path.exists(), "{} is not built: run `make build`", path.display());
    path
}

fn run(job: &str) -> (tempfile::TempDir, Output) {
    let home = tempfile::tempdir().unwrap();
    let (models, data) = (home.path().join("models"), home.path().join("data"));
    jobs::fill_directories(&models, &data).unwrap();
    let file = home.path().join("job.yaml");
    tiny::write_file(&file, job.as_bytes()).unwrap();
    let done = Command::new(binary("hearth"))
        .arg("run")
        .arg(&file)
        .arg("--worker")
        .arg(binary("hearth-worker"))
        .args(["--volume", &format!("models={}", models.display())])
        .args(["--volume", &format!("data={}", data.display())])
        .output()
        .unwrap();
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
