//! `hearth.json`: what an exported directory's other files do not say.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use hearth_crds::preparation::Cleaning;
use hearth_crds::training_job::Task;
use serde::{Deserialize, Serialize};

use crate::checkpoint::manifest::hash_file;
use crate::event::EvalMetrics;
use crate::files::{read_json, write_json};

/// Name of the file.
pub const CARD: &str = "hearth.json";
/// Changes when older workers could misread a card.
pub const FORMAT_VERSION: u32 = 1;

/// How text is prepared, what the classes are, how good the model is, and the
/// hash of every file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelCard {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// What the model does.
    pub task: Task,
    /// Cleaning of every text before the tokenizer.
    #[serde(flatten)]
    pub cleaning: Cleaning,
    /// Tokens after which a text is cut.
    pub max_length: usize,
    /// Classes in the order of their ids.
    pub labels: Vec<String>,
    /// Optimizer step of the weights; `None` where unknown.
    pub step: Option<u64>,
    /// Evaluation of these weights.
    pub metrics: Option<EvalMetrics>,
    /// BLAKE3 of every other file, by name.
    pub files: BTreeMap<String, String>,
}

impl ModelCard {
    /// Reads the card of a directory; `None` where it has none.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        read_json(&directory.join(CARD))
    }

    /// Hashes the files of `directory`, writes the card into it, and returns
    /// the directory's digest.
    pub fn seal(mut self, directory: &Path) -> io::Result<String> {
        self.files.clear();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && name != CARD {
                let (_, hash) = hash_file(&entry.path())?;
                self.files.insert(name, hash.to_hex().to_string());
            }
        }
        write_json(&directory.join(CARD), &self)?;
        Ok(self.digest())
    }

    /// `blake3:HEX` over names and hashes of all files but the card itself,
    /// which holds figures that differ from run to run.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, hash) in &self.files {
            hasher.update(format!("{hash}  {name}\n").as_bytes());
        }
        format!("blake3:{}", hasher.finalize().to_hex())
    }

    /// The first file that is not as the card says, and why.
    pub fn first_damage(&self, directory: &Path) -> Option<String> {
        self.files.iter().find_map(|(name, want)| match hash_file(&directory.join(name)) {
            Ok((_, hash)) if hash.to_hex().as_str() == want => None,
            Ok(_) => Some(format!("{name}: its content does not match its hash")),
            Err(error) => Some(format!("{name}: {error}")),
        })
    }
}
