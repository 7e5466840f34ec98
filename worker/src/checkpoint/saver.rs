//! Saves while training goes on: the training thread copies its share into
//! staging memory, and a thread of its own writes, hashes and completes.
//!
//! At most one save is in flight. A checkpoint is complete when rank 0 has
//! published its manifest, which names every rank's shard; all ranks learn of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::manifest::FileEntry;
use super::part::Part;
use super::reports::Reports;
use super::staging::{Staging, outline};
use super::store::{CheckpointStore, Saved, share_of};
use crate::error::Error;
use crate::train::state::TrainState;

/// How long a rank that ends with an error lets its save go on.
const LAST_CHANCE: Duration = Duration::from_secs(10);
/// Between two signs of life while waiting.
const BEAT: Duration = Duration::from_millis(200);

/// What to save.
#[derive(Debug)]
pub struct Request {
    /// Everything but tensors.
    pub state: TrainState,
    /// All parts that this rank holds.
    pub parts: Vec<Part>,
    /// Checkpoints to keep.
    pub keep: usize,
}

/// A save that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Optimizer step.
    pub step: u64,
    /// Its directory.
    pub path: PathBuf,
    /// Step of the best checkpoint.
    pub best: Option<u64>,
    /// Bytes of all files; 0 on other ranks than 0, which do not know.
    pub bytes: u64,
    /// Seconds from the request to the complete checkpoint.
    pub seconds: f64,
    /// Seconds of those in which training stood still.
    pub stall_seconds: f64,
    /// Why older checkpoints could not be removed, where that is so.
    pub not_removed: Option<String>,
}

/// Saves in the background.
#[derive(Debug)]
pub struct Saver {
    rank: usize,
    world_size: usize,
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    staging: Staging,
    busy: bool,
    saves: u64,
    leaving: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Job {
    /// Make memory for these.
    Allocate(Vec<Part>),
    /// Save what is staged.
    Save(Box<Staged>),
}

#[derive(Debug)]
struct Staged {
    number: u64,
    staging: Staging,
    state: TrainState,
    keep: usize,
    requested: Instant,
    stall: Duration,
}

/// The memory comes back, whatever became of the save.
#[derive(Debug)]
struct Done {
    staging: Staging,
    finished: Result<Option<Finished>, Error>,
}

/// What the thread has.
struct Writer {
    store: CheckpointStore,
    reports: Reports,
    leaving: Arc<AtomicBool>,
}

impl Saver {
    /// Starts the thread.
    pub fn start(store: CheckpointStore, reports: Reports) -> Result<Self, Error> {
        let (rank, world_size) = (reports.rank(), reports.world_size());
        let (jobs, inbox) = channel();
        let (outbox, done) = channel();
        let leaving = Arc::new(AtomicBool::new(false));
        let writer = Writer { store, reports, leaving: Arc::clone(&leaving) };
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || writer.work(&inbox, &outbox))
            .map_err(|error| Error::Internal(format!("no thread for checkpoints: {error}")))?;
        Ok(Self {
            rank,
            world_size,
            jobs: Some(jobs),
            done,
            staging: Staging::default(),
            busy: false,
            saves: 0,
            leaving,
            thread: Some(thread),
        })
    }

    /// Makes staging memory for `parts` in the background, so that the first
    /// save need not.
    pub fn reserve(&mut self, parts: &[Part]) -> Result<(), Error> {
        let own = share_of(parts, self.rank, self.world_size);
        self.send(Job::Allocate(own.into_iter().map(outline).collect()))
    }

    /// Takes a copy of the state and begins to save it. The one in flight must
    /// have been [waited for](Self::wait). `requested` is when training stopped.
    pub fn save(&mut self, request: &Request, requested: Instant) -> Result<(), Error> {
        if self.busy {
            return Err(Error::Internal("a save was begun while another is in flight".into()));
        }
        let mut staging = std::mem::take(&mut self.staging);
        staging.copy(&share_of(&request.parts, self.rank, self.world_size))?;
        self.saves += 1;
        self.send(Job::Save(Box::new(Staged {
            number: self.saves,
            staging,
            state: request.state.clone(),
            keep: request.keep,
            requested,
            stall: requested.elapsed(),
        })))
    }

