//! A BERT encoder with a pooler and a classifier, as `transformers`'
//! `BertForSequenceClassification`.

use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::bert::{self, Embeddings, Layer, LayerNorm};
use super::config::ModelConfig;
use super::linear::Linear;
use super::weights::Weights;
use super::{Dropout, ModelError};
use crate::data::{Batch, Labels};

/// A text classifier.
#[derive(Debug)]
pub struct Classifier {
    /// Sizes and constants.
    pub config: ModelConfig,
    /// Classes.
    pub labels: Labels,
    /// Hash over the files that it was read from.
    pub fingerprint: String,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    pooler: Linear,
    head: Linear,
}

/// A trainable tensor under Hugging Face's name.
#[derive(Debug)]
pub struct Parameter {
    /// Such as `bert.encoder.layer.0.output.dense.weight`.
    pub name: String,
    /// Shares memory with the model.
    pub tensor: Tensor,
}

impl Parameter {
    /// Whether weight decay applies: to all but biases and layer norms, as
    /// `transformers`' Trainer decides.
    pub fn decays(&self) -> bool {
        !self.name.ends_with("bias") && !self.name.contains("LayerNorm")
    }
}

/// Reads a directory with a trained classifier, for inference.
pub fn load(directory: &Path, device: Device) -> Result<Classifier, ModelError> {
    load_with(directory, device, &mut |_, _| Ok(None))
}

/// As [`load`], but `supply` may make a linear layer itself, from its name
/// (such as `bert.encoder.layer.0.attention.self.query`) and the directory's
/// tensors: compressed formats come in here.
pub fn load_with(
    directory: &Path,
    device: Device,
    supply: &mut Supply<'_>,
) -> Result<Classifier, ModelError> {
    let config = ModelConfig::read(directory)?;
    let Some(labels) = config.labels.clone() else {
        return Err(ModelError::Malformed {
            path: config.path,
            detail: "id2label is missing: this is not a trained classifier".into(),
        });
    };
    let weights = Weights::read(directory)?;
    let builder = Builder { config: &config, weights: &weights, device };
    builder.classifier(config.clone(), labels, supply)
}

/// Reads a directory to fine-tune it for `labels`. Where it has no pooler, or
/// no classifier for exactly these labels, fresh ones are drawn from `seed` as
/// transformers does; their names come back.
pub fn load_for_training(
    config: &ModelConfig,
    directory: &Path,
    labels: &Labels,
    device: Device,
    seed: i64,
) -> Result<(Classifier, Vec<&'static str>), ModelError> {
    let weights = Weights::read(directory)?;
    let keeps_classifier =
        config.labels.as_ref() == Some(labels) && weights.get("classifier.weight").is_some();
    let mut fresh = Vec::new();
    if weights.get("bert.pooler.dense.weight").is_none() {
        fresh.push("bert.pooler.dense");
    }
    if !keeps_classifier {
        fresh.push("classifier");
    }
    tch::manual_seed(seed);
    let builder = Builder { config, weights: &weights, device };
    let mut supply = |name: &str, _: &Weights| {
        if !fresh.contains(&name) {
            return Ok(None);
        }
        let (outputs, inputs) = builder.shape(name, labels);
        builder.fresh_linear(outputs, inputs).map(Some)
    };
    let classifier = builder.classifier(config.clone(), labels.clone(), &mut supply)?;
    for parameter in classifier.parameters() {
        let _ = parameter.tensor.f_set_requires_grad(true)?;
    }
    Ok((classifier, fresh))
}

impl Classifier {
    /// ids i64 `[B, T]`, mask i64 or bool `[B, T]` (1 where there is a token)
    /// → logits f32 `[B, C]`.
    pub fn forward(
        &self,
        input_ids: &Tensor,
        attention_mask: Option<&Tensor>,
        dropout: Dropout,
    ) -> Result<Tensor, ModelError> {
        let first = bert::first_position(
            &self.embeddings,
            &self.layers,
            &self.config,
            (input_ids, attention_mask),
            dropout,
        )?;
        let pooled = self.pooler.forward(&first)?.f_tanh()?;
        let pooled = bert::drop_out(pooled, self.config.classifier_dropout, dropout)?;
        self.head.forward(&pooled)
    }

    /// As [`Self::forward`], of a collated batch.
    pub fn logits(&self, batch: &Batch, dropout: Dropout) -> Result<Tensor, ModelError> {
        self.forward(&batch.input_ids, batch.attention_mask.as_ref(), dropout)
    }

