//! The samples of a job, by what it learns.

use std::path::Path;

use hearth_crds::peft::{BaseQuantization, Peft};
use hearth_crds::training_job::Task;
use hearth_crds::worker_config::DataFile;
use nccl_rs::frozen::Bits;
use serde_json::json;
use tch::Device;

use super::evaluate::{self, EvalOptions};
use super::gang::Gang;
use super::session::note;
use crate::config::prepared::to_clean;
use crate::config::{Config, Lesson};
use crate::cores::cores;
use crate::data::dataset::{self, ReadOptions, SequenceFiles};
use crate::data::encode::EncoderOptions;
use crate::data::{
    self, Columns, DataError, Format, LossOn, Preprocessor, Samples, SequenceEncoder, SourceFile,
    TextEncoder, TrainingSet,
};
use crate::error::Error;
use crate::event::EventSink;
use crate::model::{Family, Head, Model, ModelConfig, ModelError, Weights, load_for_training_of};
use crate::objective::{Classification, NextToken, Objective, Preference, Reference, Teacher};
use crate::peft::{self, Adapters, LoraConfig};
use crate::prune::{self, Zeros};

/// What makes token ids, or pixels, of rows.
#[derive(Debug)]
pub(super) enum Encoder {
    /// Of labelled texts.
    Text(Box<TextEncoder>),
    /// Of sequences, with the columns that hold them.
    Sequence(Box<SequenceEncoder>, Columns),
    /// Of labelled pictures.
    Pictures(Box<Preprocessor>),
}

impl Encoder {
    /// The model's tokenizer. Samples are bounded by the model's positions.
    pub(super) fn load(
        config: &Config,
        model: &ModelConfig,
        leads: bool,
        events: &mut dyn EventSink,
    ) -> Result<Self, Error> {
        if config.task == Task::ImageClassification {
            return Self::pictures(config, model);
        }
        if model.family.sees() {
            let detail = "a model of pictures reads no text; use spec.task ImageClassification";
            return Err(unsupported(model, detail.into()));
        }
        let max_length = config.max_length.min(model.max_tokens);
        if max_length < config.max_length && leads {
            let message = format!(
                "training.maxLength {} is more than the model's {max_length} positions; samples are cut to those",
                config.max_length
            );
            note(events, "MaxLengthCut", message);
        }
        let encoder = match &config.lesson {
            Lesson::Classes { .. } => {
                let cleaning = to_clean(&config.data);
                Self::Text(Box::new(TextEncoder::load(&config.model, cleaning, max_length)?))
            }
            Lesson::Texts | Lesson::Answers { .. } | Lesson::Preferences { .. } => {
                Self::sequences(config, max_length)?
            }
        };
        let tokens = encoder.vocabulary_size();
        if tokens as u64 > model.vocab_size.unsigned_abs() {
            let detail = format!(
                "vocab_size is {}, but tokenizer.json knows {tokens} tokens; they are not of one model",
                model.vocab_size
            );
            return Err(ModelError::Malformed { path: model.path.clone(), detail }.into());
        }
        Ok(encoder)
    }

    fn pictures(config: &Config, model: &ModelConfig) -> Result<Self, Error> {
        if !model.family.sees() {
            let detail = "spec.task ImageClassification needs a model of pictures: ViT, ResNet or MobileNetV2";
            return Err(unsupported(model, detail.into()));
        }
        let number = |name: &str| model.raw.get(name).and_then(serde_json::Value::as_u64);
        let channels = number("num_channels").unwrap_or(3);
        if channels != 3 {
            let detail =
                format!("num_channels is {channels}; pictures are read as RGB, 3 channels");
            return Err(unsupported(model, detail));
        }
        let preprocessor = Preprocessor::load(&config.model)?;
        let (height, width) = (preprocessor.format.height, preprocessor.format.width);
        if model.family == Family::Vit
            && let Some(size) = model.raw.get("image_size")
            && *size != json!([height, width])
            && (height != width || *size != json!(height))
        {
            let detail = format!(
                "image_size is {size}, but preprocessor_config.json makes pictures of {height} by {width}; they are not of one model"
            );
            return Err(ModelError::Malformed { path: model.path.clone(), detail }.into());
        }
        Ok(Self::Pictures(Box::new(preprocessor)))
    }

    fn sequences(config: &Config, max_length: usize) -> Result<Self, Error> {
        let file = &config.data.train;
        let columns = match config.lesson {
            Lesson::Answers { .. } => columns_of(file),
            Lesson::Preferences { .. } => preference_columns(file),
            _ => Columns::Text { text: file.text.clone() },
        };
        let objective = match (&config.lesson, &columns) {
            (Lesson::Answers { assistant_only: true }, _) => {
                data::Objective::FineTuning(LossOn::Assistant)
            }
            (Lesson::Answers { .. }, Columns::Completion { .. }) => {
                data::Objective::FineTuning(LossOn::Completion)
            }
            (Lesson::Answers { .. }, _) => data::Objective::FineTuning(LossOn::All),
            (Lesson::Preferences { .. }, _) => data::Objective::Preference,
            _ => data::Objective::Pretraining,
        };
        let options = EncoderOptions {
            objective,
            cleaning: to_clean(&config.data),
            max_length,
            now: jiff::Zoned::now().datetime(),
        };
        Ok(Self::Sequence(Box::new(SequenceEncoder::load(&config.model, options)?), columns))
    }

