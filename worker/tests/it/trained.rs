//! A tiny trained model, made by the worker itself.

use std::path::PathBuf;
use std::process::Command;

use crate::fixture::Fixture;

/// Trains the fixture's model for `steps` steps; the exported directory.
pub(crate) fn model(fixture: &Fixture, steps: u32) -> PathBuf {
    let config = fixture.config("job", |config| config["training"]["maxSteps"] = steps.into());
    let output = Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
        .arg("train")
        .arg("--config")
        .arg(config)
        .env("HEARTH_THREADS", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fixture.path("job/model")
}
