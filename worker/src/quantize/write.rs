//! Dense classifier → compressed-tensors directory.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use hearth_crds::training_job::Task;
use nccl_rs::qlinear::quantize_weight;
use serde_json::{Value, json};
use tch::Tensor;

use super::format;
use crate::checkpoint::shard;
use crate::data::TextEncoder;
use crate::error::Error;
use crate::export::ModelCard;
use crate::export::card::{CARD, FORMAT_VERSION};
use crate::files::write_synced;
use crate::model::{LinearKind, Model, ModelError};

/// Writes `model` with int8 weights into the new directory `target`; what goes
/// with it comes from `source`. The directory's digest.
pub fn write(
    model: &Model,
    encoder: &TextEncoder,
    source: &Path,
    target: &Path,
) -> Result<String, Error> {
    let tensors = int8_tensors(model)?;
    let written = (|| {
        match fs::remove_dir_all(target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(target)?,
        }
        copy_small_files(source, target)?;
        let mut config = model.config.raw.clone();
        config.insert(format::KEY.to_owned(), format::describe());
        config.insert("architectures".to_owned(), json!([model.architecture()]));
        write_synced(&target.join("config.json"), |out| {
            serde_json::to_writer_pretty(&mut *out, &Value::Object(config))?;
            out.write_all(b"\n")
        })?;
        shard::write(&target.join("model.safetensors"), &tensors, &[("format", "pt")])?;
        card(model, encoder, source)?.seal(target)
    })();
    written.map_err(|source| Error::Output { path: target.to_owned(), source })
}

/// Every tensor of the model under its name, int8 where it is quantized.
fn int8_tensors(model: &Model) -> Result<Vec<(String, Tensor)>, ModelError> {
    let mut tensors = Vec::new();
    let mut replaced = BTreeSet::new();
    for linear in model.linears() {
        let (LinearKind::Dense { weight, .. }, name) = (&linear.kind, &linear.name) else {
            continue;
        };
        if format::IGNORED.contains(&name.as_str()) {
            continue;
        }
        let (values, scale) = quantize_weight(&weight.detach().f_contiguous()?)?;
        tensors.push((format!("{name}.weight"), values));
        tensors.push((format!("{name}.weight_scale"), scale.f_unsqueeze(1)?));
        replaced.insert(format!("{name}.weight"));
    }
    let kept = model.tensors().into_iter().filter(|kept| !replaced.contains(&kept.name));
    tensors.extend(kept.map(|kept| (kept.name, kept.tensor.detach())));
    Ok(tensors)
}

/// The model's own card, or one for a model that was trained elsewhere.
fn card(model: &Model, encoder: &TextEncoder, source: &Path) -> io::Result<ModelCard> {
    let own = ModelCard::read(source)?;
    Ok(own.unwrap_or_else(|| ModelCard {
        format_version: FORMAT_VERSION,
        task: Task::SequenceClassification,
        clean: Vec::new(),
        max_length: encoder.max_length(),
        labels: model.labels().names().to_vec(),
        step: None,
        metrics: None,
        files: std::collections::BTreeMap::new(),
    }))
}

/// Tokenizer and notes: everything but weights, which this replaces, and
/// formats that are never read.
fn copy_small_files(source: &Path, target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str());
        let wanted = matches!(extension, Some("json" | "txt" | "md"))
            && !name.starts_with("model.safetensors")
            && ![CARD, "config.json"].contains(&name.as_str());
        // Through metadata, as mounted volumes hold links.
        if wanted && fs::metadata(entry.path())?.is_file() {
            let bytes = fs::read(entry.path())?;
            write_synced(&target.join(&name), |out| out.write_all(&bytes))?;
        }
    }
    Ok(())
}
