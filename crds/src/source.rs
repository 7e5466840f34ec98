//! Where models and data live: `pvc://CLAIM/PATH`, `s3://BUCKET/KEY`,
//! `hf://ORG/NAME`, `file:///PATH`.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// A parsed location. `Display` gives back the URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path inside a PersistentVolumeClaim of the object's namespace.
    Pvc {
        /// Name of the claim.
        claim: String,
        /// Path relative to the volume's root, without `..`.
        path: PathBuf,
    },
    /// An object or prefix in a bucket.
    S3 {
        /// Bucket.
        bucket: String,
        /// Key or prefix.
        key: String,
    },
    /// A repository of a Hugging Face hub, read through a mirror.
    HuggingFace {
        /// `ORG/NAME`.
        repository: String,
    },
    /// A path on this machine; local runs only.
    File {
        /// Absolute path.
        path: PathBuf,
    },
}

/// Why a URI is no location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No scheme, or one that Hearth does not know.
    #[error(
        "{uri:?} has no known scheme: use pvc://CLAIM/PATH, s3://BUCKET/KEY, hf://ORG/NAME or file:///PATH"
    )]
    Scheme {
        /// What was given.
        uri: String,
    },
    /// The part after the scheme is incomplete.
    #[error("{uri:?} is incomplete: write {want}")]
    Incomplete {
        /// What was given.
        uri: String,
        /// The full form.
        want: &'static str,
    },
    /// `..`, an absolute path, or an empty segment.
    #[error("{uri:?} leaves its volume: use a plain relative path without \"..\"")]
    Escapes {
        /// What was given.
        uri: String,
    },
}

/// Directory under which the operator mounts claims: `/mnt/hearth/CLAIM`.
pub const MOUNT_ROOT: &str = "/mnt/hearth";

impl Source {
    /// Parses a URI.
    pub fn parse(uri: &str) -> Result<Self, SourceError> {
        let (scheme, rest) =
            uri.split_once("://").ok_or_else(|| SourceError::Scheme { uri: uri.into() })?;
        let incomplete = |want| SourceError::Incomplete { uri: uri.into(), want };
        match scheme {
            "pvc" => {
                let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
                if claim.is_empty() || path.trim_matches('/').is_empty() {
                    return Err(incomplete("pvc://CLAIM/PATH"));
                }
                let path =
                    contained(path).ok_or_else(|| SourceError::Escapes { uri: uri.into() })?;
                Ok(Self::Pvc { claim: claim.into(), path })
            }
            "s3" => match rest.split_once('/') {
                Some((bucket, key)) if !bucket.is_empty() && !key.is_empty() => {
                    Ok(Self::S3 { bucket: bucket.into(), key: key.into() })
                }
                _ => Err(incomplete("s3://BUCKET/KEY")),
            },
            "hf" => match rest.split_once('/') {
                Some((org, name)) if !org.is_empty() && !name.is_empty() && !name.contains('/') => {
                    Ok(Self::HuggingFace { repository: rest.into() })
                }
                _ => Err(incomplete("hf://ORG/NAME")),
            },
            "file" if rest.starts_with('/') && rest.len() > 1 => {
                Ok(Self::File { path: rest.into() })
            }
            "file" => Err(incomplete("file:///ABSOLUTE/PATH")),
            _ => Err(SourceError::Scheme { uri: uri.into() }),
        }
    }

    /// The location `name` inside this one, which is a directory.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        match self.clone() {
            Self::Pvc { claim, path } => Self::Pvc { claim, path: path.join(name) },
            Self::File { path } => Self::File { path: path.join(name) },
            Self::S3 { bucket, key } => Self::S3 { bucket, key: format!("{key}/{name}") },
            hub @ Self::HuggingFace { .. } => hub,
        }
    }

    /// The claim that a pod must mount to read this, if any.
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::Pvc { claim, .. } => Some(claim),
            _ => None,
        }
    }

    /// The path at which a pod (or a local process) sees this location, or
    /// `None` where it must be fetched first.
    pub fn mounted_path(&self) -> Option<PathBuf> {
        match self {
            Self::Pvc { claim, path } => Some(Path::new(MOUNT_ROOT).join(claim).join(path)),
            Self::File { path } => Some(path.clone()),
            Self::S3 { .. } | Self::HuggingFace { .. } => None,
        }
    }
}

/// The path without `.` segments, or `None` where it could leave its root.
fn contained(path: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for part in Path::new(path.trim_start_matches('/')).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pvc { claim, path } => write!(f, "pvc://{claim}/{}", path.display()),
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::HuggingFace { repository } => write!(f, "hf://{repository}"),
            Self::File { path } => write!(f, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_round_trip() {
        for uri in [
            "pvc://models/minilm",
            "pvc://data/a/b.jsonl",
            "s3://b/k/x",
            "hf://org/name",
            "file:///tmp/x",
        ] {
            assert_eq!(Source::parse(uri).unwrap().to_string(), uri);
        }
    }

    #[test]
    fn bad_locations_say_how_to_write_them() {
        for (uri, part) in [
            ("models/minilm", "no known scheme"),
            ("gs://x/y", "no known scheme"),
            ("pvc://models", "pvc://CLAIM/PATH"),
            ("pvc:///x", "pvc://CLAIM/PATH"),
            ("pvc://models/../secrets", "leaves its volume"),
            ("hf://name", "hf://ORG/NAME"),
            ("file://relative", "file:///ABSOLUTE/PATH"),
        ] {
            let said = Source::parse(uri).unwrap_err().to_string();
            assert!(said.contains(part), "{uri}: {said}");
        }
    }

    #[test]
    fn claims_are_mounted_below_one_root() {
        let source = Source::parse("pvc://models/a/./b").unwrap();
        assert_eq!(source.mounted_path().unwrap(), Path::new("/mnt/hearth/models/a/b"));
        assert_eq!(source.claim(), Some("models"));
    }
}
