//! Waiting for files that something else writes, and that appear under their names when they are whole.

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Waits until they are all there, no longer than `longest` in all. What is still missing then is told
/// by whoever reads it.
pub(crate) fn wait_for<'a>(paths: impl Iterator<Item = &'a PathBuf>, longest: Duration) {
    let began = Instant::now();
    for path in paths {
        let mut told = false;
        while !path.exists() && began.elapsed() < longest {
            if !told {
                tracing::info!(path = %path.display(), "waiting for data");
                told = true;
            }
            std::thread::sleep(LOOK_EVERY.min(longest));
        }
    }
}
