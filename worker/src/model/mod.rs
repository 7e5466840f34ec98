//! Hugging Face directory → model.
//!
//! Single-device maths that matches `transformers` (5.x, eager in float32). Parallelism, adapters
//! and optimizers are applied from outside: a model is a chain of stages ([`network`]) made of
//! named leaves ([`module`]).

pub mod config;
pub mod decoder;
pub mod embedder;
pub mod family;
pub mod generate;
pub mod loader;
pub mod memory;
pub mod module;
pub mod network;
pub mod parts;
pub mod watch;
pub mod weights;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tch::{Device, Kind, Tensor};

pub use config::{Family, ModelConfig};
pub use memory::{Memory, Paged, Pool, Stretches};
pub use module::Role;
pub use network::{Network, Pass, Runner};
pub use parts::dropout::Dropout;
pub use parts::held::{Held, hold};
pub use parts::linear::{Linear, LinearKind, LinearOp};
pub use parts::output::{Output, TeacherOutput};
pub use watch::Watch;
pub use weights::Weights;

use crate::data::{Batch, Labels};
use crate::onnx::Graph;
use family::llama::DecoderHead;
use loader::{Draw, Fresh, Loader, Supply};
use module::Leaf;

/// A model with its head.
#[derive(Debug)]
pub struct Model {
    /// What its directory says of it.
    pub config: ModelConfig,
    /// What it gives.
    pub head: Head,
    /// Hash over the weights' files.
    pub fingerprint: String,
    /// Tensors of the files that are no part of this model, by name.
    pub left_over: Vec<String>,
    network: Box<dyn Network>,
    runner: Option<Arc<dyn Runner>>,
}

/// What a model gives for each input.
#[derive(Clone, Debug, PartialEq)]
pub enum Head {
    /// Logits over the vocabulary at each position.
    CausalLm,
    /// Logits over these classes.
    Classifier(Labels),
}

/// A tensor under Hugging Face's name.
#[derive(Debug)]
pub struct Parameter {
    /// Such as `bert.encoder.layer.0.output.dense.weight`.
    pub name: String,
    /// Shares memory with the model.
    pub tensor: Tensor,
    /// What it is to an optimizer.
    pub role: Role,
    /// The stage that it is of.
    pub stage: usize,
}

/// Reads a directory for inference, with the head that it was saved with.
pub fn load(directory: &Path, device: Device) -> Result<Model, ModelError> {
    load_with(directory, device, &|_, _, _| Ok(None))
}

/// As [`load`], but `supply` may make linear layers.
pub fn load_with(
    directory: &Path,
    device: Device,
    supply: &Supply<'_>,
) -> Result<Model, ModelError> {
    let config = ModelConfig::read(directory)?;
    let weights = Weights::read(directory, config.family.prefix())?;
    load_of(&config, &weights, device, supply)
}

/// As [`load_with`], of tensors that were read.
pub fn load_of(
    config: &ModelConfig,
    weights: &Weights,
    device: Device,
    supply: &Supply<'_>,
) -> Result<Model, ModelError> {
    let head = saved_head(config)?;
    build(head, &Loader::new(config, (weights, device), supply, Fresh::default()))
}

/// Reads a directory to train it with this head. Where it has no such head, or one for other
/// classes, fresh weights are drawn from `seed` as transformers does; their names come back.
pub fn load_for_training(
    config: &ModelConfig,
    directory: &Path,
    head: Head,
    device: Device,
    seed: i64,
) -> Result<(Model, Vec<&'static str>), ModelError> {
    let weights = Weights::read(directory, config.family.prefix())?;
    load_for_training_of((config, &weights), head, (device, seed), &|_, _, _| Ok(None))
}

