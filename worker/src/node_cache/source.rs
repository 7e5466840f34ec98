//! Which files a model has, and a name that follows from what they hold.
//!
//! The name must not cost what the cache saves, so large files are not read for it: their hashes
//! are those of the model's card (`hearth.json`). A model without a card is named by place, sizes
//! and times of its large files.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::CacheError;
use crate::checkpoint::manifest::hash_file;
use crate::export::ModelCard;

/// Changes when an entry of an older worker is none for this one.
const FORMAT: &str = "hearth-node-cache 1";
/// Files up to this size are read for the name.
const SMALL: u64 = 1 << 20;
/// Weights that Hearth never reads, often beside those that it does.
const UNREAD: [&str; 8] = ["bin", "pt", "pth", "ckpt", "h5", "msgpack", "onnx", "tflite"];

/// A model's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFiles {
    /// Where they are.
    pub directory: PathBuf,
    /// 64 hexadecimal digits that no other model has.
    pub key: String,
    /// The files, by name.
    pub files: Vec<ModelFile>,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFile {
    /// Name below the model's directory.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// What it holds, as far as that is known.
    pub content: Content,
}

/// What is known of a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// BLAKE3 that the model's card tells.
    Told(String),
    /// BLAKE3 of a small file.
    Read(String),
    /// Times of change, of content and of metadata.
    Changed([(i64, i64); 2]),
}

impl Content {
    /// The times of a file.
    pub fn times(file: &Metadata) -> Self {
        Self::Changed([(file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec())])
    }

    /// BLAKE3, where it is known.
    pub fn hash(&self) -> Option<&str> {
        match self {
            Self::Told(hash) | Self::Read(hash) => Some(hash),
            Self::Changed(_) => None,
        }
    }
}

impl ModelFiles {
    /// Looks at a model's directory. `place` tells it from others, where only times could.
    pub fn find(directory: &Path, place: &str) -> Result<Self, CacheError> {
        let read = |path: &Path, source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => CacheError::Missing(directory.to_owned()),
            _ => CacheError::Read { path: path.to_owned(), source },
        };
        let card = match ModelCard::read(directory) {
            Ok(card) => card,
            // The server says what is wrong with it.
            Err(error) if is_malformed(&error) => None,
            Err(error) => return Err(read(directory, error)),
        };
        let mut files = Vec::new();
        for (name, metadata) in listed(directory).map_err(|error| read(directory, error))? {
            let path = directory.join(&name);
            let told = card.as_ref().and_then(|card| card.files.get(&name));
            let content = match told {
                _ if metadata.len() <= SMALL => {
                    let (_, hash) = hash_file(&path).map_err(|error| read(&path, error))?;
                    Content::Read(hash.to_hex().to_string())
                }
                Some(hash) => Content::Told(hash.clone()),
                None => Content::times(&metadata),
            };
            files.push(ModelFile { name, bytes: metadata.len(), content });
        }
        if files.is_empty() {
            return Err(CacheError::Missing(directory.to_owned()));
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Self { directory: directory.to_owned(), key: key(&files, place), files })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

fn is_malformed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn key(files: &[ModelFile], place: &str) -> String {
    let mut text = format!("{FORMAT}\n");
    for ModelFile { name, bytes, content } in files {
        let line = match content {
            Content::Told(hash) | Content::Read(hash) => format!("{hash}  {name}\n"),
            Content::Changed(times) => format!("{bytes} {times:?}  {name}  {place}\n"),
        };
        text.push_str(&line);
    }
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// The files of a directory and of the directories in it, through links, without hidden ones.
fn listed(directory: &Path) -> io::Result<Vec<(String, Metadata)>> {
    let mut found = Vec::new();
    let mut below = vec![String::new()];
    while let Some(prefix) = below.pop() {
        for child in fs::read_dir(directory.join(&prefix))? {
            let name = child?.file_name();
            // A name that is no text is none that a model's files have.
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            let metadata = match fs::metadata(directory.join(&path)) {
                Ok(metadata) => metadata,
                // A link to nowhere: whoever needs the file says so.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if metadata.is_dir() && prefix.is_empty() {
                below.push(path);
            } else if metadata.is_file() && !is_unread(name) {
                found.push((path, metadata));
            }
        }
    }
    Ok(found)
}

fn is_unread(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| UNREAD.contains(&extension))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::write_synced;
    use std::io::Write as _;

    fn put(root: &Path, name: &str, bytes: &[u8]) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_synced(&path, |out| out.write_all(bytes)).unwrap();
    }

    #[test]
    fn a_name_follows_the_content_of_small_files_and_the_times_of_large_ones() {
        let root = tempfile::tempdir().unwrap();
        let large = vec![7; usize::try_from(SMALL).unwrap() + 1];
        put(root.path(), "config.json", b"{}");
        put(root.path(), "1_Pooling/config.json", b"{}");
        put(root.path(), "model.safetensors", &large);
        for ignored in [".git/HEAD", "pytorch_model.bin", "a/b/c.json"] {
            put(root.path(), ignored, b"x");
        }
        std::os::unix::fs::symlink("nowhere", root.path().join("vocab.txt")).unwrap();
        let find = |place| ModelFiles::find(root.path(), place).unwrap();
        let first = find("a");
        let names: Vec<_> = first.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["1_Pooling/config.json", "config.json", "model.safetensors"]);
        assert_eq!(first, find("a"));
        assert_ne!(first.key, find("b").key);
        put(root.path(), "model.safetensors", &large);
        let touched = find("a");
        assert_ne!(first.key, touched.key);
        put(root.path(), "config.json", b"[]");
        assert_ne!(touched.key, find("a").key);
    }

    #[test]
    fn with_a_card_the_name_follows_content_alone() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let large = vec![7; usize::try_from(SMALL).unwrap() + 1];
        let hash = blake3::hash(&large).to_hex().to_string();
        let card = serde_json::json!({"formatVersion": 1, "task": "CausalLM", "clean": [], "maxLength": 8,
            "labels": [], "step": null, "metrics": null, "files": {"model.safetensors": hash}});
        for root in [one.path(), other.path()] {
            put(root, "model.safetensors", &large);
            put(root, "hearth.json", card.to_string().as_bytes());
        }
        let key = |root: &Path, place| ModelFiles::find(root, place).unwrap().key;
        assert_eq!(key(one.path(), "a"), key(other.path(), "b"));
    }

    #[test]
    fn what_is_no_model_is_told() {
        let root = tempfile::tempdir().unwrap();
        for path in [root.path().to_owned(), root.path().join("nowhere")] {
            let told = ModelFiles::find(&path, "a").unwrap_err();
            assert!(matches!(told, CacheError::Missing(_)), "{told}");
        }
    }
}
