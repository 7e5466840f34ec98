//! A network is a chain of stages: embeddings, blocks, head.
//!
//! The chain is what pipelines cut, what sharding gathers one by one, and where activations are
//! recomputed. Each stage maps a tensor to a tensor; what all of them need besides is in [`Pass`].

use std::cell::RefCell;
use std::fmt;

use tch::{Device, Kind, Tensor};

use super::ModelError;
use super::memory::{Attended, Memory, Rows, seen_after};
use super::module::Module;
use super::parts::attention::attend;
use super::parts::dropout::Dropout;
use super::parts::experts::Mixture;
use super::parts::output::Output;
use super::parts::rope::{Rope, RopeTable};
use crate::onnx::Graph;

/// Single-device maths of a model.
pub trait Network: fmt::Debug + Send {
    /// Stages: the first takes the input (token ids or pixels), the last gives the output.
    fn stages(&self) -> usize;

    /// What a stage holds.
    fn stage(&self, index: usize) -> &dyn Module;

    /// As [`Self::stage`], to put other linear layers in.
    fn stage_mut(&mut self, index: usize) -> &mut dyn Module;

    /// Output of stage `index` for the output of the one before it.
    fn forward(&self, index: usize, input: &Tensor, pass: &Pass) -> Result<Tensor, ModelError>;

    /// What the head of a decoder reads, `[N, D]`, for the output of the stage before it.
    fn head_input(&self, _input: &Tensor, _pass: &Pass) -> Result<Tensor, ModelError> {
        Err(ModelError::Pass("only a decoder's head is split"))
    }

    /// Weight `[V, D]` of the last stage's product, where that is all that its head does.
    fn head_weight(&self) -> Option<Tensor> {
        None
    }

    /// Angles by position, where the network has rotary embeddings.
    fn rope(&self) -> Option<&Rope> {
        None
    }

    /// Whether the last stage works with a tensor of the first: tied embeddings.
    fn is_tied(&self) -> bool {
        false
    }

    /// Lets the last stage have the tensor that it shares for its own, as a linear layer. For
    /// inference: what is trained stays tied.
    fn untie(&mut self) {}

    /// Puts the same maths into an ONNX graph, where the family can say it so.
    fn onnx(&self, _graph: &mut Graph) -> Option<Result<(), ModelError>> {
        None
    }

    /// Mixtures of experts with their stages, in the order of the forward pass.
    fn mixtures(&mut self) -> Vec<(usize, &mut Mixture)> {
        Vec::new()
    }
}

/// Runs the stages of a network in its own way: parts of them on other ranks, with weights that
/// are there only while they are used, or without keeping activations.
pub trait Runner: fmt::Debug + Send + Sync {
    /// What the last stage gives for `input`, or [`ModelError::Elsewhere`].
    fn forward(
        &self,
        network: &dyn Network,
        input: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError>;
}

/// Stage `index` of a chain that has one stage before its layers and one behind them.
pub fn stage_of<'a, L: Module>(
    index: usize,
    first: &'a dyn Module,
    layers: &'a [L],
    last: &'a dyn Module,
) -> &'a dyn Module {
    match index.checked_sub(1).map(|layer| layers.get(layer)) {
        None => first,
        Some(Some(layer)) => layer,
        Some(None) => last,
    }
}

/// As [`stage_of`], to put other linear layers in.
pub fn stage_of_mut<'a, L: Module>(
    index: usize,
    first: &'a mut dyn Module,
    layers: &'a mut [L],
    last: &'a mut dyn Module,
) -> &'a mut dyn Module {
    match index.checked_sub(1).map(|layer| layers.get_mut(layer)) {
        None => first,
        Some(Some(layer)) => layer,
        Some(None) => last,
    }
}

/// Who sees whom.
#[derive(Debug)]
pub enum Mask {
    /// All see all.
    None,
    /// All see the tokens where this bool `[B, 1, 1, T]` is set.
    Keys(Tensor),
    /// Each sees itself and what comes before. Rows filled up on the right need no more: what is
    /// filled up comes after all that counts.
    Causal,
    /// As `Causal`, within documents of these lengths; the batch is one row.
    Packed(Vec<i64>),
}

/// What all stages of one forward pass need.
#[derive(Debug)]
pub struct Pass {
    /// Who sees whom.
    pub mask: Mask,
    /// Angles, where the network has rotary embeddings.
    pub rope: Option<RopeTable>,
    /// Whether activations are dropped.
    pub dropout: Dropout,
    /// Of a decoder: positions in the flattened `[B·T]` whose output is wanted; all without it.
    pub select: Option<Tensor>,
    /// Of a decoder: what its last stage gives of them.
    pub output: Output,
    /// What earlier passes of the same texts left.
    pub memory: Option<RefCell<Memory>>,
}