/// As [`load_for_training`], but of tensors that were read, and `supply` may make linear layers. What
/// they hold is not trained.
pub fn load_for_training_of(
    (config, weights): (&ModelConfig, &Weights),
    head: Head,
    (device, seed): (Device, i64),
    supply: &Supply<'_>,
) -> Result<(Model, Vec<&'static str>), ModelError> {
    let deviation = config.raw.get("initializer_range").and_then(Value::as_f64).unwrap_or(0.02);
    let draw = match config.family {
        Family::ResNet => Draw::Uniform,
        _ => Draw::Normal(deviation),
    };
    let fresh = Fresh { names: missing_heads(config, &head, weights), draw };
    let names = fresh.names.clone();
    tch::manual_seed(seed);
    let loader = Loader::new(config, (weights, device), supply, fresh);
    let model = build(head, &loader)?;
    let supplied: BTreeSet<String> = model
        .linears()
        .into_iter()
        .filter(|linear| matches!(linear.kind, LinearKind::Other(_)))
        .flat_map(|linear| linear.tensors().into_iter().map(|(name, _)| name))
        .collect();
    for parameter in model.parameters() {
        if supplied.contains(&parameter.name) {
            continue;
        }
        let _ = parameter.tensor.f_set_requires_grad(true)?;
    }
    Ok((model, names))
}

/// The head that a directory's weights end in.
pub fn saved_head(config: &ModelConfig) -> Result<Head, ModelError> {
    let architecture = config.raw.get("architectures").and_then(|names| names.get(0)?.as_str());
    let classifies = architecture.is_some_and(|name| name.ends_with("Classification"));
    if config.family.is_decoder() && !classifies {
        return Ok(Head::CausalLm);
    }
    match &config.labels {
        Some(labels) => Ok(Head::Classifier(labels.clone())),
        None => {
            Err(config.malformed("id2label is missing: this is not a trained classifier".into()))
        }
    }
}

/// Layers of the head that the directory does not have, or not for these classes.
fn missing_heads(config: &ModelConfig, head: &Head, weights: &Weights) -> Vec<&'static str> {
    let Head::Classifier(labels) = head else { return Vec::new() };
    let top = config.family.classifier();
    let mut missing = Vec::new();
    if config.family == Family::Bert && weights.get("bert.pooler.dense.weight").is_none() {
        missing.push("bert.pooler.dense");
    }
    if config.labels.as_ref() != Some(labels) || weights.get(&format!("{top}.weight")).is_none() {
        missing.push(top);
    }
    missing
}

fn build(head: Head, loader: &Loader<'_>) -> Result<Model, ModelError> {
    let config = loader.config;
    let classes = match &head {
        Head::CausalLm => None,
        Head::Classifier(labels) => Some(i64::try_from(labels.len()).unwrap_or(i64::MAX)),
    };
    let decoder = classes.map_or(DecoderHead::CausalLm, DecoderHead::Classifier);
    let network: Box<dyn Network> = match (config.family, classes) {
        (Family::Bert, Some(classes)) => Box::new(family::bert::load(loader, classes)?),
        (Family::Bert, None) => {
            return Err(config.unsupported(
                "a BERT does not continue text; CausalLM needs a decoder such as Llama".into(),
            ));
        }
        (Family::Vit, Some(classes)) => Box::new(family::vit::load(loader, classes)?),
        (Family::ResNet, Some(classes)) => Box::new(family::resnet::load(loader, classes)?),
        (Family::MobileNetV2, Some(classes)) => {
            Box::new(family::mobilenet_v2::load(loader, classes)?)
        }
        (Family::Vit | Family::ResNet | Family::MobileNetV2, None) => {
            return Err(config.unsupported(
                "a model of pictures does not continue text; CausalLM needs a decoder such as Llama"
                    .into(),
            ));
        }
        (Family::Llama, _) => Box::new(family::llama::load(loader, decoder)?),
        (Family::Qwen2, _) => Box::new(family::qwen2::load(loader, decoder)?),
        (Family::Qwen3, _) => Box::new(family::qwen3::load(loader, decoder)?),
        (Family::Deepseek, _) => Box::new(family::deepseek::load(loader, decoder)?),
        (Family::DeepseekV2, _) => Box::new(family::deepseek_v2::load(loader, decoder)?),
        (Family::DeepseekV3, _) => Box::new(family::deepseek_v3::load(loader, decoder)?),
    };
    let (fingerprint, left_over) = (loader.weights.fingerprint(), loader.left_over());
    Ok(Model { config: config.clone(), head, fingerprint, left_over, network, runner: None })
}

