//! `hearth-worker merge`: a model and adapters that were trained beside it → one model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hearth_crds::preparation::Cleaning;
use hearth_crds::training_job::Task;
use hearth_crds::worker_config::ExitCode;
use tch::Device;

use super::card::{CARD, FORMAT_VERSION};
use super::drift::{DRIFT, DriftReference};
use super::{Beside, Exported, ModelCard, export};
use crate::data::Labels;
use crate::error::Error;
use crate::model::{Head, ModelConfig, ModelError, load_for_training, saved_head};
use crate::peft::{self, saved};

/// Settings of `hearth-worker merge`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Hugging Face directory of the model that the adapters were trained beside.
    #[arg(long)]
    base: PathBuf,
    /// Directory of the adapters.
    #[arg(long)]
    adapters: PathBuf,
    /// Directory to write; what is there is replaced.
    #[arg(long)]
    output: PathBuf,
}

/// Runs the command. Returns the process's exit code.
pub fn run(arguments: &Arguments) -> i32 {
    match merge(&arguments.base, &arguments.adapters, &arguments.output) {
        Ok(Exported { path, digest }) => {
            tracing::info!(digest, "{} is written", path.display());
            ExitCode::Done as i32
        }
        Err(error) => {
            tracing::error!("{}", error.sentence());
            error.exit_code() as i32
        }
    }
}

/// Writes `output` from the model in `base` and the adapters in `adapters`: the classes are those
/// of the adapters' card, or without one those of the model.
pub fn merge(base: &Path, adapters: &Path, output: &Path) -> Result<Exported, Error> {
    let path = adapters.join(CARD);
    let card = ModelCard::read(adapters)
        .map_err(|source| ModelError::Read { path: path.clone(), source })?;
    if let Some(detail) = card.as_ref().and_then(|card| card.first_damage(adapters)) {
        return Err(ModelError::Malformed { path, detail }.into());
    }
    let config = ModelConfig::read(base)?;
    let head = match &card {
        Some(card) if card.labels.is_empty() => Head::CausalLm,
        Some(card) => Head::Classifier(Labels::new(card.labels.clone())),
        None => saved_head(&config)?,
    };
    let (mut model, _) = load_for_training(&config, base, head, Device::Cpu, 0)?;
    saved::read(&mut model, adapters)?;
    peft::merge(&mut model)?;
    let card = card.unwrap_or_else(|| ModelCard {
        format_version: FORMAT_VERSION,
        task: match model.head {
            Head::CausalLm => Task::CausalLM,
            Head::Classifier(_) => Task::SequenceClassification,
        },
        cleaning: Cleaning::default(),
        max_length: config.max_tokens,
        labels: model.labels().names().to_vec(),
        step: None,
        metrics: None,
        files: BTreeMap::new(),
    });
    let drift = DriftReference::read(adapters)
        .map_err(|source| ModelError::Read { path: adapters.join(DRIFT), source })?;
    let beside = Beside { drift: drift.as_ref(), ..Beside::default() };
    export(&model, beside, base, output, card)
}
