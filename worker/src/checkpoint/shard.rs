//! Tensors to and from safetensors files, without a second copy in memory.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use super::part::{Part, Region};
use super::storage::Storage;
use crate::files::write_synced;

/// Key of the header's free text that says where boxes lie.
const BOXES: &str = "hearth.boxes";
/// Longest header that is read.
const LONGEST_HEADER: u64 = 100 << 20;
/// Bytes copied out of a tensor at a time.
const PIECE: usize = 8 << 20;

/// Writes `tensors` to a new file; its size and hash. `metadata` is the
/// format's free text by key.
pub fn write(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(&str, &str)],
) -> io::Result<(u64, blake3::Hash)> {
    let named: Vec<(&str, &Tensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut sealed = None;
    write_synced(path, |out| {
        sealed = Some(encode(&named, metadata, &mut |bytes| out.write_all(bytes))?);
        Ok(())
    })?;
    sealed.ok_or_else(|| io::Error::other("nothing was written"))
}

/// Writes parts to a file of `storage`; its size and hash.
pub fn upload(
    storage: &dyn Storage,
    path: &str,
    parts: &[Part],
) -> io::Result<(u64, blake3::Hash)> {
    let keys: Vec<String> = parts.iter().map(Part::key).collect();
    let named: Vec<(&str, &Tensor)> =
        keys.iter().map(String::as_str).zip(parts.iter().map(|part| &part.tensor)).collect();
    let boxes: BTreeMap<&str, Placed> = keys
        .iter()
        .zip(parts)
        .filter(|(_, part)| !part.is_whole())
        .map(|(key, part)| {
            let Part { name, shape, region, .. } = part;
            let (name, shape, offsets) = (name.clone(), shape.clone(), region.offsets.clone());
            (key.as_str(), Placed { name, shape, offsets })
        })
        .collect();
    let text = serde_json::to_string(&boxes)?;
    let metadata: &[(&str, &str)] = if boxes.is_empty() { &[] } else { &[(BOXES, &text)] };
    let content: usize = parts.iter().map(|part| size_of_tensor(&part.tensor)).sum();
    let size = 8 + header(&named, metadata)?.len() + content;
    let mut upload = storage.create(path, size as u64)?;
    let sealed = encode(&named, metadata, &mut |bytes| upload.write(bytes))?;
    upload.finish()?;
    Ok(sealed)
}

/// Gives a file's bytes to `out`, piece by piece; their number and hash.
fn encode(
    tensors: &[(&str, &Tensor)],
    metadata: &[(&str, &str)],
    out: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(u64, blake3::Hash)> {
    let header = header(tensors, metadata)?;
    let mut hasher = blake3::Hasher::new();
    let mut written = 0;
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        written += bytes.len() as u64;
        out(bytes)
    };
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    let mut buffer = Vec::new();
    for (_, tensor) in tensors {
        each_piece(tensor, &mut buffer, &mut put)?;
    }
    Ok((written, hasher.finalize()))
}

/// Where a box lies in its tensor, in the header's free text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Placed {
    name: String,
    shape: Vec<i64>,
    offsets: Vec<i64>,
}

/// A tensor, or a box out of one, in a shard.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the whole tensor.
    pub name: String,
    /// Shape of the whole tensor.
    pub shape: Vec<i64>,
    /// What of it is here.
    pub region: Region,
    /// Its numbers.
    pub kind: Kind,
    /// First byte in the file.
    pub start: u64,
}

/// An entry of a safetensors header.
#[derive(Deserialize)]
struct Stored {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: [u64; 2],
}

