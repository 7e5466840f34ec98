//! Vision transformer (Dosovitskiy et al. 2021), as transformers' `ViTForImageClassification`.
//!
//! Shapes: `B` rows, `C` channels, `H` by `W` pixels, `P` patches, `Q` query positions, `D` width.
//!
//! The classifier reads the first position of the last layer alone, so the last layer computes
//! queries, attention and feed-forward for that position only (`Q = 1`).

mod onnx;

use serde::Deserialize;
use tch::Tensor;

use crate::model::ModelError;
use crate::model::loader::Loader;
use crate::model::module::{Module, Role, Weight, module};
use crate::model::network::{Network, Pass, stage_of, stage_of_mut};
use crate::model::parts::activation::Activation;
use crate::model::parts::attention::{Scores, attend, split_heads};
use crate::model::parts::convolution::{Convolution, Padding, Window};
use crate::model::parts::linear::Linear;
use crate::model::parts::norm::LayerNorm;
use crate::onnx::Graph;

/// An encoder of patches with a classifier.
#[derive(Debug)]
pub struct Vit {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    top: Top,
    settings: VitConfig,
    activation: Activation,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
struct VitConfig {
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    hidden_act: String,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    layer_norm_eps: f64,
    image_size: Edges,
    patch_size: Edges,
    num_channels: i64,
    qkv_bias: bool,
}

/// Height and width, or one number for both.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Edges {
    Both(i64),
    Each([i64; 2]),
}

impl Edges {
    fn pair(self) -> [i64; 2] {
        match self {
            Self::Both(edge) => [edge; 2],
            Self::Each(edges) => edges,
        }
    }
}

/// Defaults of transformers' `ViTConfig`.
impl Default for VitConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            layer_norm_eps: 1e-12,
            image_size: Edges::Both(224),
            patch_size: Edges::Both(16),
            num_channels: 3,
            qkv_bias: true,
        }
    }
}

/// Patches, a first position for the whole picture, and where each is.
#[derive(Debug)]
struct Embeddings {
    /// `[D, C, patch, patch]`.
    projection: Convolution,
    /// `[1, 1, D]`.
    cls_token: Weight,
    /// `[1, 1 + P, D]`.
    position: Weight,
}
module!(Embeddings: projection, cls_token, position);

/// One layer: self-attention, then a feed-forward part, each with a layer norm before it and a
/// residual connection.
#[derive(Debug)]
struct Layer {
    norm_before: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    norm_after: LayerNorm,
    intermediate: Linear,
    output: Linear,
}
module!(Layer: norm_before, query, key, value, attention_output, norm_after, intermediate, output);

/// What comes after the last layer.
#[derive(Debug)]
struct Top {
    norm: LayerNorm,
    classifier: Linear,
}
module!(Top: norm, classifier);

/// Reads a ViT for so many classes.
pub fn load(loader: &Loader<'_>, classes: i64) -> Result<Vit, ModelError> {
    let vit: VitConfig = loader.config.of_family()?;
    let patches = vit.check(loader)?;
    let activation =
        Activation::by_name(&vit.hidden_act).map_err(|detail| loader.config.unsupported(detail))?;
    let (width, wide, eps) = (vit.hidden_size, vit.intermediate_size, vit.layer_norm_eps);
    let patch = vit.patch_size.pair();
    let window =
        Window { kernel: patch, stride: patch, padding: Padding::Each(0), ..Window::square(1) };
    let embeddings = Embeddings {
        projection: loader.convolution(
            "vit.embeddings.patch_embeddings.projection",
            [width, vit.num_channels],
            true,
            window,
        )?,
        cls_token: loader.weight("vit.embeddings.cls_token", &[1, 1, width], Role::Decayed)?,
        position: loader.weight(
            "vit.embeddings.position_embeddings",
            &[1, 1 + patches, width],
            Role::Decayed,
        )?,
    };
    let layers = (0..vit.num_hidden_layers).map(|index| {
        let name = format!("vit.encoder.layer.{index}");
        let linear =
            |part: &str, shape, bias| loader.linear(&format!("{name}.{part}"), shape, bias);
        let norm = |part: &str| loader.layer_norm(&format!("{name}.{part}"), width, eps);
        let projection =
            |part: &str| linear(&format!("attention.attention.{part}"), [width; 2], vit.qkv_bias);
        Ok(Layer {
            norm_before: norm("layernorm_before")?,
            query: projection("query")?,
            key: projection("key")?,
            value: projection("value")?,
            attention_output: linear("attention.output.dense", [width, width], true)?,
            norm_after: norm("layernorm_after")?,
            intermediate: linear("intermediate.dense", [wide, width], true)?,
            output: linear("output.dense", [width, wide], true)?,
        })
    });
    let layers = layers.collect::<Result<_, ModelError>>()?;
    let top = Top {
        norm: loader.layer_norm("vit.layernorm", width, eps)?,
        classifier: loader.linear("classifier", [classes, width], true)?,
    };
    Ok(Vit { embeddings, layers, top, settings: vit, activation })
}