impl Model {
    /// As [`Self::network`], to put other layers in.
    pub fn network_mut(&mut self) -> &mut dyn Network {
        self.network.as_mut()
    }

    /// Has stages run by `runner` from now on; one after another, here, without.
    pub fn run_by(&mut self, runner: Option<Arc<dyn Runner>>) {
        self.runner = runner;
    }

    /// What transformers calls this model, such as `BertForSequenceClassification`.
    pub fn architecture(&self) -> String {
        self.config.family.architecture(match self.head {
            Head::CausalLm => "ForCausalLM",
            Head::Classifier(_) if self.config.family.sees() => "ForImageClassification",
            Head::Classifier(_) => "ForSequenceClassification",
        })
    }

    /// The same model as an ONNX file, with its classes beside it.
    pub fn onnx(&self) -> Result<Vec<u8>, ModelError> {
        let mut graph = Graph::new(&self.architecture());
        self.network.onnx(&mut graph).unwrap_or_else(|| {
            Err(self.config.unsupported(
                "this family has no ONNX form here; classifiers of BERT's, ViT, ResNet and MobileNetV2 have one".into(),
            ))
        })?;
        let labels = serde_json::json!(self.labels().names()).to_string();
        graph.into_file(&[("labels", &labels)]).ok_or_else(|| {
            self.config.unsupported(
                "its ONNX file would be larger than 2 GiB, the most that one can be".into(),
            )
        })
    }

    /// The chain of stages.
    pub fn network(&self) -> &dyn Network {
        self.network.as_ref()
    }

    /// Classes; none of a language model.
    pub fn labels(&self) -> &Labels {
        match &self.head {
            Head::Classifier(labels) => labels,
            Head::CausalLm => const { &Labels::NONE },
        }
    }

    /// Refuses what does not read texts.
    pub fn expect_text(&self) -> Result<(), ModelError> {
        if self.config.family.sees() {
            return Err(self.config.unsupported(
                "this is a classifier of pictures; only models of texts are compressed so far"
                    .into(),
            ));
        }
        Ok(())
    }

    /// All stages one after another: ids i64 `[B, T]` → what the last stage gives.
    pub fn forward(&self, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        if let Some(runner) = &self.runner {
            return runner.forward(self.network(), input, pass);
        }
        let first = self.network.forward(0, input, pass)?;
        (1..self.network.stages())
            .try_fold(first, |hidden, stage| self.network.forward(stage, &hidden, pass))
    }

    /// Of a classifier: logits `[B, C]` of a collated batch.
    pub fn logits(&self, batch: &Batch, dropout: Dropout) -> Result<Tensor, ModelError> {
        self.classify(&batch.input_ids, batch.attention_mask.as_ref(), dropout)
    }

    /// Of a classifier: ids i64 `[B, T]`, mask i64 or bool `[B, T]` (1 where there is a token) →
    /// logits `[B, C]`. A decoder answers at each row's last token.
    pub fn classify(
        &self,
        ids: &Tensor,
        mask: Option<&Tensor>,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        if !self.config.family.is_decoder() {
            return self.forward(ids, &Pass::encoder(mask, dropout)?);
        }
        let (rows, tokens, device) = (ids.size()[0], ids.size()[1], ids.device());
        let lengths = match mask {
            Some(mask) => {
                mask.f_to_kind(Kind::Int64)?.f_sum_dim_intlist(&[1i64][..], false, Kind::Int64)?
            }
            None => Tensor::f_full([rows], tokens, (Kind::Int64, device))?,
        };
        let starts = Tensor::f_arange(rows, (Kind::Int64, device))?.f_mul_scalar(tokens)?;
        let mut pass = Pass::decoder(self.network(), tokens, device, dropout)?;
        pass.select = Some(starts.f_add(&lengths)?.f_sub_scalar(1)?);
        self.forward(ids, &pass)
    }