    /// Every tensor of the dense parts, by Hugging Face's name, in the order of
    /// the forward pass.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut found = Vec::new();
        let mut push = |name: String, tensor: &Tensor| {
            found.push(Parameter { name, tensor: tensor.shallow_clone() });
        };
        push("bert.embeddings.word_embeddings.weight".into(), &self.embeddings.word);
        push("bert.embeddings.position_embeddings.weight".into(), &self.embeddings.position);
        push("bert.embeddings.token_type_embeddings.weight".into(), &self.embeddings.token_type);
        push("bert.embeddings.LayerNorm.weight".into(), &self.embeddings.norm.weight);
        push("bert.embeddings.LayerNorm.bias".into(), &self.embeddings.norm.bias);
        for (name, linear) in self.linears() {
            if let Linear::Dense { weight, bias } = linear {
                push(format!("{name}.weight"), weight);
                if let Some(bias) = bias {
                    push(format!("{name}.bias"), bias);
                }
            }
            if let Some(norm) = self.norm_after(&name) {
                let name = name.replace(".dense", ".LayerNorm");
                push(format!("{name}.weight"), &norm.weight);
                push(format!("{name}.bias"), &norm.bias);
            }
        }
        found
    }

    /// The layer norm that follows a linear layer's residual connection.
    fn norm_after(&self, linear: &str) -> Option<&LayerNorm> {
        let (index, part) = linear.strip_prefix("bert.encoder.layer.")?.split_once('.')?;
        let layer = self.layers.get(index.parse::<usize>().ok()?)?;
        match part {
            "attention.output.dense" => Some(&layer.attention_norm),
            "output.dense" => Some(&layer.output_norm),
            _ => None,
        }
    }

    /// Every linear layer by Hugging Face's name, without `.weight`.
    pub fn linears(&self) -> Vec<(String, &Linear)> {
        let mut found = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let linears = [
                &layer.query,
                &layer.key,
                &layer.value,
                &layer.attention_output,
                &layer.intermediate,
                &layer.output,
            ];
            found.extend(layer_linear_names(index).into_iter().zip(linears));
        }
        found.push(("bert.pooler.dense".into(), &self.pooler));
        found.push(("classifier".into(), &self.head));
        found
    }

    /// As [`Self::linears`], to put others in their place.
    pub fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        let mut found = Vec::new();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let linears = [
                &mut layer.query,
                &mut layer.key,
                &mut layer.value,
                &mut layer.attention_output,
                &mut layer.intermediate,
                &mut layer.output,
            ];
            found.extend(layer_linear_names(index).into_iter().zip(linears));
        }
        found.push(("bert.pooler.dense".into(), &mut self.pooler));
        found.push(("classifier".into(), &mut self.head));
        found
    }
}

fn layer_linear_names(index: usize) -> [String; 6] {
    [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ]
    .map(|name| format!("bert.encoder.layer.{index}.{name}"))
}

/// May make a linear layer, from its name and the directory's tensors.
pub type Supply<'a> = dyn FnMut(&str, &Weights) -> Result<Option<Linear>, ModelError> + 'a;

/// Puts tensors in their places.
struct Builder<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
    device: Device,
}

impl Builder<'_> {
    fn classifier(
        &self,
        config: ModelConfig,
        labels: Labels,
        supply: &mut Supply<'_>,
    ) -> Result<Classifier, ModelError> {
        let width = self.config.hidden_size;
        let embedding = |name: &str, rows| {
            self.tensor(&format!("bert.embeddings.{name}_embeddings.weight"), &[rows, width])
        };
        let embeddings = Embeddings {
            word: embedding("word", self.config.vocab_size)?,
            position: embedding("position", self.config.max_position_embeddings)?,
            token_type: embedding("token_type", self.config.type_vocab_size)?,
            norm: self.norm("bert.embeddings.LayerNorm")?,
        };
        let mut linear = |name: &str| match supply(name, self.weights)? {
            Some(linear) => Ok(linear),
            None => self.linear(name, self.shape(name, &labels)),
        };
        let layers = (0..self.config.num_hidden_layers)
            .map(|index| {
                let prefix = format!("bert.encoder.layer.{index}");
                let [query, key, value, attention_output, intermediate, output] =
                    layer_linear_names(index);
                Ok(Layer {
                    query: linear(&query)?,
                    key: linear(&key)?,
                    value: linear(&value)?,
                    attention_output: linear(&attention_output)?,
                    attention_norm: self.norm(&format!("{prefix}.attention.output.LayerNorm"))?,
                    intermediate: linear(&intermediate)?,
                    output: linear(&output)?,
                    output_norm: self.norm(&format!("{prefix}.output.LayerNorm"))?,
                })
            })
            .collect::<Result<_, ModelError>>()?;
        let pooler = linear("bert.pooler.dense")?;
        let head = linear("classifier")?;
        let fingerprint = self.weights.fingerprint();
        Ok(Classifier { config, labels, fingerprint, embeddings, layers, pooler, head })
    }

    /// `(outputs, inputs)` of a linear layer.
    fn shape(&self, name: &str, labels: &Labels) -> (i64, i64) {
        let (width, wide) = (self.config.hidden_size, self.config.intermediate_size);
        if name == "classifier" {
            (i64::try_from(labels.len()).unwrap_or(i64::MAX), width)
        } else if name.ends_with("intermediate.dense") {
            (wide, width)
        } else if name.ends_with("output.dense") && !name.contains("attention") {
            (width, wide)
        } else {
            (width, width)
        }
    }

    fn linear(&self, name: &str, (outputs, inputs): (i64, i64)) -> Result<Linear, ModelError> {
        Ok(Linear::Dense {
            weight: self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: Some(self.tensor(&format!("{name}.bias"), &[outputs])?),
        })
    }

    fn fresh_linear(&self, outputs: i64, inputs: i64) -> Result<Linear, ModelError> {
        let options = (Kind::Float, self.device);
        Ok(Linear::Dense {
            weight: Tensor::f_zeros([outputs, inputs], options)?
                .f_normal_(0.0, self.config.initializer_range)?,
            bias: Some(Tensor::f_zeros([outputs], options)?),
        })
    }

    fn norm(&self, name: &str) -> Result<LayerNorm, ModelError> {
        let shape = [self.config.hidden_size];
        Ok(LayerNorm {
            weight: self.tensor(&format!("{name}.weight"), &shape)?,
            bias: self.tensor(&format!("{name}.bias"), &shape)?,
        })
    }

    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        Ok(self.weights.float(name, shape)?.f_to_device(self.device)?)
    }
}