    /// Id that fills rows up.
    pub(super) fn pad(&self) -> u32 {
        match self {
            Self::Text(encoder) => encoder.pad(),
            Self::Sequence(encoder, _) => encoder.pad(),
            Self::Pictures(_) => 0,
        }
    }

    /// Most tokens of a sample; pictures have none.
    pub(super) fn max_length(&self) -> usize {
        match self {
            Self::Text(encoder) => encoder.max_length(),
            Self::Sequence(encoder, _) => encoder.max_length(),
            Self::Pictures(_) => 0,
        }
    }

    /// Names of what inputs are told by; none of sequences.
    pub(super) fn facts(&self) -> &'static [&'static str] {
        match self {
            Self::Text(encoder) => encoder.facts(),
            Self::Sequence(..) => &[],
            Self::Pictures(_) => &data::facts::OF_PICTURE,
        }
    }

    fn vocabulary_size(&self) -> usize {
        match self {
            Self::Text(encoder) => encoder.vocabulary_size(),
            Self::Sequence(encoder, _) => encoder.vocabulary_size(),
            Self::Pictures(_) => 0,
        }
    }

    /// The head that learns from these samples.
    pub(super) fn head(&self, data: &TrainingSet) -> Head {
        match self {
            Self::Text(_) | Self::Pictures(_) => Head::Classifier(data.labels.clone()),
            Self::Sequence(..) => Head::CausalLm,
        }
    }

    /// Rank 0 reads first, on all cores, and leaves token ids in the cache; the others then find
    /// them there. Where it fails, all meet the same error.
    pub(super) fn read(
        &self,
        config: &Config,
        model: &ModelConfig,
        gang: &Gang,
    ) -> Result<TrainingSet, Error> {
        let cache = config.output.join(".cache");
        if gang.leads() {
            let data = self.read_here(config, model, &cache);
            gang.tell("data", b"read")?;
            Ok(data?)
        } else {
            gang.read("data")?;
            Ok(self.read_here(config, model, &cache)?)
        }
    }

    fn read_here(
        &self,
        config: &Config,
        model: &ModelConfig,
        cache: &Path,
    ) -> Result<TrainingSet, DataError> {
        let (threads, seed) = (cores(), config.seed);
        match self {
            Self::Text(encoder) => {
                let options = ReadOptions { encoder: &**encoder, cache, threads, seed };
                dataset::load(&config.data, model.labels.as_ref(), &options)
            }
            Self::Pictures(preprocessor) => {
                let options = ReadOptions { encoder: &**preprocessor, cache, threads, seed };
                dataset::load_pictures(&config.data, model.labels.as_ref(), &options)
            }
            Self::Sequence(encoder, columns) => {
                let source = |file: &DataFile| SourceFile {
                    path: file.path.clone(),
                    format: Format::from(file.format),
                    columns: columns.clone(),
                };
                let files = SequenceFiles {
                    train: source(&config.data.train),
                    eval: config.data.eval.as_ref().map(source),
                    eval_split: config.data.eval_split,
                    max_bad_rows: config.data.max_bad_rows,
                };
                let options = ReadOptions { encoder: &**encoder, cache, threads, seed };
                dataset::load_sequences(&files, &options)
            }
        }
    }
}

fn unsupported(model: &ModelConfig, detail: String) -> Error {
    ModelError::Unsupported { path: model.path.clone(), detail }.into()
}

/// What the rows of a file for fine-tuning hold, told by the first of them, as TRL tells by a data
/// set's columns.
fn columns_of(file: &DataFile) -> Columns {
    let messages = Columns::Messages { messages: file.messages.clone() };
    let completion =
        Columns::Completion { prompt: file.prompt.clone(), completion: file.completion.clone() };
    let text = Columns::Text { text: file.text.clone() };
    [messages, completion].into_iter().find(|columns| fits(file, columns)).unwrap_or(text)
}

/// The same of preferences: with a prompt, or with answers that begin with it.
fn preference_columns(file: &DataFile) -> Columns {
    let with = |prompt: Option<String>| Columns::Preference {
        prompt,
        chosen: file.chosen.clone(),
        rejected: file.rejected.clone(),
    };
    let (apart, within) = (with(Some(file.prompt.clone())), with(None));
    if !fits(file, &apart) && fits(file, &within) { within } else { apart }
}

/// Whether a file's first row has these columns.
fn fits(file: &DataFile, columns: &Columns) -> bool {
    let source = SourceFile {
        path: file.path.clone(),
        format: Format::from(file.format),
        columns: columns.clone(),
    };
    let first = source.records().ok().and_then(|mut records| records.next()?.ok());
    first.is_some_and(|row| row.parts(columns).is_ok())
}

