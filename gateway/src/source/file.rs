//! A routing table in a file, for local use.

use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::{take_over, troubled};
use crate::metrics::TableTrouble;
use crate::state::State;

const POLL: Duration = Duration::from_millis(250);

/// Follows `path` for ever. Replace the file by renaming another over it: a
/// half-written one is no routing table, and is told as such until it is whole.
pub async fn follow(path: &Path, state: Arc<State>) {
    let mut before = None;
    loop {
        let now = tokio::fs::metadata(path).await.map(|metadata| stamp(&metadata)).ok();
        if before != Some(now) {
            match tokio::fs::read_to_string(path).await {
                Ok(text) => take_over(&state, &text),
                Err(error) => {
                    let message = format!("cannot read {}: {error}", path.display());
                    troubled(&state, TableTrouble::Missing, &message);
                }
            }
            before = Some(now);
        }
        sleep(POLL).await;
    }
}

/// What changes when a file is written or replaced.
fn stamp(metadata: &Metadata) -> (Option<SystemTime>, u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.modified().ok(), metadata.len(), metadata.ino())
}
