//! The container, version 3: settings, where tensors are, tensors.

use std::io::{self, Write};

use crate::import::blocks::BlockType;
use crate::import::gguf::Setting;

/// Bytes of which each tensor begins at a multiple: the format's default.
const ALIGNMENT: u8 = 32;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Entry {
    /// llama.cpp's name.
    pub name: String,
    /// Outermost dimension first, as in PyTorch.
    pub shape: Vec<i64>,
    /// How it is stored.
    pub kind: BlockType,
}

impl Entry {
    fn bytes(&self) -> io::Result<u64> {
        let elements = self.shape.iter().map(|size| size.unsigned_abs()).product();
        self.kind.bytes(elements).ok_or_else(|| {
            io::Error::other(format!("{} is not a whole number of blocks", self.name))
        })
    }
}

/// Writes a whole file; `content` gives an entry's bytes.
pub fn write(
    out: &mut dyn Write,
    settings: &[(String, Setting)],
    entries: &[Entry],
    mut content: impl FnMut(&Entry) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((entries.len() as u64).to_le_bytes());
    head.extend((settings.len() as u64).to_le_bytes());
    for (name, setting) in settings {
        text(&mut head, name);
        head.extend(number_of(setting).to_le_bytes());
        value(&mut head, setting)?;
    }
    let mut offset = 0u64;
    for entry in entries {
        text(&mut head, &entry.name);
        head.extend(u32::try_from(entry.shape.len()).unwrap_or(u32::MAX).to_le_bytes());
        for size in entry.shape.iter().rev() {
            head.extend(size.to_le_bytes());
        }
        head.extend(entry.kind.number().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset + entry.bytes()?).next_multiple_of(ALIGNMENT.into());
    }
    fill(&mut head);
    out.write_all(&head)?;
    for entry in entries {
        let mut bytes = content(entry)?;
        if bytes.len() as u64 != entry.bytes()? {
            return Err(io::Error::other(format!("{} has {} bytes", entry.name, bytes.len())));
        }
        fill(&mut bytes);
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Zeros up to the next tensor.
fn fill(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT.into()), 0);
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The format's number of a setting's type. Whole numbers are `UINT32`, in lists `INT32`, as
/// llama.cpp writes and expects them; floats are `FLOAT32`.
fn number_of(setting: &Setting) -> u32 {
    match setting {
        Setting::Integer(_) => 4,
        Setting::Float(_) => 6,
        Setting::Bool(_) => 7,
        Setting::Text(_) => 8,
        Setting::List(_) => 9,
    }
}

fn value(out: &mut Vec<u8>, setting: &Setting) -> io::Result<()> {
    match setting {
        Setting::Integer(value) => {
            let value = u32::try_from(*value)
                .map_err(|_| io::Error::other(format!("{value} is no u32")))?;
            out.extend(value.to_le_bytes());
        }
        #[expect(clippy::cast_possible_truncation, reason = "the format's floats are f32")]
        Setting::Float(value) => out.extend((*value as f32).to_le_bytes()),
        Setting::Bool(value) => out.push(u8::from(*value)),
        Setting::Text(value) => text(out, value),
        Setting::List(values) => {
            let kind = match values.first() {
                Some(Setting::Integer(_)) | None => 5,
                Some(first) => number_of(first),
            };
            out.extend(kind.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for one in values {
                value(out, one)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::gguf::encode::encode;
    use crate::import::Gguf;

    #[test]
    fn what_is_written_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("tiny.gguf");
        let settings = [
            ("general.architecture", Setting::Text("llama".into())),
            ("count", Setting::Integer(7)),
            ("share", Setting::Float(0.5)),
            ("yes", Setting::Bool(true)),
            ("texts", Setting::List(vec![Setting::Text("a".into()), Setting::Text("é b".into())])),
            ("numbers", Setting::List(vec![Setting::Integer(1), Setting::Integer(5)])),
            ("none", Setting::List(Vec::new())),
        ]
        .map(|(name, setting)| (name.to_owned(), setting));
        // The first ends within the alignment.
        let entry = |name: &str, shape: &[i64], kind| Entry {
            name: name.to_owned(),
            shape: shape.to_vec(),
            kind,
        };
        let entries =
            [entry("norm", &[3], BlockType::F32), entry("matrix", &[2, 64], BlockType::Q8_0)];
        let values = |entry: &Entry| -> Vec<f32> {
            let count: i64 = entry.shape.iter().product();
            (0..count).map(|i| f32::from(i16::try_from(i - 64).unwrap())).collect()
        };
        let mut file = std::fs::File::create(&path).unwrap();
        write(&mut file, &settings, &entries, |entry| {
            encode(entry.kind, &values(entry)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
        })
        .unwrap();

        let gguf = Gguf::open(&path).unwrap();
        for (name, setting) in &settings {
            assert_eq!(gguf.get(name), Some(setting), "{name}");
        }
        for entry in &entries {
            let tensor = gguf.tensor(&entry.name).unwrap();
            assert_eq!(tensor.size(), entry.shape);
            let back = Vec::<f32>::try_from(tensor.view([-1])).unwrap();
            for (got, want) in back.iter().zip(values(entry)) {
                assert!((got - want).abs() <= 0.3, "{}: {got} for {want}", entry.name);
            }
        }
    }

    #[test]
    fn content_of_another_size_is_refused() {
        let entry = Entry { name: "w".into(), shape: vec![32], kind: BlockType::Q8_0 };
        let refused = write(&mut Vec::new(), &[], &[entry], |_| Ok(vec![0; 33])).unwrap_err();
        assert!(refused.to_string().contains("33 bytes"), "{refused}");
    }
}
