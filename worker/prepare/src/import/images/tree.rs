//! Directories that name classes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Map;

use super::{ImagesOptions, Kind, malformed, text};
use crate::import::within::{is_file, slashed};
use crate::import::{ImportError, Imported, NoRow, Row};

/// Directories in one another.
const DEEPEST: usize = 64;
/// Names of a directory: they are held, so that they can be sorted.
const MOST_NAMES: usize = 1 << 22;

/// A walk over a tree.
pub(super) struct Tree {
    /// Canonical.
    root: PathBuf,
    /// By directory: what is still to be seen, the first name last.
    levels: Vec<Level>,
}

struct Level {
    /// Below the root.
    directory: PathBuf,
    names: Vec<OsString>,
}

impl Tree {
    pub(super) fn open(root: PathBuf) -> Result<Self, ImportError> {
        let mut tree = Self { root, levels: Vec::new() };
        tree.enter(PathBuf::new())?;
        Ok(tree)
    }

    /// The next row. Files that are no pictures, and those whose names begin with a dot, are none.
    pub(super) fn next_row(
        &mut self,
        options: &ImagesOptions,
    ) -> Option<Result<Imported, ImportError>> {
        loop {
            let level = self.levels.last_mut()?;
            let Some(name) = level.names.pop() else {
                self.levels.pop();
                continue;
            };
            let below = level.directory.join(name);
            match self.visit(&below, options) {
                Ok(None) => {}
                Ok(Some(imported)) => return Some(Ok(imported)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn visit(
        &mut self,
        below: &Path,
        options: &ImagesOptions,
    ) -> Result<Option<Imported>, ImportError> {
        let path = self.root.join(below);
        let kind = fs::symlink_metadata(&path).map_err(|source| read(&path, source))?.file_type();
        if kind.is_dir() {
            self.enter(below.to_owned())?;
            return Ok(None);
        }
        let no_row = |reason| Ok(Some(malformed(path.clone(), 1, reason)));
        if kind.is_symlink() && !is_file(&self.root, below) {
            return no_row(
                "is a link that leads out of the directory, to a directory or nowhere; copy what is meant",
            );
        }
        match options.files.kind(below) {
            Kind::None => return Ok(None),
            Kind::Other => return no_row(options.files.not_read()),
            Kind::Picture => {}
        }
        let Some(name) = slashed(below) else {
            return no_row("has a name that is not UTF-8; rename it");
        };
        let Some((class, _)) = name.split_once('/') else {
            let reason = "lies in no directory that names its class".into();
            return Ok(Some(Imported::Unlabelled(NoRow { origin: path, index: 1, reason })));
        };
        let mut fields = Map::new();
        fields.insert(options.label.clone(), text(class));
        fields.insert(options.image.clone(), text(name));
        Ok(Some(Imported::Row(Row { origin: path, index: 1, fields })))
    }

    fn enter(&mut self, directory: PathBuf) -> Result<(), ImportError> {
        let path = self.root.join(&directory);
        let damaged = |detail: &str| {
            let (path, detail) = (path.clone(), detail.into());
            Err(ImportError::Damaged { path, index: 0, detail })
        };
        if self.levels.len() == DEEPEST {
            return damaged("there are too many directories in one another; flatten them");
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(|source| read(&path, source))? {
            let name = entry.map_err(|source| read(&path, source))?.file_name();
            if names.len() == MOST_NAMES {
                return damaged("there are too many files in a directory; divide them");
            }
            if !name.as_encoded_bytes().starts_with(b".") {
                names.push(name);
            }
        }
        names.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level { directory, names });
        Ok(())
    }
}

fn read(path: &Path, source: std::io::Error) -> ImportError {
    ImportError::Read { path: path.to_owned(), source }
}