impl VitConfig {
    /// Patches of a picture, where the sizes go together.
    fn check(&self, loader: &Loader<'_>) -> Result<i64, ModelError> {
        let ([height, width], [rows, columns]) = (self.image_size.pair(), self.patch_size.pair());
        loader.config.check_sizes(&[
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("num_channels", self.num_channels),
            ("image_size", height.min(width)),
            ("patch_size", rows.min(columns)),
        ])?;
        if self.hidden_size % self.num_attention_heads != 0 {
            return Err(loader
                .config
                .malformed("num_attention_heads must divide hidden_size".into()));
        }
        if rows > height || columns > width {
            return Err(loader.config.malformed("patch_size is larger than image_size".into()));
        }
        Ok((height / rows) * (width / columns))
    }
}

impl Network for Vit {
    fn stages(&self) -> usize {
        self.layers.len() + 2
    }

    fn stage(&self, index: usize) -> &dyn Module {
        stage_of(index, &self.embeddings, &self.layers, &self.top)
    }

    fn stage_mut(&mut self, index: usize) -> &mut dyn Module {
        stage_of_mut(index, &mut self.embeddings, &mut self.layers, &mut self.top)
    }

    fn forward(&self, index: usize, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let Some(layer) = index.checked_sub(1) else { return self.embed(input, pass) };
        match self.layers.get(layer) {
            Some(part) => self.layer(part, layer + 1 == self.layers.len(), input, pass),
            None => self.classify(input, pass),
        }
    }

    fn onnx(&self, graph: &mut Graph) -> Option<Result<(), ModelError>> {
        Some(self.describe(graph))
    }
}

impl Vit {
    /// Pixels `[B, C, H, W]` → `[B, 1 + P, D]`.
    fn embed(&self, pixels: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let Embeddings { projection, cls_token, position } = &self.embeddings;
        let patches = projection.forward(pixels)?.f_flatten(2, -1)?.f_transpose(1, 2)?;
        if patches.size()[1] + 1 != position.tensor.size()[1] {
            return Err(ModelError::Pass(
                "the pictures are not of the model's image_size; preprocessor_config.json and config.json are not of one model",
            ));
        }
        let first = cls_token.tensor.f_expand([pixels.size()[0], 1, -1], false)?;
        let embedded = Tensor::f_cat(&[first, patches], 1)?.f_add(&position.tensor)?;
        pass.dropout.apply(embedded, self.settings.hidden_dropout_prob)
    }

    /// `[B, 1 + P, D]` → the same shape, of the last layer `[B, 1, D]`.
    fn layer(
        &self,
        layer: &Layer,
        last: bool,
        hidden: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let asked = |all: &Tensor| {
            if last { all.f_narrow(1, 0, 1) } else { Ok(all.shallow_clone()) }
        };
        let heads = |flat: Tensor| -> Result<Tensor, ModelError> {
            let size = self.settings.hidden_size / self.settings.num_attention_heads;
            Ok(split_heads(&flat, size)?.f_transpose(1, 2)?)
        };
        let normed = layer.norm_before.forward(hidden)?;
        let query = heads(layer.query.forward(&asked(&normed)?, pass.dropout)?)?;
        let key = heads(layer.key.forward(&normed, pass.dropout)?)?;
        let value = heads(layer.value.forward(&normed, pass.dropout)?)?;
        let dropout = pass.dropout.share(self.settings.attention_probs_dropout_prob);
        let scores = Scores { scale: None, dropout };
        let attended = attend(&query, &key, &value, &pass.mask, scores)?;

        let drop = |input| pass.dropout.apply(input, self.settings.hidden_dropout_prob);
        let attended = drop(layer.attention_output.forward(&attended, pass.dropout)?)?;
        let hidden = asked(hidden)?.f_add(&attended)?;
        let normed = layer.norm_after.forward(&hidden)?;
        let wide = self.activation.forward(&layer.intermediate.forward(&normed, pass.dropout)?)?;
        Ok(hidden.f_add(&drop(layer.output.forward(&wide, pass.dropout)?)?)?)
    }

    /// `[B, 1, D]` → logits `[B, C]`.
    fn classify(&self, hidden: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let first = self.top.norm.forward(&hidden.f_select(1, 0)?)?;
        self.top.classifier.forward(&first, pass.dropout)
    }
}
