//! BERT (Devlin et al. 2019), as transformers' `BertForSequenceClassification` and `BertModel`.
//!
//! Shapes: `B` rows, `T` tokens, `Q` query positions, `D` width.
//!
//! The classifier reads the first position of the last layer alone, so the last layer computes
//! queries, attention and feed-forward for that position only (`Q = 1`). The result is the same; a
//! sixth of MiniLM's work is not done.

mod onnx;

use serde::Deserialize;
use tch::Tensor;

use crate::model::ModelError;
use crate::model::loader::Loader;
use crate::model::module::{Module, module};
use crate::model::network::{Network, Pass, stage_of, stage_of_mut};
use crate::model::parts::activation::Activation;
use crate::model::parts::attention::{Scores, attend, split_heads};
use crate::model::parts::embedding::Embedding;
use crate::model::parts::linear::Linear;
use crate::model::parts::norm::LayerNorm;
use crate::onnx::Graph;

/// An encoder with a pooler and a classifier.
#[derive(Debug)]
pub struct Bert {
    encoder: Encoder,
    top: Top,
}

/// Embeddings and layers.
#[derive(Debug)]
pub struct Encoder {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    settings: BertConfig,
    activation: Activation,
}

#[derive(Clone, Debug, Deserialize)]
struct BertConfig {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "tenth")]
    hidden_dropout_prob: f64,
    #[serde(default = "tenth")]
    attention_probs_dropout_prob: f64,
    classifier_dropout: Option<f64>,
    #[serde(default = "max_positions")]
    max_position_embeddings: i64,
    #[serde(default = "two")]
    type_vocab_size: i64,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

// Defaults of transformers' BertConfig.
fn gelu() -> String {
    "gelu".into()
}
fn tenth() -> f64 {
    0.1
}
fn max_positions() -> i64 {
    512
}
fn two() -> i64 {
    2
}
fn epsilon() -> f64 {
    1e-12
}

/// Word, position and segment embeddings.
#[derive(Debug)]
struct Embeddings {
    /// `[vocabulary, D]`.
    word: Embedding,
    /// `[positions, D]`.
    position: Embedding,
    /// `[segments, D]`; every token is of segment 0.
    token_type: Embedding,
    norm: LayerNorm,
}
module!(Embeddings: word, position, token_type, norm);

/// One layer: self-attention, then a feed-forward part, each with a residual connection and a
/// layer norm after it.
#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}
module!(Layer: query, key, value, attention_output, attention_norm, intermediate, output, output_norm);

/// What comes after the last layer.
#[derive(Debug)]
struct Top {
    pooler: Linear,
    classifier: Linear,
}
module!(Top: pooler, classifier);

/// Reads a BERT classifier for so many classes.
pub fn load(loader: &Loader<'_>, classes: i64) -> Result<Bert, ModelError> {
    let encoder = load_encoder(loader)?;
    let width = encoder.width();
    let top = Top {
        pooler: loader.linear("bert.pooler.dense", [width, width], true)?,
        classifier: loader.linear("classifier", [classes, width], true)?,
    };
    Ok(Bert { encoder, top })
}

/// Reads a BERT without its head.
pub fn load_encoder(loader: &Loader<'_>) -> Result<Encoder, ModelError> {
    let bert: BertConfig = loader.config.of_family()?;
    bert.check(loader)?;
    let activation = Activation::by_name(&bert.hidden_act)
        .map_err(|detail| loader.config.unsupported(detail))?;
    let (width, wide, eps) = (bert.hidden_size, bert.intermediate_size, bert.layer_norm_eps);
    let table = |name: &str, rows| {
        loader.embedding(&format!("bert.embeddings.{name}_embeddings"), [rows, width])
    };
    let embeddings = Embeddings {
        word: table("word", bert.vocab_size)?,
        position: table("position", bert.max_position_embeddings)?,
        token_type: table("token_type", bert.type_vocab_size)?,
        norm: loader.layer_norm("bert.embeddings.LayerNorm", width, eps)?,
    };
    let layers = (0..bert.num_hidden_layers).map(|index| {
        let name = format!("bert.encoder.layer.{index}");
        let linear = |part: &str, shape| loader.linear(&format!("{name}.{part}"), shape, true);
        let norm = |part: &str| loader.layer_norm(&format!("{name}.{part}.LayerNorm"), width, eps);
        Ok(Layer {
            query: linear("attention.self.query", [width, width])?,
            key: linear("attention.self.key", [width, width])?,
            value: linear("attention.self.value", [width, width])?,
            attention_output: linear("attention.output.dense", [width, width])?,
            attention_norm: norm("attention.output")?,
            intermediate: linear("intermediate.dense", [wide, width])?,
            output: linear("output.dense", [width, wide])?,
            output_norm: norm("output")?,
        })
    });
    let layers = layers.collect::<Result<_, ModelError>>()?;
    Ok(Encoder { embeddings, layers, settings: bert, activation })
}

