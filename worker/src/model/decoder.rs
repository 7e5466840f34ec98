//! A causal decoder: embeddings, layers with norms before each part, a last norm and a head, as
//! `LlamaModel` of transformers and its kin.

use nccl_rs::decoder::DecoderLayer;
use tch::{Kind, Tensor};

use super::ModelError;
use super::module::{Leaf, Module, module};
use super::network::{Network, Pass, stage_of, stage_of_mut};
use super::parts::activation::Activation;
use super::parts::attention::Attention;
use super::parts::embedding::Embedding;
use super::parts::experts::{FeedForward, Mixture};
use super::parts::linear::{Linear, LinearKind};
use super::parts::mla::LatentAttention;
use super::parts::norm::RmsNorm;
use super::parts::rope::{Rope, RopeTable};

/// A decoder with its head.
#[derive(Debug)]
pub struct Decoder {
    embed: Embedding,
    layers: Vec<Layer>,
    top: Top,
    rope: Rope,
}

/// One layer.
#[derive(Debug)]
pub struct Layer {
    /// Before attention.
    pub input_norm: RmsNorm,
    /// Attention.
    pub attention: SelfAttention,
    /// Before the feed-forward part.
    pub post_norm: RmsNorm,
    /// Feed-forward part.
    pub mlp: FeedForward,
}
module!(Layer: input_norm, attention, post_norm, mlp);

/// Attention of a layer.
#[derive(Debug)]
pub enum SelfAttention {
    /// Keys and values by heads.
    Grouped(Attention),
    /// Keys and values by a latent.
    Latent(LatentAttention),
}

/// What comes after the last layer.
#[derive(Debug)]
pub struct Top {
    /// After the last layer.
    pub norm: RmsNorm,
    /// Output.
    pub head: Head,
}
module!(Top: norm, head);

/// A decoder's output layer.
#[derive(Debug)]
pub enum Head {
    /// The transposed embeddings: logits over the vocabulary.
    Tied(Tensor),
    /// `lm_head [V, D]`, or `score [C, D]` of a classifier.
    Linear(Linear),
}

impl Head {
    /// `[V, D]`, where the head is a product with it and nothing more.
    fn weight(&self) -> Option<&Tensor> {
        match self {
            Self::Tied(weight)
            | Self::Linear(Linear { kind: LinearKind::Dense { weight, bias: None }, .. }) => {
                Some(weight)
            }
            Self::Linear(_) => None,
        }
    }
}

impl Decoder {
    /// Puts the parts together.
    pub fn new(embed: Embedding, layers: Vec<Layer>, top: Top, rope: Rope) -> Self {
        Self { embed, layers, top, rope }
    }
}

impl Layer {
    /// `[B, T, D]` → `[B, T, D]`.
    fn forward(
        &self,
        hidden: &Tensor,
        rope: &RopeTable,
        index: usize,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        if let Some(done) = self.at_once(hidden, rope, index, pass)? {
            return Ok(done);
        }
        let normed = self.input_norm.forward(hidden)?;
        let attended = match &self.attention {
            SelfAttention::Grouped(attention) => attention.forward(&normed, rope, index, pass)?,
            SelfAttention::Latent(attention) => attention.forward(&normed, rope, index, pass)?,
        };
        let hidden = hidden.f_add(&attended)?;
        Ok(hidden.f_add(&self.mlp.forward(&self.post_norm.forward(&hidden)?, pass.dropout)?)?)
    }

    /// The same in one call, for few new tokens of texts whose layers are held in few bits.
    fn at_once(
        &self,
        hidden: &Tensor,
        rope: &RopeTable,
        index: usize,
        pass: &Pass,
    ) -> Result<Option<Tensor>, ModelError> {
        let (Some(memory), SelfAttention::Grouped(attention), FeedForward::Dense(mlp)) =
            (&pass.memory, &self.attention, &self.mlp)
        else {
            return Ok(None);
        };
        if mlp.activation != Activation::Silu || hidden.kind() != Kind::Float {
            return Ok(None);
        }
        let parts = [
            &attention.query,
            &attention.key,
            &attention.value,
            &attention.output,
            &mlp.gate,
            &mlp.up,
            &mlp.down,
        ];
        let [Some(query), Some(key), Some(value), Some(output), Some(gate), Some(up), Some(down)] =
            parts.map(Linear::narrow)
        else {
            return Ok(None);
        };
        let Some((cos, sin)) = rope.halves() else { return Ok(None) };
        let head_size = attention.head_size;
        let mut memory = memory.borrow_mut();
        let each = [key.size()[0] / head_size.max(1), head_size];
        let Some((places, tokens)) = memory.direct(index, each)? else { return Ok(None) };
        if tokens != rope.tokens() {
            return Ok(None);
        }
        let layer = DecoderLayer {
            input_norm: scale_of(&self.input_norm),
            post_norm: scale_of(&self.post_norm),
            query_norm: attention.query_norm.as_ref().map(scale_of),
            key_norm: attention.key_norm.as_ref().map(scale_of),
            query,
            key,
            value,
            output,
            gate,
            up,
            down,
            head_size,
        };
        Ok(Some(layer.forward(&hidden.f_contiguous()?, (&cos, &sin), &places)?))
    }
}

