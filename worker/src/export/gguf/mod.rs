//! A language model as llama.cpp's one file, its tokenizer and chat template inside
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

pub mod encode;
pub mod file;
pub mod mix;
pub mod settings;
pub mod tokenizer;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde_json::{Map, Value};
use tch::Tensor;

use crate::cores::cores;
use crate::files::write_synced;
use crate::import::blocks::BlockType;
use crate::import::gguf::Setting;
use crate::model::{Head, Model, ModelError};
use file::Entry;
use settings::Decoder;
use tokenizer::Documents;

pub use mix::Mix;

/// Name of the file in a directory.
pub const FILE: &str = "model.gguf";

/// A model and its tokenizer, ready to be written. What GGUF has no place for was refused.
#[derive(Debug)]
pub struct Plan {
    decoder: Decoder,
    settings: Vec<(String, Setting)>,
    entries: Vec<Entry>,
    tensors: BTreeMap<String, Tensor>,
}

impl Plan {
    /// Of `model`, with the tokenizer in `source`.
    pub fn of(model: &Model, source: &Path, mix: Mix) -> Result<Self, ModelError> {
        let refused = |detail| ModelError::Unsupported { path: model.config.path.clone(), detail };
        if model.head != Head::CausalLm {
            return Err(refused(
                "only language models are written as GGUF: use another quantization".into(),
            ));
        }
        let decoder = Decoder::of(&model.config.raw).map_err(refused)?;
        let mut tensors = BTreeMap::new();
        for parameter in model.tensors() {
            let name = decoder.name(&parameter.name).map_err(refused)?;
            tensors.insert(name, parameter.tensor.detach());
        }
        let tied = !tensors.contains_key("output.weight");
        let entries: Vec<Entry> = tensors
            .iter()
            .map(|(name, tensor)| {
                let shape = tensor.size();
                let kind = match shape.as_slice() {
                    [_, columns] => mix.of(name, *columns, decoder.layers, tied),
                    _ => BlockType::F32,
                };
                Entry { name: name.clone(), shape, kind }
            })
            .collect();
        let rows = tensors.get("token_embd.weight").map_or(0, |table| table.size()[0]);
        let mut settings = decoder.settings(&model.architecture(), mix);
        settings.extend(tokenizer_settings(model, source, rows)?);
        Ok(Self { decoder, settings, entries, tensors })
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_synced(path, |out| {
            file::write(out, &self.settings, &self.entries, |entry| {
                let tensor = self
                    .tensors
                    .get(&entry.name)
                    .ok_or_else(|| io::Error::other(format!("{} is missing", entry.name)))?;
                let arranged =
                    self.decoder.arranged(&entry.name, tensor).map_err(io::Error::other)?;
                let flat = arranged.f_contiguous().and_then(|tensor| tensor.f_reshape([-1i64]));
                let values = flat.and_then(|flat| Vec::<f32>::try_from(&flat));
                encoded(entry, &values.map_err(io::Error::other)?)
            })
        })
    }
}

/// Whether the weights of `directory` are in [`FILE`], and nowhere else.
pub fn is_in(directory: &Path) -> bool {
    let has = |name: &str| directory.join(name).exists();
    has(FILE) && !has("model.safetensors") && !has("model.safetensors.index.json")
}

/// The bytes of a tensor, its blocks shared out among the cores.
fn encoded(entry: &Entry, values: &[f32]) -> io::Result<Vec<u8>> {
    let block = usize::try_from(entry.kind.block().0).unwrap_or(usize::MAX);
    let share = values.len().div_ceil(cores().get()).next_multiple_of(block).max(block);
    let parts: Vec<Option<Vec<u8>>> = std::thread::scope(|scope| {
        let work = |part| scope.spawn(move || encode::encode(entry.kind, part));
        let threads: Vec<_> = values.chunks(share).map(work).collect();
        threads.into_iter().map(|thread| thread.join().ok().flatten()).collect()
    });
    let parts: Option<Vec<Vec<u8>>> = parts.into_iter().collect();
    let failed = || io::Error::other(format!("{} could not be stored", entry.name));
    Ok(parts.ok_or_else(failed)?.concat())
}

fn tokenizer_settings(
    model: &Model,
    source: &Path,
    rows: i64,
) -> Result<Vec<(String, Setting)>, ModelError> {
    let path = source.join("tokenizer.json");
    let refused = |detail| ModelError::Unsupported { path: path.clone(), detail };
    let tokenizer = json(&path)?.ok_or_else(|| ModelError::Missing {
        path: path.clone(),
        hint: "a GGUF file holds the model's tokenizer",
    })?;
    let settings = match json(&source.join("tokenizer_config.json"))? {
        Some(Value::Object(settings)) => settings,
        _ => Map::new(),
    };
    let template = std::fs::read_to_string(source.join("chat_template.jinja")).ok();
    let documents = Documents {
        tokenizer: &tokenizer,
        settings: &settings,
        config: &model.config.raw,
        template: template.as_deref(),
    };
    documents.settings(rows).map_err(refused)
}

/// A document; `None` where there is none.
fn json(path: &Path) -> Result<Option<Value>, ModelError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModelError::Read { path: path.to_owned(), source }),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| ModelError::Malformed {
        path: path.to_owned(),
        detail: format!("not JSON: {error}"),
    })
}