impl BertConfig {
    fn check(&self, loader: &Loader<'_>) -> Result<(), ModelError> {
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return Err(loader.config.unsupported(format!(
                "position_embedding_type {positions:?} is not supported; only \"absolute\" is"
            )));
        }
        if self.is_decoder {
            let detail = "is_decoder: true is not supported; only encoders are";
            return Err(loader.config.unsupported(detail.into()));
        }
        loader.config.check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        if self.hidden_size % self.num_attention_heads != 0 {
            return Err(loader
                .config
                .malformed("num_attention_heads must divide hidden_size".into()));
        }
        Ok(())
    }
}

impl Network for Bert {
    fn stages(&self) -> usize {
        self.encoder.layers.len() + 2
    }

    fn stage(&self, index: usize) -> &dyn Module {
        stage_of(index, &self.encoder.embeddings, &self.encoder.layers, &self.top)
    }

    fn stage_mut(&mut self, index: usize) -> &mut dyn Module {
        let Encoder { embeddings, layers, .. } = &mut self.encoder;
        stage_of_mut(index, embeddings, layers, &mut self.top)
    }

    fn forward(&self, index: usize, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let encoder = &self.encoder;
        let Some(layer) = index.checked_sub(1) else { return encoder.embed(input, pass) };
        match encoder.layers.get(layer) {
            Some(part) => encoder.layer(part, layer + 1 == encoder.layers.len(), input, pass),
            None => self.classify(input, pass),
        }
    }

    fn onnx(&self, graph: &mut Graph) -> Option<Result<(), ModelError>> {
        Some(self.describe(graph))
    }
}

impl Encoder {
    /// `D`.
    pub fn width(&self) -> i64 {
        self.settings.hidden_size
    }

    /// ids `[B, T]` → `[B, T, D]`, at every position.
    pub fn forward(&self, ids: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let embedded = self.embed(ids, pass)?;
        self.layers
            .iter()
            .try_fold(embedded, |hidden, layer| self.layer(layer, false, &hidden, pass))
    }

    /// ids `[B, T]` → `[B, T, D]`.
    fn embed(&self, ids: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let Embeddings { word, position, token_type, norm } = &self.embeddings;
        let everywhere = position
            .weight
            .tensor
            .f_narrow(0, 0, ids.size()[1])?
            .f_add(&token_type.weight.tensor.f_narrow(0, 0, 1)?)?;
        let normed = norm.forward(&word.forward(ids)?.f_add(&everywhere)?)?;
        pass.dropout.apply(normed, self.settings.hidden_dropout_prob)
    }

    /// `[B, T, D]` → `[B, T, D]`, or `[B, 1, D]` where the first position alone is wanted.
    fn layer(
        &self,
        layer: &Layer,
        first_alone: bool,
        hidden: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let queries = if first_alone { hidden.f_narrow(1, 0, 1)? } else { hidden.shallow_clone() };
        let heads = |flat: Tensor| -> Result<Tensor, ModelError> {
            let size = self.settings.hidden_size / self.settings.num_attention_heads;
            Ok(split_heads(&flat, size)?.f_transpose(1, 2)?)
        };
        let query = heads(layer.query.forward(&queries, pass.dropout)?)?;
        let key = heads(layer.key.forward(hidden, pass.dropout)?)?;
        let value = heads(layer.value.forward(hidden, pass.dropout)?)?;
        let dropout = pass.dropout.share(self.settings.attention_probs_dropout_prob);
        let scores = Scores { scale: None, dropout };
        let attended = attend(&query, &key, &value, &pass.mask, scores)?;

        let drop = |input| pass.dropout.apply(input, self.settings.hidden_dropout_prob);
        let attended = drop(layer.attention_output.forward(&attended, pass.dropout)?)?;
        let attended = layer.attention_norm.forward(&attended.f_add(&queries)?)?;
        let wide =
            self.activation.forward(&layer.intermediate.forward(&attended, pass.dropout)?)?;
        let narrow = drop(layer.output.forward(&wide, pass.dropout)?)?;
        layer.output_norm.forward(&narrow.f_add(&attended)?)
    }
}

impl Bert {
    /// `[B, 1, D]` → logits `[B, C]`.
    fn classify(&self, hidden: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let pooled = self.top.pooler.forward(&hidden.f_select(1, 0)?, pass.dropout)?.f_tanh()?;
        let settings = &self.encoder.settings;
        let share = settings.classifier_dropout.unwrap_or(settings.hidden_dropout_prob);
        self.top.classifier.forward(&pass.dropout.apply(pooled, share)?, pass.dropout)
    }
}