    /// Of a classifier of pictures: pixels f32 `[B, C, H, W]` → logits `[B, classes]`.
    pub fn classify_pixels(&self, pixels: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        if !self.config.family.sees() {
            return Err(ModelError::Pass("pictures need a model of pictures"));
        }
        self.forward(pixels, &Pass::encoder(None, dropout)?)
    }

    /// Every tensor that is trained, in the order of the forward pass.
    pub fn parameters(&self) -> Vec<Parameter> {
        let trained = |role| matches!(role, Role::Decayed | Role::Plain);
        self.tensors().into_iter().filter(|tensor| trained(tensor.role)).collect()
    }

    /// Every tensor that passes of training change without a gradient.
    pub fn statistics(&self) -> Vec<Parameter> {
        self.tensors().into_iter().filter(|tensor| tensor.role == Role::Statistic).collect()
    }

    /// The parameters that want a gradient: all, or adapters and what else is not frozen.
    pub fn trainable(&self) -> Vec<Parameter> {
        self.parameters().into_iter().filter(|p| p.tensor.requires_grad()).collect()
    }

    /// Every tensor, in the order of the forward pass.
    pub fn tensors(&self) -> Vec<Parameter> {
        let mut found = Vec::new();
        for stage in 0..self.network.stages() {
            self.network.stage(stage).leaves(&mut |leaf| match leaf {
                Leaf::Weight(weight) => found.push(Parameter {
                    name: weight.name.clone(),
                    tensor: weight.tensor.shallow_clone(),
                    role: weight.role,
                    stage,
                }),
                Leaf::Linear(linear) => {
                    found.extend(linear.tensors().into_iter().map(|(name, tensor)| {
                        let role = if name.ends_with("bias") { Role::Plain } else { Role::Decayed };
                        Parameter { name, tensor, role, stage }
                    }));
                }
            });
        }
        found
    }

    /// Every linear layer, in the order of the forward pass.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut found = Vec::new();
        for stage in 0..self.network.stages() {
            self.network.stage(stage).leaves(&mut |leaf| {
                if let Leaf::Linear(linear) = leaf {
                    found.push(linear);
                }
            });
        }
        found
    }
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is not there.
    #[error("{} does not exist; {hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A model that Hearth has no code for.
    #[error("{}: {detail}", path.display())]
    Unsupported {
        /// The file that says so.
        path: PathBuf,
        /// What is not supported, and what is.
        detail: String,
    },
    /// A file that contradicts itself or another.
    #[error("{}: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Too little memory is left for what texts leave.
    #[error(
        "the {bytes} bytes that are left for keys and values hold {fits} tokens, and {least} should fit; raise serving.resources.limits.memory"
    )]
    Room {
        /// Left for it.
        bytes: u64,
        /// Tokens that fit.
        fits: usize,
        /// Tokens that should.
        least: usize,
    },
    /// A pass that does not fit the network.
    #[error("{0}")]
    Pass(&'static str),
    /// Not a failure: this rank has done its part of the pass, and another ends it.
    #[error("another rank ends this pass")]
    Elsewhere,
    /// libtorch refused an operation.
    #[error("libtorch failed in the model")]
    Torch(#[from] tch::TchError),
    /// ONNX Runtime is not there, failed, or computes something else.
    #[error("ONNX Runtime: {0}")]
    Onnx(String),
    /// An operator of ours failed.
    #[error("an operator failed in the model")]
    Operator(#[from] nccl_rs::Error),
}

impl<R> From<ort::Error<R>> for ModelError {
    fn from(error: ort::Error<R>) -> Self {
        Self::Onnx(error.to_string())
    }
}