impl Pass {
    /// Of an encoder. `mask` i64 or bool `[B, T]` is 1 where there is a token.
    pub fn encoder(mask: Option<&Tensor>, dropout: Dropout) -> Result<Self, ModelError> {
        let mask = match mask {
            Some(mask) => Mask::Keys(mask.f_to_kind(Kind::Bool)?.f_unsqueeze(1)?.f_unsqueeze(1)?),
            None => Mask::None,
        };
        Ok(Self { mask, rope: None, dropout, select: None, output: Output::Logits, memory: None })
    }

    /// Of a decoder, over `tokens` tokens a row.
    pub fn decoder(
        network: &dyn Network,
        tokens: i64,
        device: Device,
        dropout: Dropout,
    ) -> Result<Self, ModelError> {
        let rope = network.rope().map(|rope| rope.range(0, tokens, device)).transpose()?;
        Ok(Self {
            mask: Mask::Causal,
            rope,
            dropout,
            select: None,
            output: Output::Logits,
            memory: None,
        })
    }

    /// Of a decoder, over one row of documents of these `lengths`; positions start anew in each.
    pub fn packed(
        network: &dyn Network,
        lengths: Vec<i64>,
        device: Device,
        dropout: Dropout,
    ) -> Result<Self, ModelError> {
        let positions: Vec<i64> = lengths.iter().flat_map(|length| 0..*length).collect();
        let positions = Tensor::f_from_slice(&positions)?.f_to_device(device)?;
        let rope = network.rope().map(|rope| rope.table(&positions)).transpose()?;
        Ok(Self {
            mask: Mask::Packed(lengths),
            rope,
            dropout,
            select: None,
            output: Output::Logits,
            memory: None,
        })
    }

    /// Of a decoder that goes on after what `memory` holds, `tokens` tokens a row.
    pub fn continued(
        network: &dyn Network,
        memory: Memory,
        tokens: i64,
        device: Device,
    ) -> Result<Self, ModelError> {
        let Memory::Rows(Rows { length: start, .. }) = memory else {
            return Err(ModelError::Pass("rows go on after rows, not after pages"));
        };
        let rope = network.rope().map(|rope| rope.range(start, tokens, device)).transpose()?;
        // libtorch's causal mask is that of a square.
        let mask = if start > 0 && tokens > 1 {
            Mask::Keys(seen_after(tokens, start + tokens, device)?)
        } else {
            Mask::Causal
        };
        let mut memory = memory;
        if let Memory::Rows(rows) = &mut memory {
            rows.length += tokens;
        }
        Ok(Self {
            mask,
            rope,
            dropout: Dropout::Off,
            select: None,
            output: Output::Logits,
            memory: Some(RefCell::new(memory)),
        })
    }

    /// Of a decoder, over one row of new tokens of many texts, at these `positions` in them, i64
    /// `[N]`. What it remembers them by is its `memory`, a [`Memory::Paged`].
    pub fn paged(network: &dyn Network, positions: &Tensor) -> Result<Self, ModelError> {
        Ok(Self {
            mask: Mask::None,
            rope: network.rope().map(|rope| rope.table(positions)).transpose()?,
            dropout: Dropout::Off,
            select: None,
            output: Output::Logits,
            memory: None,
        })
    }

    /// The same pass once more, to make its activations anew. Shares tensors; remembers nothing.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            mask: match &self.mask {
                Mask::None => Mask::None,
                Mask::Keys(keys) => Mask::Keys(keys.shallow_clone()),
                Mask::Causal => Mask::Causal,
                Mask::Packed(lengths) => Mask::Packed(lengths.clone()),
            },
            rope: self.rope.as_ref().map(RopeTable::shallow_clone),
            dropout: self.dropout,
            select: self.select.as_ref().map(Tensor::shallow_clone),
            output: self.output.shallow_clone(),
            memory: None,
        }
    }

    /// Attention of layer `layer`, over what is remembered where anything is: `[B, Q, H·v]`.
    pub fn attend(&self, layer: usize, attended: Attended<'_>) -> Result<Tensor, ModelError> {
        if let Some(memory) = &self.memory {
            return memory.borrow_mut().attend(layer, attended, &self.mask);
        }
        let Attended { query, new: (first, second), scores, widen } = attended;
        let (key, value) = match widen {
            Some(widen) => widen(first, second)?,
            None => (first, second),
        };
        attend(query, &key, &value, &self.mask, scores)
    }
}
