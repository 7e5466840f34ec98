//! What ranks tell each other of a save, from the thread that writes.
//!
//! By a connection of its own to the gang's store: the training thread's is
//! busy with one call at a time, and the process group is its alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nccl_rs::{StoreOptions, TcpStore};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::manifest::FileEntry;
use crate::error::Error;

/// Longest wait for another rank's report: it may be writing to a slow disk.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// How long rank 0 waits for the others to have read that a save is over.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// How long a rank that gives up still waits for the others.
const PARTING_WAIT: Duration = Duration::from_millis(500);
/// Longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// A rank's place among those that save together.
#[derive(Debug)]
pub struct Reports {
    rank: usize,
    world_size: usize,
    store: Option<TcpStore>,
}

impl Reports {
    /// Of a rank that trains alone.
    pub fn alone() -> Self {
        Self { rank: 0, world_size: 1, store: None }
    }

    /// Of one rank of several, by the store at `master`.
    pub fn connect(
        (rank, world_size): (usize, usize),
        (host, port): (&str, u16),
        timeout: Duration,
    ) -> Result<Self, Error> {
        if world_size <= 1 {
            return Ok(Self::alone());
        }
        let options = StoreOptions { timeout, world_size: None };
        Ok(Self { rank, world_size, store: Some(TcpStore::connect(host, port, &options)?) })
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// Tells rank 0 of this rank's shard of save `number`.
    pub(super) fn tell_shard(
        &self,
        number: u64,
        shard: &Result<FileEntry, String>,
    ) -> Result<(), Error> {
        self.tell(&format!("checkpoint/{number}/{}", self.rank), shard)
    }

    /// Rank 0: the other ranks' shards of save `number`, or what one of them says
    /// went wrong.
    pub(super) fn shards(
        &self,
        number: u64,
        leaving: &AtomicBool,
    ) -> Result<Result<Vec<FileEntry>, String>, Error> {
        (1..self.world_size)
            .map(|rank| {
                let key = format!("checkpoint/{number}/{rank}");
                let told: Result<FileEntry, String> = self.read(&key, leaving, LONGEST_WAIT)?;
                Ok(told.map_err(|detail| format!("rank {rank}: {detail}")))
            })
            .collect()
    }

    /// Rank 0: tells how save `number` ended, and waits until all know: the
    /// store goes away with this process.
    pub(super) fn tell_end(
        &self,
        number: u64,
        end: &Result<(), String>,
        leaving: &AtomicBool,
    ) -> Result<(), Error> {
        self.tell(&format!("checkpoint/{number}/end"), end)?;
        for rank in 1..self.world_size {
            let key = format!("checkpoint/{number}/{rank}/seen");
            if self.read::<()>(&key, leaving, LAST_WAIT).is_err() {
                tracing::warn!(rank, "has not taken note of the end of a save");
            }
        }
        Ok(())
    }

    /// Other ranks: waits for the end of save `number`.
    pub(super) fn end(&self, number: u64, leaving: &AtomicBool) -> Result<(), Error> {
        let end: Result<(), String> =
            self.read(&format!("checkpoint/{number}/end"), leaving, LONGEST_WAIT)?;
        self.tell(&format!("checkpoint/{number}/{}/seen", self.rank), &())?;
        end.map_err(|detail| Error::LeaderFailed { detail })
    }

    fn tell(&self, key: &str, message: &impl Serialize) -> Result<(), Error> {
        let Some(store) = &self.store else { return Ok(()) };
        let text = serde_json::to_vec(message)
            .map_err(|error| Error::Internal(format!("message {key}: {error}")))?;
        Ok(store.set(key, &text)?)
    }

    /// Looks for a message again and again: a wait within the store could not
    /// be broken off.
    fn read<T: DeserializeOwned>(
        &self,
        key: &str,
        leaving: &AtomicBool,
        longest: Duration,
    ) -> Result<T, Error> {
        let Some(store) = &self.store else {
            return Err(Error::Internal(format!("message {key} of no other rank")));
        };
        let mut limit = Instant::now() + longest;
        let mut parting = false;
        let mut pause = Duration::from_millis(1);
        while !store.contains(key)? {
            if !parting && leaving.load(Ordering::Relaxed) {
                parting = true;
                limit = limit.min(Instant::now() + PARTING_WAIT);
            }
            if Instant::now() >= limit {
                return Err(Error::Internal(format!("no rank sent {key}")));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE);
        }
        serde_json::from_slice(&store.get(key)?)
            .map_err(|error| Error::Internal(format!("message {key}: {error}")))
    }
}
