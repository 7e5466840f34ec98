//! The checkpoints of a job: find, load, write, complete, retain.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tch::Tensor;

use super::manifest::{FORMAT_VERSION, FileEntry, Flaw, Manifest};
use super::part::{Holders, Part};
use super::retention::{Action, after_save};
use super::storage::{self, Draft, Storage, step_name};
use super::{restore, shard};
use crate::error::Error;
use crate::train::state::TrainState;

const STATE: &str = "state.json";
/// Times that a shard is written whose storage breaks off.
const MOST_UPLOADS: u32 = 3;

/// `OUTPUT/checkpoints`.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    storage: Arc<dyn Storage>,
    generation: u32,
}

/// A checkpoint whose files were checked.
#[derive(Debug)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// Everything but tensors.
    pub state: TrainState,
    manifest: Manifest,
    storage: Arc<dyn Storage>,
}

/// What a search for a checkpoint found.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest good one.
    pub checkpoint: Option<Checkpoint>,
    /// Newer ones that cannot be used: directory and reason.
    pub rejected: Vec<(PathBuf, String)>,
}

/// A finished save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its directory.
    pub path: PathBuf,
    /// Bytes of all files.
    pub bytes: u64,
}

impl CheckpointStore {
    /// The checkpoints at a path or in `s3://BUCKET/PREFIX`.
    pub fn at(place: &str, generation: u32) -> Result<Self, Error> {
        Ok(Self::new(storage::from_uri(place)?, generation))
    }

    /// The checkpoints in `storage`.
    pub fn new(storage: Arc<dyn Storage>, generation: u32) -> Self {
        Self { storage, generation }
    }

    /// The place that holds all.
    pub fn place(&self) -> PathBuf {
        self.storage.place("")
    }

    /// Makes the place and removes what interrupted saves left in it. To be
    /// called by rank 0 before any rank saves.
    pub fn prepare(&self) -> Result<(), Error> {
        self.storage.prepare().map_err(|source| self.failed("", source))
    }

    /// The newest checkpoint whose every file is as its manifest says. Storage
    /// that cannot be asked is an error: a good checkpoint must not be passed over.
    pub fn newest(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut steps = self.storage.steps().map_err(|source| self.failed("", source))?;
        steps.sort_unstable();
        for step in steps.into_iter().rev() {
            match self.verified(step) {
                Ok(checkpoint) => {
                    found.checkpoint = Some(checkpoint);
                    break;
                }
                Err(Flaw::Damaged(reason)) => found.rejected.push((self.path(step), reason)),
                Err(Flaw::Unreachable { file, source }) => {
                    return Err(self.failed(&format!("{}/{file}", step_name(step)), source));
                }
            }
        }
        Ok(found)
    }

    /// Checks and opens the checkpoint of one step; the error says what is
    /// wrong with it.
    pub fn open(&self, step: u64) -> Result<Checkpoint, String> {
        self.verified(step).map_err(|flaw| match flaw {
            Flaw::Damaged(reason) => reason,
            Flaw::Unreachable { file, source } => format!("{file}: {source}"),
        })
    }

    /// Opens a checkpoint that another rank has checked.
    pub fn open_checked(&self, step: u64) -> Result<Checkpoint, Error> {
        let opened = Manifest::read(&*self.storage, step).and_then(|it| self.opened(step, it));
        opened.map_err(|flaw| match flaw {
            Flaw::Damaged(detail) => Error::Checkpoint { path: self.path(step), detail },
            Flaw::Unreachable { file, source } => {
                self.failed(&format!("{}/{file}", step_name(step)), source)
            }
        })
    }

    fn verified(&self, step: u64) -> Result<Checkpoint, Flaw> {
        self.opened(step, Manifest::verify(&*self.storage, step)?)
    }

    fn opened(&self, step: u64, manifest: Manifest) -> Result<Checkpoint, Flaw> {
        let file = manifest
            .files
            .iter()
            .find(|file| file.name.ends_with(STATE))
            .ok_or_else(|| Flaw::Damaged(format!("{STATE}: is not in the manifest")))?;
        let text = self
            .storage
            .read(&format!("{}/{}", step_name(step), file.name))
            .map_err(|error| Flaw::reading(STATE, error))?;
        let state = serde_json::from_slice(&text)
            .map_err(|error| Flaw::Damaged(format!("{STATE}: {error}")))?;
        let storage = Arc::clone(&self.storage);
        Ok(Checkpoint { path: self.path(step), state, manifest, storage })
    }

    /// Writes a rank's shard of a checkpoint in the making.
    pub fn write_shard(&self, step: u64, rank: usize, parts: &[Part]) -> Result<FileEntry, Error> {
        let draft = self.draft(step);
        let name = format!("rank-{rank}.safetensors");
        let path = format!("{}/{name}", draft.directory);
        let mut attempts = 1;
        let (bytes, hash) = loop {
            match shard::upload(&*self.storage, &path, parts) {
                Ok(sealed) => break sealed,
                // The parts are still here: an upload that was lost is made anew.
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionAborted
                        && attempts < MOST_UPLOADS =>
                {
                    tracing::warn!(attempts, "{error}; the shard is written again");
                    attempts += 1;
                }
                Err(source) => return Err(self.failed(&path, source)),
            }
        };
        Ok(FileEntry::new(format!("{}{name}", draft.prefix), bytes, hash))
    }

