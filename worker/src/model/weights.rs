//! The tensors of a Hugging Face directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::ModelError;

/// Largest header that is read: names and shapes of the largest models take a few megabytes.
const MAX_HEADER_BYTES: u64 = 100 << 20;
/// Rows and columns that share a scale in DeepSeek's fp8 weights.
const FP8_BLOCK: i64 = 128;

/// Tensors by name, read from `model.safetensors` or from the files of
/// `model.safetensors.index.json`. Pickles are never read.
#[derive(Debug)]
pub struct Weights {
    tensors: BTreeMap<String, Tensor>,
    path: PathBuf,
    prefix: &'static str,
    fingerprint: blake3::Hash,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads every tensor of `directory`, on the CPU and in its own type. Files of a bare encoder
    /// or decoder leave `prefix` out of their names.
    pub fn read(directory: &Path, prefix: &'static str) -> Result<Self, ModelError> {
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
            let hash = read_tensors(&file, &mut tensors)?;
            hasher.update(hash.as_bytes());
        }
        Ok(Self { tensors, path, prefix, fingerprint: hasher.finalize() })
    }

    /// Tensors that were read from the file `path`, whose hash is `fingerprint`.
    pub fn of(
        tensors: BTreeMap<String, Tensor>,
        path: &Path,
        (prefix, fingerprint): (&'static str, blake3::Hash),
    ) -> Self {
        Self { tensors, path: path.to_owned(), prefix, fingerprint }
    }

    /// A tensor by its name in the full model, such as `bert.pooler.dense.weight`.
    pub fn get(&self, name: &str) -> Option<Tensor> {
        let bare = || self.tensors.get(name.strip_prefix(self.prefix)?);
        self.tensors.get(name).or_else(bare).map(Tensor::shallow_clone)
    }

    /// Puts what `make` makes of a tensor in its place; nothing where there is no such tensor.
    pub fn replace(
        &mut self,
        name: &str,
        make: impl FnOnce(&Tensor) -> Result<Tensor, tch::TchError>,
    ) -> Result<(), ModelError> {
        let bare = name.strip_prefix(self.prefix).unwrap_or(name);
        let name = if self.tensors.contains_key(name) { name } else { bare };
        if let Some(tensor) = self.tensors.get_mut(name) {
            *tensor = make(tensor)?;
        }
        Ok(())
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
            Kind::Float8e4m3fn => self.dequantize_fp8(name, &tensor),
            other => Err(self.malformed(format!("tensor {name} is {other:?}, not a float"))),
        }
    }

    /// DeepSeek-V3's fp8 (`inference/kernel.py`, `weight_dequant`): each block of 128 by 128 has
    /// its factor in `NAME_scale_inv`.
    fn dequantize_fp8(&self, name: &str, values: &Tensor) -> Result<Tensor, ModelError> {
        let [rows, columns] = values.size()[..] else {
            return Err(self.malformed(format!("fp8 tensor {name} is no matrix")));
        };
        let blocks = [rows, columns].map(|size| (size + FP8_BLOCK - 1) / FP8_BLOCK);
        let scales = self.float(&format!("{name}_scale_inv"), &blocks)?;
        let scales = scales
            .f_repeat_interleave_self_int(FP8_BLOCK, 0, None)?
            .f_repeat_interleave_self_int(FP8_BLOCK, 1, None)?;
        let scales = scales.f_narrow(0, 0, rows)?.f_narrow(1, 0, columns)?;
        Ok(values.f_to_kind(Kind::Float)?.f_mul(&scales)?)
    }

    /// Names of all tensors as the files have them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What files of a bare encoder or decoder leave out of names.
    pub fn prefix(&self) -> &'static str {
        self.prefix
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
    let bytes = std::fs::read(index).map_err(|source| unreadable(index, source))?;
    let parsed: Index =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    let names: BTreeSet<String> = parsed.weight_map.into_values().collect();
    if let Some(outside) = names.iter().find(|name| name.contains(['/', '\\'])) {
        return Err(malformed(format!("{outside:?} is not a file name")));
    }
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

fn unreadable(path: &Path, source: io::Error) -> ModelError {
    match source.kind() {
        io::ErrorKind::NotFound => ModelError::Missing {
            path: path.to_owned(),
            hint: "weights must be in the safetensors format (pytorch_model.bin is never read)",
        },
        _ => ModelError::Read { path: path.to_owned(), source },
    }
}

/// Adds the tensors of one safetensors file, one at a time: memory holds the tensors and no copy
/// of the file. Returns the file's hash.
pub fn read_tensors(
    path: &Path,
    tensors: &mut BTreeMap<String, Tensor>,
) -> Result<blake3::Hash, ModelError> {
    let failed = |source| unreadable(path, source);
    let malformed = |detail: String| ModelError::Malformed { path: path.to_owned(), detail };
    let cut = |detail: String| malformed(format!("not a whole safetensors file: {detail}"));

    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut head = vec![0; 8];
    file.read_exact(&mut head).map_err(|_| cut("it is shorter than 8 bytes".into()))?;
    let length = u64::from_le_bytes(head.as_slice().try_into().unwrap_or_default());
    if length > MAX_HEADER_BYTES.min(bytes) {
        return Err(cut(format!("its header claims {length} bytes")));
    }
    (&mut file).take(length).read_to_end(&mut head).map_err(failed)?;
    let metadata: Metadata =
        serde_json::from_slice(&head[8..]).map_err(|error| cut(error.to_string()))?;
    let end = 8 + length + metadata.data_len() as u64;
    if end != bytes {
        return Err(cut(format!("it has {bytes} bytes, its header counts {end}")));
    }

    let mut hasher = blake3::Hasher::new();
    hasher.update(&head);
    let mut buffer = Vec::new();
    for (name, info) in in_file_order(&metadata) {
        buffer.resize(info.data_offsets.1 - info.data_offsets.0, 0);
        file.read_exact(&mut buffer).map_err(failed)?;
        hasher.update(&buffer);
        let kind = kind_of(info.dtype)
            .ok_or_else(|| malformed(format!("{name}: type {:?}", info.dtype)))?;
        let shape: Result<Vec<i64>, _> =
            info.shape.iter().map(|size| i64::try_from(*size)).collect();
        let shape = shape.map_err(|_| malformed(format!("{name}: shape {:?}", info.shape)))?;
        tensors.insert(name, Tensor::f_from_data_size(&buffer, &shape, kind)?);
    }
    Ok(hasher.finalize())
}

fn in_file_order(metadata: &Metadata) -> Vec<(String, &TensorInfo)> {
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    tensors
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F8_E4M3 => Kind::Float8e4m3fn,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}
