//! Tensors to and from safetensors files, without a second copy in memory.

use std::io::{self, Write};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

use crate::files::write_synced;

/// Writes `tensors` to a new file; its size and hash. `metadata` is the
/// format's free text by key.
pub fn write(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: &[(&str, &str)],
) -> io::Result<(u64, blake3::Hash)> {
    let header = header(tensors, metadata)?;
    let mut hasher = blake3::Hasher::new();
    let mut written = 0;
    write_synced(path, |out| {
        let mut put = |bytes: &[u8]| {
            hasher.update(bytes);
            written += bytes.len() as u64;
            out.write_all(bytes)
        };
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        let mut buffer = Vec::new();
        for (_, tensor) in tensors {
            put(bytes_of(tensor, &mut buffer)?)?;
        }
        Ok(())
    })?;
    Ok((written, hasher.finalize()))
}

/// Calls `each` with every tensor of a file: name, shape, type, bytes.
pub fn read(
    path: &Path,
    mut each: impl FnMut(&str, &Tensor) -> Result<(), String>,
) -> Result<(), String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| error.to_string())?;
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(format!("{name} is {:?}, not F32", view.dtype()));
        }
        let shape: Vec<i64> =
            view.shape().iter().map(|size| i64::try_from(*size).unwrap_or(-1)).collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, Kind::Float)
            .map_err(|error| format!("{name}: {error}"))?;
        each(name, &tensor)?;
    }
    Ok(())
}

/// The header: JSON, filled up with spaces so that tensors are aligned.
fn header(tensors: &[(String, Tensor)], metadata: &[(&str, &str)]) -> io::Result<Vec<u8>> {
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
        entries.insert(name.clone(), entry);
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
        _ => return None,
    })
}

fn size_of_tensor(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// A tensor's bytes, row-major, in `buffer`.
fn bytes_of<'a>(tensor: &Tensor, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
    let flat = tensor
        .f_to_device(Device::Cpu)
        .and_then(|tensor| tensor.f_contiguous())
        .map_err(io::Error::other)?;
    buffer.resize(size_of_tensor(&flat), 0);
    flat.f_copy_data_u8(buffer, flat.numel()).map_err(io::Error::other)?;
    Ok(buffer)
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
        let mut seen = 0;
        read(&path, |name, tensor| {
            let (_, want) = tensors.iter().find(|(known, _)| known == name).unwrap();
            assert!(tensor.equal(want) && tensor.size() == want.size(), "{name}");
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 2);
    }
}
