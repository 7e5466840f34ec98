//! How much memory a rank may take, and how many samples fit into it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::write_atomically;

/// A control group's limit, as a process in it sees it (cgroups(7), version 2).
const CGROUP_LIMIT: &str = "/sys/fs/cgroup/memory.max";

/// Bounds this process's memory to its share of the machine's or the pod's, so that an
/// allocation fails and can be explained where the kernel would kill the whole pod. Gives the
/// bound in bytes; `None` where there is no limit.
pub fn bound(ranks_here: usize) -> Option<u64> {
    let asked = std::env::var("HEARTH_MEMORY_BYTES").ok().and_then(|bytes| bytes.parse().ok());
    let of_pod = || Some(pod_limit()? / ranks_here.max(1) as u64);
    let bytes: u64 = asked.or_else(of_pod)?;
    let maximum = getrlimit(Resource::Data).maximum;
    let limit = Rlimit { current: Some(bytes), maximum };
    if let Err(error) = setrlimit(Resource::Data, limit) {
        tracing::warn!(%error, bytes, "memory is not bounded: the kernel kills what takes too much");
        return None;
    }
    Some(bytes)
}

/// The bytes that this pod's memory is bounded to; `None` where it is not.
pub fn pod_limit() -> Option<u64> {
    std::fs::read_to_string(CGROUP_LIMIT).ok()?.trim().parse().ok()
}

/// Most bytes of memory that this process held (`VmHWM` of proc_pid_status(5)).
pub fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = field.and_then(|field| field.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// `.hearth/batch.json` of a job's output directory: the batch that fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FittingBatch {
    /// Of the run that it was found for.
    pub settings: String,
    /// Samples in one forward pass.
    pub per_device_train_batch_size: usize,
}

impl FittingBatch {
    /// What an earlier attempt of the run with these `settings` found out.
    pub fn read(output: &Path, settings: &str) -> Option<usize> {
        let bytes = std::fs::read(Self::path(output)).ok()?;
        let found: Self = serde_json::from_slice(&bytes).ok()?;
        let size = found.per_device_train_batch_size;
        (found.settings == settings && size > 0).then_some(size)
    }

    /// Leaves it for the next attempt. Ranks that write at once write the same.
    pub fn write(&self, output: &Path) -> Result<(), Error> {
        let path = Self::path(output);
        let failed = |source| Error::Output { path: path.clone(), source };
        std::fs::create_dir_all(output.join(".hearth")).map_err(failed)?;
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        write_atomically(&path, |file| file.write_all(&bytes)).map_err(failed)
    }

    fn path(output: &Path) -> PathBuf {
        output.join(".hearth/batch.json")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_found_again_by_the_same_run_alone() {
        let output = tempfile::tempdir().unwrap();
        assert_eq!(FittingBatch::read(output.path(), "a"), None);
        let fits = FittingBatch { settings: "a".into(), per_device_train_batch_size: 4 };
        fits.write(output.path()).unwrap();
        assert_eq!(FittingBatch::read(output.path(), "a"), Some(4));
        assert_eq!(FittingBatch::read(output.path(), "b"), None);
    }

    #[test]
    fn this_process_has_a_peak() {
        assert!(peak() > 1 << 20);
    }
}
