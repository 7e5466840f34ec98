//! The tensors of a Hugging Face directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::ModelError;

/// Tensors by name, read from `model.safetensors` or from the files of
/// `model.safetensors.index.json`. Pickles are never read.
#[derive(Debug)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    path: PathBuf,
    fingerprint: blake3::Hash,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads every tensor of `directory`, on the CPU and in its own type.
    pub fn read(directory: &Path) -> Result<Self, ModelError> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        let (path, files) = if !single.exists() && index.exists() {
            let files = files_of_index(directory, &index)?;
            (index, files)
        } else {
            (single.clone(), vec![single])
        };
        let mut tensors = BTreeMap::new();
        let mut hasher = blake3::Hasher::new();
        for file in files {
            let bytes = read_file(&file)?;
            hasher.update(blake3::hash(&bytes).as_bytes());
            tensors.extend(parse(&file, &bytes)?);
        }
        Ok(Self { tensors, path, fingerprint: hasher.finalize() })
    }

    /// A tensor by its name in the full model, such as
    /// `bert.pooler.dense.weight`. Directories that hold the bare encoder
    /// leave the first part out.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        let bare = || self.tensors.get(name.strip_prefix("bert.")?);
        self.tensors.get(name).or_else(bare).map(Tensor::shallow_clone)
    }

    /// A floating-point tensor of a known shape, in f32.
    pub fn float(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let tensor = self.get(name).ok_or_else(|| {
            self.malformed(format!("tensor {name} is missing; was the file written completely?"))
        })?;
        if tensor.size() != shape {
            return Err(self.malformed(format!(
                "tensor {name} has shape {:?}; config.json asks for {shape:?}",
                tensor.size()
            )));
        }
        match tensor.kind() {
            Kind::Float => Ok(tensor),
            Kind::Half | Kind::BFloat16 | Kind::Double => Ok(tensor.f_to_kind(Kind::Float)?),
            other => Err(self.malformed(format!("tensor {name} is {other:?}, not a float"))),
        }
    }

    /// Names of all tensors as the files have them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Hash over the files.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.to_hex().to_string()
    }

    fn malformed(&self, detail: String) -> ModelError {
        ModelError::Malformed { path: self.path.clone(), detail }
    }
}

fn files_of_index(directory: &Path, index: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let malformed = |detail| ModelError::Malformed { path: index.to_owned(), detail };
    let parsed: Index =
        serde_json::from_slice(&read_file(index)?).map_err(|error| malformed(error.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if let Some(outside) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(malformed(format!("{outside:?} is not a file name")));
    }
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

fn read_file(path: &Path) -> Result<Vec<u8>, ModelError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ModelError::Missing {
            path: path.to_owned(),
            hint: "weights must be in the safetensors format (pytorch_model.bin is never read)",
        },
        _ => ModelError::Read { path: path.to_owned(), source },
    })
}

/// The tensors of one safetensors file.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Tensor)>, ModelError> {
    let malformed = |detail: String| ModelError::Malformed { path: path.to_owned(), detail };
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| malformed(format!("not a whole safetensors file: {error}")))?;
    file.iter()
        .map(|(name, view)| {
            let kind = kind_of(view.dtype())
                .ok_or_else(|| malformed(format!("{name}: type {:?}", view.dtype())))?;
            let shape: Vec<i64> = view
                .shape()
                .iter()
                .map(|size| i64::try_from(*size))
                .collect::<Result<_, _>>()
                .map_err(|_| malformed(format!("{name}: shape {:?}", view.shape())))?;
            Ok((name.to_owned(), Tensor::f_from_data_size(view.data(), &shape, kind)?))
        })
        .collect()
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}