fn scale_of(norm: &RmsNorm) -> (&Tensor, f64) {
    (&norm.weight.tensor, norm.eps)
}

impl Top {
    /// What the head reads of `hidden` `[B, T, D]`: all of it, or the selected positions, `[N, D]`.
    fn normed(&self, hidden: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let hidden = match &pass.select {
            Some(select) => {
                let width = hidden.size()[2];
                hidden.f_reshape([-1, width])?.f_index_select(0, select)?
            }
            None => hidden.shallow_clone(),
        };
        self.norm.forward(&hidden)
    }

    fn logits(&self, normed: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        match &self.head {
            Head::Tied(weight) => Ok(normed.f_linear(weight, None::<&Tensor>)?),
            Head::Linear(linear) => linear.forward(normed, pass.dropout),
        }
    }

    /// `[B, T, D]` → logits `[B, T, V]`, or what the pass wants of the selected positions alone: the
    /// head is often the largest product of all.
    fn forward(&self, hidden: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let normed = self.normed(hidden, pass)?;
        pass.output.of(&normed, self.head.weight(), || self.logits(&normed, pass))
    }
}

impl Network for Decoder {
    fn stages(&self) -> usize {
        self.layers.len() + 2
    }

    fn stage(&self, index: usize) -> &dyn Module {
        stage_of(index, &self.embed, &self.layers, &self.top)
    }

    fn stage_mut(&mut self, index: usize) -> &mut dyn Module {
        stage_of_mut(index, &mut self.embed, &mut self.layers, &mut self.top)
    }

    fn forward(&self, index: usize, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        let Some(layer) = index.checked_sub(1) else { return self.embed.forward(input) };
        match (self.layers.get(layer), &pass.rope) {
            (Some(blocks), Some(rope)) => blocks.forward(input, rope, layer, pass),
            (Some(_), None) => Err(ModelError::Pass("a decoder's pass needs positions")),
            (None, _) => self.top.forward(input, pass),
        }
    }

    fn head_input(&self, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError> {
        self.top.normed(input, pass)
    }

    fn head_weight(&self) -> Option<Tensor> {
        self.top.head.weight().map(Tensor::shallow_clone)
    }

    fn rope(&self) -> Option<&Rope> {
        Some(&self.rope)
    }

    fn is_tied(&self) -> bool {
        matches!(self.top.head, Head::Tied(_))
    }

    fn untie(&mut self) {
        if let Head::Tied(weight) = &self.top.head {
            let kind = LinearKind::Dense { weight: weight.shallow_clone(), bias: None };
            self.top.head = Head::Linear(Linear { name: "lm_head".to_owned(), kind });
        }
    }

    fn mixtures(&mut self) -> Vec<(usize, &mut Mixture)> {
        let layers = self.layers.iter_mut().enumerate();
        layers
            .filter_map(|(index, layer)| match &mut layer.mlp {
                FeedForward::Mixture(mixture) => Some((index + 1, mixture)),
                FeedForward::Dense(_) => None,
            })
            .collect()
    }
}

impl Module for SelfAttention {
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>)) {
        match self {
            Self::Grouped(attention) => attention.leaves(visit),
            Self::Latent(attention) => attention.leaves(visit),
        }
    }

    fn linears_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut Linear)) {
        match self {
            Self::Grouped(attention) => attention.linears_mut(visit),
            Self::Latent(attention) => attention.linears_mut(visit),
        }
    }
}

impl Module for Head {
    fn leaves<'a>(&'a self, visit: &mut dyn FnMut(Leaf<'a>)) {
        if let Self::Linear(linear) = self {
            linear.leaves(visit);
        }
    }

    fn linears_mut<'a>(&'a mut self, visit: &mut dyn FnMut(&'a mut Linear)) {
        if let Self::Linear(linear) = self {
            linear.linears_mut(visit);
        }
    }
}