/// What a shard of `size` bytes holds. Reads its header only.
pub fn entries(storage: &dyn Storage, path: &str, size: u64) -> Result<Vec<Entry>, String> {
    let told = |error: io::Error| error.to_string();
    let mut length = [0; 8];
    storage.read_at(path, 0, &mut length).map_err(told)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER || length + 8 > size {
        return Err(format!("its header would have {length} bytes"));
    }
    let mut text = vec![0; usize::try_from(length).map_err(|error| error.to_string())?];
    storage.read_at(path, 8, &mut text).map_err(told)?;
    let mut stored: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| format!("header: {error}"))?;
    let boxes: BTreeMap<String, Placed> = match stored.remove("__metadata__") {
        Some(metadata) => match metadata.get(BOXES).and_then(serde_json::Value::as_str) {
            Some(text) => {
                serde_json::from_str(text).map_err(|error| format!("{BOXES}: {error}"))?
            }
            None => BTreeMap::new(),
        },
        None => BTreeMap::new(),
    };
    stored
        .into_iter()
        .map(|(key, stored)| {
            let wrong = |what: &str| format!("{key}: {what}");
            let Stored { dtype, shape, data_offsets: [first, end] } =
                serde_json::from_value(stored).map_err(|error| wrong(&error.to_string()))?;
            let kind = kind_of(&dtype).ok_or_else(|| wrong(&format!("is {dtype}")))?;
            let bytes = shape.iter().try_fold(kind.elt_size_in_bytes() as u64, |bytes, length| {
                bytes.checked_mul(u64::try_from(*length).ok()?)
            });
            if bytes.is_none() || end.checked_sub(first) != bytes || end > size - 8 - length {
                return Err(wrong("its place in the file does not fit its shape"));
            }
            let placed = boxes.get(&key);
            let offsets = placed.map_or_else(|| vec![0; shape.len()], |it| it.offsets.clone());
            let entry = Entry {
                name: placed.map_or_else(|| key.clone(), |it| it.name.clone()),
                shape: placed.map_or_else(|| shape.clone(), |it| it.shape.clone()),
                region: Region { offsets, shape },
                kind,
                start: 8 + length + first,
            };
            if entry.region.fits(&entry.shape) {
                Ok(entry)
            } else {
                Err(wrong("lies outside of its tensor"))
            }
        })
        .collect()
}

/// The header: JSON, filled up with spaces so that tensors are aligned.
fn header(tensors: &[(&str, &Tensor)], metadata: &[(&str, &str)]) -> io::Result<Vec<u8>> {
    let mut entries = Map::new();
    if !metadata.is_empty() {
        let pairs = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).into()));
        entries.insert("__metadata__".into(), Value::Object(pairs.collect()));
    }
    let mut offset = 0;
    for (name, tensor) in tensors {
        let dtype = dtype_name(tensor.kind()).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {:?}", tensor.kind()))
        })?;
        let end = offset + size_of_tensor(tensor);
        let entry = json!({"dtype": dtype, "shape": tensor.size(), "data_offsets": [offset, end]});
        entries.insert((*name).to_owned(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&entries)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn dtype_name(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Float => "F32",
        Kind::Int8 => "I8",
        Kind::Int64 => "I64",
        Kind::Half => "F16",
        Kind::BFloat16 => "BF16",
        Kind::Int => "I32",
        Kind::Float8e4m3fn => "F8_E4M3",
        _ => return None,
    })
}

fn kind_of(dtype: &str) -> Option<Kind> {
    Some(match dtype {
        "F32" => Kind::Float,
        "I8" => Kind::Int8,
        "I64" => Kind::Int64,
        "F16" => Kind::Half,
        "BF16" => Kind::BFloat16,
        _ => return None,
    })
}

fn size_of_tensor(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// Gives a tensor's bytes, row-major, to `put` by way of `buffer`.
fn each_piece(
    tensor: &Tensor,
    buffer: &mut Vec<u8>,
    put: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let flat = tensor
        .f_to_device(Device::Cpu)
        .and_then(|tensor| tensor.f_contiguous()?.f_view([-1]))
        .map_err(io::Error::other)?;
    let bytes = flat.kind().elt_size_in_bytes();
    let (mut done, all) = (0, flat.size()[0]);
    while done < all {
        let count = (all - done).min(i64::try_from(PIECE / bytes).map_err(io::Error::other)?);
        let piece = flat.f_narrow(0, done, count).map_err(io::Error::other)?;
        buffer.resize(piece.numel() * bytes, 0);
        piece.f_copy_data_u8(buffer, piece.numel()).map_err(io::Error::other)?;
        put(buffer)?;
        done += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_read_back_equal_and_the_hash_is_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rank-0.safetensors");
        let tensors = [
            ("b".to_owned(), Tensor::from_slice2(&[[1.0f32, 2.0], [3.0, f32::MIN_POSITIVE]]).tr()),
            ("a".to_owned(), Tensor::from_slice(&[-0.0f32])),
        ];
        let (bytes, hash) = write(&path, &tensors, &[("format", "pt")]).unwrap();
        assert_eq!(bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(hash, blake3::hash(&std::fs::read(&path).unwrap()));
        let read = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&read).unwrap();
        for (name, tensor) in &tensors {
            let view = file.tensor(name).unwrap();
            let shape = tensor.size();
            let value = Tensor::from_data_size(view.data(), &shape, Kind::Float);
            assert!(value.equal(tensor) && view.shape().len() == shape.len(), "{name}");
        }
    }
}