    /// The save that ended since the last call, if one did. That it failed is
    /// an error.
    pub fn poll(&mut self) -> Result<Option<Finished>, Error> {
        if !self.busy {
            return Ok(None);
        }
        match self.done.try_recv() {
            Ok(done) => self.take(done),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(gone()),
        }
    }

    /// Waits for the save in flight. `beat` is called while it takes its time.
    pub fn wait(&mut self, beat: &mut dyn FnMut()) -> Result<Option<Finished>, Error> {
        while self.busy {
            match self.done.recv_timeout(BEAT) {
                Ok(done) => return self.take(done),
                Err(RecvTimeoutError::Timeout) => beat(),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            }
        }
        Ok(None)
    }

    fn take(&mut self, done: Done) -> Result<Option<Finished>, Error> {
        self.busy = false;
        self.staging = done.staging;
        done.finished
    }

    fn send(&mut self, job: Job) -> Result<(), Error> {
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).map_err(|_| gone())?;
        self.busy = true;
        Ok(())
    }
}

impl Drop for Saver {
    /// On the way out with an error, a save that is nearly done completes.
    fn drop(&mut self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.jobs = None;
        if self.busy && self.done.recv_timeout(LAST_CHANCE).is_err() {
            tracing::warn!("a checkpoint that is being written is given up");
            return;
        }
        if let Some(thread) = self.thread.take() {
            // It has nothing left to do, or has told its panic already.
            let _ = thread.join();
        }
    }
}

impl Writer {
    fn work(&self, inbox: &Receiver<Job>, outbox: &Sender<Done>) {
        while let Ok(job) = inbox.recv() {
            let done = match job {
                Job::Allocate(parts) => match Staging::allocate(parts) {
                    Ok(staging) => Done { staging, finished: Ok(None) },
                    Err(error) => Done { staging: Staging::default(), finished: Err(error) },
                },
                Job::Save(staged) => {
                    let finished = self.save(&staged).map(Some);
                    Done { staging: staged.staging, finished }
                }
            };
            if outbox.send(done).is_err() {
                return;
            }
        }
    }

    fn save(&self, staged: &Staged) -> Result<Finished, Error> {
        let Staged { number, state, .. } = staged;
        let rank = self.reports.rank();
        let shard = self.store.write_shard(state.step, rank, staged.staging.parts());
        let (path, bytes) = if rank == 0 {
            let saved = self.complete(staged, shard);
            // The others must not wait for what will never come.
            let end = saved.as_ref().map(|_| ()).map_err(Error::sentence);
            self.reports.tell_end(*number, &end, &self.leaving)?;
            let saved = saved?;
            (saved.path, saved.bytes)
        } else {
            let report = shard.as_ref().map(Clone::clone).map_err(Error::sentence);
            self.reports.tell_shard(*number, &report)?;
            let end = self.reports.end(*number, &self.leaving);
            // What failed here says more than that rank 0 heard of it.
            shard?;
            end?;
            (self.store.path(state.step), 0)
        };
        let seconds = staged.requested.elapsed().as_secs_f64();
        let best = state.best.as_ref().map(|best| best.step);
        let not_removed = if rank == 0 {
            self.store.retain(staged.keep, best).err().map(|error| error.sentence())
        } else {
            None
        };
        let stall_seconds = staged.stall.as_secs_f64();
        Ok(Finished { step: state.step, path, best, bytes, seconds, stall_seconds, not_removed })
    }

    fn complete(&self, staged: &Staged, own: Result<FileEntry, Error>) -> Result<Saved, Error> {
        let mut files = vec![own?];
        let others = self.reports.shards(staged.number, &self.leaving)?;
        let path = self.store.path(staged.state.step);
        files.extend(others.map_err(|detail| Error::Checkpoint { path, detail })?);
        self.store.complete(&staged.state, self.reports.world_size(), files)
    }
}

fn gone() -> Error {
    Error::Internal("the thread that writes checkpoints has ended".into())
}
