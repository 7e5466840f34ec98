//! The processes behind a pod. They are visible where the nodes run on this
//! machine, as those of tests/cluster do.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Ids of a pod's processes whose command line has `word` as an argument.
pub fn of_pod(pod: &Value, word: &str) -> Result<Vec<u32>> {
    let uid = pod["metadata"]["uid"].as_str().context("pod without uid")?;
    let forms = [format!("pod{uid}"), format!("pod{}", uid.replace('-', "_"))];
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let cgroups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if forms.iter().any(|form| cgroups.contains(form)) && command.split('\0').any(|w| w == word)
        {
            found.push(id);
        }
    }
    ensure!(
        !found.is_empty(),
        "pod {uid} has no process with the argument {word:?} on this machine"
    );
    Ok(found)
}

/// `kill -SIGNAL ID`.
pub fn signal(id: u32, signal: &str) -> Result<()> {
    let done = std::process::Command::new("kill")
        .args([&format!("-{signal}"), &id.to_string()])
        .status()?;
    ensure!(done.success(), "kill -{signal} {id} failed");
    Ok(())
}
