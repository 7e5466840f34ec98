//! The directory of checkpoints: save, find, load.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::manifest::{FORMAT_VERSION, FileEntry, MANIFEST, Manifest};
use super::retention::{Action, after_save};
use super::shard;
use crate::error::Error;
use crate::files::{sync_directory, write_synced};
use crate::train::gang::Gang;
use crate::train::state::TrainState;

const STATE: &str = "state.json";

/// `OUTPUT/checkpoints`.
#[derive(Clone, Debug)]
pub struct CheckpointStore {
    directory: PathBuf,
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
    /// The checkpoints of a job's output directory.
    pub fn new(output: &Path, generation: u32) -> Self {
        Self { directory: output.join("checkpoints"), generation }
    }

    /// The directory that holds all.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the directory and removes what interrupted saves left in it. To
    /// be called by rank 0 before any rank saves.
    pub fn prepare(&self) -> Result<(), Error> {
        let failed = |source| Error::Output { path: self.directory.clone(), source };
        fs::create_dir_all(&self.directory).map_err(failed)?;
        for entry in fs::read_dir(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(".step-") {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint whose every file is as its manifest says.
    pub fn newest(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut steps = self.steps()?;
        steps.sort_unstable();
        for step in steps.into_iter().rev() {
            match self.open(step) {
                Ok(checkpoint) => {
                    found.checkpoint = Some(checkpoint);
                    break;
                }
                Err(reason) => found.rejected.push((self.path(step), reason)),
            }
        }
        Ok(found)
    }

    /// Checks and opens the checkpoint of one step; the error says what is
    /// wrong with it.
    pub fn open(&self, step: u64) -> Result<Checkpoint, String> {
        let path = self.path(step);
        let manifest = Manifest::verify(&path, step)?;
        let state = read_state(&path)?;
        Ok(Checkpoint { path, state, manifest })
    }

    /// Opens a checkpoint that another rank has checked.
    pub fn open_checked(&self, step: u64) -> Result<Checkpoint, Error> {
        let path = self.path(step);
        let read = || {
            let text = fs::read(path.join(MANIFEST)).map_err(|error| error.to_string())?;
            let manifest = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
            Ok((manifest, read_state(&path)?))
        };
        match read() {
            Ok((manifest, state)) => Ok(Checkpoint { path, state, manifest }),
            Err(detail) => Err(Error::Checkpoint { path, detail }),
        }
    }

    /// Saves a step. Every rank calls this with equal `tensors` and writes its
    /// share; rank 0 completes the checkpoint and gets it back.
    pub fn save(
        &self,
        state: &TrainState,
        tensors: &[(String, Tensor)],
        gang: &Gang,
    ) -> Result<Option<Saved>, Error> {
        let step = state.step;
        let partial = self.directory.join(format!(".step-{step}.{}", self.generation));
        let name = format!("rank-{}.safetensors", gang.rank());
        let own = share_of(tensors, gang.rank(), gang.world_size());
        let written = fs::create_dir_all(&partial)
            .and_then(|()| shard::write(&partial.join(&name), &own, &[]))
            .map_err(|source| Error::Output { path: partial.join(&name), source });
        let key = |rank| format!("checkpoint/{step}/{rank}");
        if !gang.leads() {
            // Rank 0 must not wait for a shard that will never come.
            let report = written.as_ref().map_err(Error::sentence).map(|(bytes, hash)| FileEntry {
                name,
                bytes: *bytes,
                blake3: hash.to_hex().to_string(),
            });
            gang.tell(&key(gang.rank()), &encode_report(&report))?;
            return written.map(|_| None);
        }
        let (bytes, hash) = written?;
        let mut files = vec![FileEntry { name, bytes, blake3: hash.to_hex().to_string() }];
        for rank in 1..gang.world_size() {
            let report = decode_report(&gang.read(&key(rank))?);
            files.push(report.map_err(|detail| Error::Checkpoint {
                path: partial.clone(),
                detail: format!("rank {rank}: {detail}"),
            })?);
        }
        let manifest =
            Manifest { format_version: FORMAT_VERSION, step, world_size: gang.world_size(), files };
        self.complete(&partial, state, manifest)
            .map(Some)
            .map_err(|source| Error::Output { path: self.path(step), source })
    }

    /// Removes what the retention rule gives up.
    pub fn retain(&self, keep: usize, best: Option<u64>) -> Result<(), Error> {
        for Action::Delete(step) in after_save(&self.steps()?, keep, best) {
            let path = self.path(step);
            // Under another name first: a half removed directory is no checkpoint.
            let doomed = self.directory.join(format!(".step-{step}.removed"));
            fs::rename(&path, &doomed)
                .and_then(|()| fs::remove_dir_all(&doomed))
                .map_err(|source| Error::Output { path, source })?;
        }
        Ok(())
    }

    fn complete(
        &self,
        partial: &Path,
        state: &TrainState,
        mut manifest: Manifest,
    ) -> io::Result<Saved> {
        write_synced(&partial.join(STATE), |out| Ok(serde_json::to_writer_pretty(out, state)?))?;
        manifest.files.push(FileEntry::of(partial, STATE)?);
        write_synced(&partial.join(MANIFEST), |out| {
            serde_json::to_writer_pretty(&mut *out, &manifest)?;
            out.write_all(b"\n")
        })?;
        sync_directory(partial)?;
        let path = self.path(state.step);
        match fs::remove_dir_all(&path) {
            // Only a checkpoint that was rejected can be in the way.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::rename(partial, &path)?,
        }
        sync_directory(&self.directory)?;
        Ok(Saved { path, bytes: manifest.bytes() })
    }

    /// Steps with a directory, good or not.
    fn steps(&self) -> Result<Vec<u64>, Error> {
        let failed = |source| Error::Output { path: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let step: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix("step-")?.parse().ok());
            steps.extend(step);
        }
        Ok(steps)
    }

    fn path(&self, step: u64) -> PathBuf {
        self.directory.join(format!("step-{step}"))
    }
}

impl Checkpoint {
    /// Copies the checkpoint's values into `targets`. Every target must be in
    /// it, with its shape.
    pub fn restore(&self, targets: &[(String, Tensor)]) -> Result<(), Error> {
        let failed = |detail| Error::Checkpoint { path: self.path.clone(), detail };
        let mut missing: std::collections::BTreeMap<&str, &Tensor> =
            targets.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        for file in self.manifest.shards() {
            shard::read(&self.path.join(file), |name, value| {
                let Some(target) = missing.remove(name) else { return Ok(()) };
                if target.size() != value.size() {
                    return Err(format!(
                        "{name} has shape {:?}, the model's is {:?}",
                        value.size(),
                        target.size()
                    ));
                }
                let mut target = target.detach();
                tch::no_grad(|| target.f_copy_(value)).map_err(|error| error.to_string())
            })
            .map_err(|detail| failed(format!("{file}: {detail}")))?;
        }
        match missing.keys().next() {
            Some(name) => Err(failed(format!("tensor {name} is in no shard"))),
            None => Ok(()),
        }
    }
}

fn read_state(path: &Path) -> Result<TrainState, String> {
    let text = fs::read(path.join(STATE)).map_err(|error| format!("{STATE}: {error}"))?;
    serde_json::from_slice(&text).map_err(|error| format!("{STATE}: {error}"))
}

/// The tensors that a rank writes: each goes to the rank with the fewest bytes
/// so far.
fn share_of(tensors: &[(String, Tensor)], rank: usize, ranks: usize) -> Vec<(String, Tensor)> {
    let mut load = vec![0; ranks];
    let mut own = Vec::new();
    for (name, tensor) in tensors {
        let lightest = (0..ranks).min_by_key(|rank| load[*rank]).unwrap_or(0);
        load[lightest] += tensor.numel();
        if lightest == rank {
            own.push((name.clone(), tensor.shallow_clone()));
        }
    }
    own
}

fn encode_report(report: &Result<FileEntry, String>) -> Vec<u8> {
    serde_json::to_vec(report).unwrap_or_default()
}

fn decode_report(bytes: &[u8]) -> Result<FileEntry, String> {
    serde_json::from_slice::<Result<FileEntry, String>>(bytes)
        .unwrap_or_else(|error| Err(format!("report: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_the_tensors_and_leave_none_out() {
        let tensors: Vec<(String, Tensor)> = [9, 1, 4, 4, 2]
            .iter()
            .enumerate()
            .map(|(index, size)| {
                (index.to_string(), Tensor::zeros([*size], (tch::Kind::Float, tch::Device::Cpu)))
            })
            .collect();
        let names = |rank| -> Vec<String> {
            share_of(&tensors, rank, 2).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(0), ["0", "4"], "9, then 2 at equal load");
        assert_eq!(names(1), ["1", "2", "3"], "1 + 4 + 4");
    }
}