/// The loss of a job's lesson over `samples`. `model` is as training begins with it, `adapters` are
/// those in it.
pub(super) fn objective(
    config: &Config,
    samples: &Samples,
    model: &Model,
    adapters: Option<&Adapters>,
    device: Device,
) -> Result<Objective, Error> {
    let label_smoothing = config.label_smoothing;
    let teacher = config.distillation.as_ref().map(|asked| {
        let how = (asked.temperature, asked.alpha);
        Teacher::read(&asked.teacher, (model, &config.model), device, how)
    });
    let teacher = teacher.transpose()?;
    Ok(match config.lesson {
        Lesson::Classes { balanced } => Objective::Classification(Classification {
            class_weights: balanced.then(|| balanced_weights(samples)),
            label_smoothing,
            teacher,
        }),
        Lesson::Texts | Lesson::Answers { .. } => {
            Objective::NextToken(NextToken { label_smoothing, teacher })
        }
        Lesson::Preferences { beta } => Objective::Preference(Preference {
            beta,
            reference: adapters
                .map_or(Reference::Known, |adapters| Reference::WithoutAdapters(adapters.clone())),
        }),
    })
}

/// What training begins with.
pub(super) struct Beginning {
    /// The model, pruned or quantized where that is asked for.
    pub(super) model: Model,
    /// Layers that got fresh weights.
    pub(super) fresh: Vec<&'static str>,
    /// The adapters in it.
    pub(super) adapters: Option<Adapters>,
    /// Weights that stay 0.
    pub(super) zeros: Zeros,
}

/// Reads the model.
pub(super) fn model(
    config: &Config,
    model: &ModelConfig,
    head: Head,
    device: Device,
) -> Result<Beginning, Error> {
    let bits = match config.peft.as_ref().map(|peft| peft.base_quantization) {
        None | Some(BaseQuantization::None) => None,
        Some(BaseQuantization::INT8) => Some(Bits::Eight),
        Some(BaseQuantization::INT4) => Some(Bits::Four),
    };
    let weights = Weights::read(&config.model, model.family.prefix())?;
    let (model, weights) = match &config.pruning {
        Some(pruning) => prune::structured(model.clone(), weights, pruning)?,
        None => (model.clone(), weights),
    };
    let (mut loaded, fresh) = load_for_training_of(
        (&model, &weights),
        head,
        (device, config.seed),
        &|name, shape, weights| match bits {
            Some(bits) => peft::quantized(name, shape, weights, (bits, device)),
            None => Ok(None),
        },
    )?;
    let adapters =
        config.peft.as_ref().map(|asked| peft::adapt(&mut loaded, &lora(asked))).transpose()?;
    let zeros = config.pruning.as_ref().map(|pruning| prune::zero(&loaded, pruning)).transpose()?;
    Ok(Beginning { model: loaded, fresh, adapters, zeros: zeros.unwrap_or_default() })
}

/// Gives samples what the model that training begins with thinks of them. Each rank asks it about
/// its share; `tell` hands on what it says.
pub(super) fn with_references(
    samples: Samples,
    model: &Model,
    gang: &Gang,
    options: (&str, &EvalOptions),
    after_batch: &mut dyn FnMut(),
) -> Result<Samples, Error> {
    let (name, options) = options;
    let own = evaluate::reference(model, &samples, options, after_batch)?;
    let bytes: Vec<u8> = own.iter().flat_map(|value| value.to_le_bytes()).collect();
    let key = |rank: usize| format!("reference {name} {rank}");
    gang.tell(&key(gang.rank()), &bytes)?;
    let mut all = own;
    for rank in (0..gang.world_size()).filter(|rank| *rank != gang.rank()) {
        let told = gang.read(&key(rank))?;
        for (value, bytes) in all.iter_mut().zip(told.as_chunks::<4>().0) {
            let theirs = f32::from_le_bytes(*bytes);
            if !theirs.is_nan() {
                *value = theirs;
            }
        }
    }
    Ok(samples.with_references(all))
}

/// Rows over classes times rows of the class (scikit-learn's `compute_class_weight`).
fn balanced_weights(samples: &Samples) -> Vec<f64> {
    let counts = samples.class_counts();
    let mean = f64::from(samples.len()) / counts.len() as f64;
    counts.into_iter().map(|count| mean / count.max(1) as f64).collect()
}

/// Settings of adapters, as PEFT's `LoraConfig` has them.
pub(super) fn lora(peft: &Peft) -> LoraConfig {
    LoraConfig {
        rank: peft.r.into(),
        alpha: peft.lora_alpha.into(),
        dropout: peft.lora_dropout,
        target_modules: (!peft.target_modules.is_empty()).then(|| peft.target_modules.clone()),
        use_rslora: peft.use_rslora,
        use_dora: peft.use_dora,
    }
}
