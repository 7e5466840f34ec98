//! Checkpoints in a directory, such as a mounted claim.
//!
//! A draft is `.step-N.GENERATION/`; publishing renames it to `step-N/`. What is
//! being removed is `.step-N.removed/`.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::MANIFEST;
use super::storage::{Draft, Storage, Upload, step_name, step_of};
use crate::files::{Disk, LocalDisk};

/// `OUTPUT/checkpoints`.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

/// A file that is being written.
struct Writing {
    path: PathBuf,
    file: File,
    disk: Arc<dyn Disk>,
}

impl Directory {
    /// In `root`, which is made when it is needed.
    pub fn new(root: PathBuf) -> Self {
        Self::on(root, Arc::new(LocalDisk))
    }

    /// The same by way of `disk`.
    pub fn on(root: PathBuf, disk: Arc<dyn Disk>) -> Self {
        Self { root, disk }
    }

    /// Removes the files of a directory, and it. Checkpoints are flat.
    fn remove_with_files(&self, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            self.disk.remove_file(&entry?.path())?;
        }
        self.disk.remove_directory(path)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect(),
        }
    }
}

impl Storage for Directory {
    fn place(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn prepare(&self) -> io::Result<()> {
        self.disk.create_directory(&self.root)?;
        for name in self.names()? {
            if name.starts_with(".step-") {
                self.remove_with_files(&self.root.join(name))?;
            }
        }
        Ok(())
    }

    fn steps(&self) -> io::Result<Vec<u64>> {
        Ok(self.names()?.iter().filter_map(|name| step_of(name)).collect())
    }

    fn create(&self, path: &str, _size: u64) -> io::Result<Box<dyn Upload>> {
        let path = self.root.join(path);
        if let Some(directory) = path.parent() {
            self.disk.create_directory(directory)?;
        }
        let file = self.disk.create(&path)?;
        Ok(Box::new(Writing { path, file, disk: Arc::clone(&self.disk) }))
    }

    fn publish(&self, draft: &Draft, manifest: &[u8]) -> io::Result<()> {
        let size = manifest.len() as u64;
        let mut file = self.create(&format!("{}/{MANIFEST}", draft.directory), size)?;
        file.write(manifest)?;
        file.finish()?;
        let built = self.root.join(&draft.directory);
        self.disk.sync_directory(&built)?;
        let target = self.root.join(step_name(draft.step));
        if target.exists() {
            // Only a checkpoint that was rejected can be in the way.
            self.remove(draft.step)?;
        }
        self.disk.rename(&built, &target)?;
        self.disk.sync_directory(&self.root)
    }

    fn remove(&self, step: u64) -> io::Result<()> {
        let doomed = self.root.join(format!(".step-{step}.removed"));
        if doomed.exists() {
            self.remove_with_files(&doomed)?;
        }
        self.disk.rename(&self.root.join(step_name(step)), &doomed)?;
        // Else a crash could bring the name back, but not the files.
        self.disk.sync_directory(&self.root)?;
        self.remove_with_files(&doomed)
    }

    fn size(&self, path: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.root.join(path))?.len())
    }

    fn read_at(&self, path: &str, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        File::open(self.root.join(path))?.read_exact_at(buffer, offset)
    }

    fn draft(&self, step: u64, generation: u32) -> Draft {
        let directory = format!(".{}.{generation}", step_name(step));
        Draft { step, directory, prefix: String::new() }
    }
}

impl Upload for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.write(&self.path, &mut self.file, bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.disk.sync(&self.path, &self.file)
    }
}