    /// Makes a checkpoint of all ranks' shards, on rank 0. Its manifest is what
    /// is written last.
    pub fn complete(
        &self,
        state: &TrainState,
        world_size: usize,
        mut files: Vec<FileEntry>,
    ) -> Result<Saved, Error> {
        let draft = self.draft(state.step);
        let path = format!("{}/{STATE}", draft.directory);
        let published = (|| {
            let text = serde_json::to_vec_pretty(state)?;
            let mut upload = self.storage.create(&path, text.len() as u64)?;
            upload.write(&text)?;
            upload.finish()?;
            let name = format!("{}{STATE}", draft.prefix);
            files.push(FileEntry::new(name, text.len() as u64, blake3::hash(&text)));
            let manifest =
                Manifest { format_version: FORMAT_VERSION, step: state.step, world_size, files };
            self.storage.publish(&draft, &manifest.to_text()?)?;
            Ok(manifest.bytes())
        })();
        match published {
            Ok(bytes) => Ok(Saved { path: self.path(state.step), bytes }),
            Err(source) => Err(self.failed(&step_name(state.step), source)),
        }
    }

    /// Removes what the retention rule gives up.
    pub fn retain(&self, keep: usize, best: Option<u64>) -> Result<(), Error> {
        let steps = self.storage.steps().map_err(|source| self.failed("", source))?;
        for Action::Delete(step) in after_save(&steps, keep, best) {
            self.storage.remove(step).map_err(|source| self.failed(&step_name(step), source))?;
        }
        Ok(())
    }

    fn draft(&self, step: u64) -> Draft {
        self.storage.draft(step, self.generation)
    }

    fn failed(&self, path: &str, source: io::Error) -> Error {
        Error::Output { path: self.storage.place(path), source }
    }

    /// The directory of a step.
    pub(super) fn path(&self, step: u64) -> PathBuf {
        self.storage.place(&step_name(step))
    }
}

impl Checkpoint {
    /// Copies the checkpoint's values into whole tensors. Every target must be
    /// in it, with its shape.
    pub fn restore(&self, targets: &[(String, Tensor)]) -> Result<(), Error> {
        let whole =
            |(name, tensor): &(String, Tensor)| Part::whole(name.clone(), tensor.shallow_clone());
        self.restore_parts(&targets.iter().map(whole).collect::<Vec<_>>())
    }

    /// Copies the checkpoint's values into parts of tensors, however the ranks
    /// that wrote it had divided them.
    pub fn restore_parts(&self, targets: &[Part]) -> Result<(), Error> {
        restore::fill(&*self.storage, &self.manifest, targets)
            .map_err(|detail| Error::Checkpoint { path: self.path.clone(), detail })
    }
}

/// The parts that a rank writes. What every rank holds goes to the rank with
/// the fewest bytes so far; of other copies, a hash of the place chooses one.
pub fn share_of(parts: &[Part], rank: usize, ranks: usize) -> Vec<&Part> {
    let mut load = vec![0; ranks];
    let mut own = Vec::new();
    for part in parts {
        let writer = match &part.holders {
            Holders::Every => {
                let lightest = (0..ranks).min_by_key(|rank| load[*rank]).unwrap_or(0);
                load[lightest] += part.tensor.numel();
                lightest
            }
            Holders::These(holders) if holders.is_empty() => rank,
            Holders::These(holders) => {
                let pick = blake3::hash(part.key().as_bytes()).as_bytes()[0];
                holders[usize::from(pick) % holders.len()]
            }
        };
        if writer == rank {
            own.push(part);
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_the_tensors_and_leave_none_out() {
        let parts: Vec<Part> = [9, 1, 4, 4, 2]
            .iter()
            .enumerate()
            .map(|(index, size)| {
                let tensor = Tensor::zeros([*size], (tch::Kind::Float, tch::Device::Cpu));
                Part::whole(index.to_string(), tensor)
            })
            .collect();
        let names = |rank| -> Vec<String> {
            share_of(&parts, rank, 2).into_iter().map(|part| part.name.clone()).collect()
        };
        assert_eq!(names(0), ["0", "4"], "9, then 2 at equal load");
        assert_eq!(names(1), ["1", "2", "3"], "1 + 4 + 4");
    }

    #[test]
    fn one_of_a_parts_holders_writes_it() {
        for index in 0..20 {
            let part = Part::slice(
                index.to_string(),
                vec![8],
                vec![4],
                Tensor::zeros([4], (tch::Kind::Float, tch::Device::Cpu)),
                Holders::These(vec![1, 3]),
            );
            let parts = [part];
            let writers: Vec<usize> =
                (0..4).filter(|rank| !share_of(&parts, *rank, 4).is_empty()).collect();
            assert!(writers == [1] || writers == [3], "{writers:?}");
        }
    }
}
