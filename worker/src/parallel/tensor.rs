//! Layers that are split over ranks (Shoeybi et al. 2019, Megatron-LM): the first linear layer of
//! a pair by outputs (columns of `x Wᵀ`), the second by inputs (rows), so that only its outputs
//! are summed; attention so holds some of the heads. Embeddings and the head over the vocabulary
//! are split by its tokens.
//!
//! What is split is told by names, as transformers' `base_model_tp_plan` tells it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tch::Tensor;

use super::OverTensor;
use super::groups::{SharedGroup, locked};
use crate::error::Error;
use crate::model::{
    Dropout, Head, Linear, LinearKind, LinearOp, Model, ModelConfig, ModelError, Network, Pass,
};

/// Last parts of names of layers that are split by outputs, those that read the same input one
/// behind the other.
const BY_OUTPUT: [&[&str]; 7] = [
    &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    &["gate_proj", "up_proj"],
    &["self_attn.q_b_proj"],
    &["attention.self.query"],
    &["attention.self.key", "attention.self.value"],
    &["intermediate.dense"],
    &[LATENT_UP],
];
/// Last parts of names of layers that are split by inputs.
const BY_INPUT: [&str; 3] = ["o_proj", "down_proj", "output.dense"];
/// DeepSeek's latent: every head reads all of it, and of the rotary key beside it.
const LATENT_DOWN: &str = "self_attn.kv_a_proj_with_mqa";
const LATENT_UP: &str = "self_attn.kv_b_proj";
/// Last parts of names of norms within heads.
const WITHIN_HEADS: [&str; 3] = ["q_norm.weight", "k_norm.weight", "kv_a_layernorm.weight"];
const EMBEDDINGS: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const LAST_NORM: &str = "model.norm.weight";

/// What was split, by name: shape of the whole and where this rank's part lies.
#[derive(Debug, Default)]
pub struct Splits {
    parts: BTreeMap<String, (Vec<i64>, Vec<i64>)>,
    /// The vocabulary, where it is split.
    pub vocabulary: Option<Vocabulary>,
}

/// This rank's tokens.
#[derive(Debug)]
pub struct Vocabulary {
    group: SharedGroup,
    start: i64,
    tokens: i64,
    /// Whether the last stage gives logits over the vocabulary.
    is_head: bool,
}

impl Splits {
    /// Shape of the whole and offsets of this rank's part of a tensor.
    pub fn place(&self, name: &str, tensor: &Tensor) -> (Vec<i64>, Vec<i64>) {
        self.parts
            .get(name)
            .cloned()
            .unwrap_or_else(|| (tensor.size(), vec![0; tensor.size().len()]))
    }

    /// What the ranks along `tensor` hold of a tensor.
    pub fn over_tensor(&self, name: &str) -> OverTensor {
        let beside_tokens =
            name == LAST_NORM && self.vocabulary.as_ref().is_some_and(|tokens| tokens.is_head);
        match () {
            () if self.parts.contains_key(name) => OverTensor::Split,
            () if beside_tokens || WITHIN_HEADS.iter().any(|end| ends_in(name, end)) => {
                OverTensor::Partial
            }
            () => OverTensor::Copied,
        }
    }
}

/// Keeps of each layer the part that is this rank's. Every rank has read the whole.
pub fn split(model: &mut Model, group: &SharedGroup) -> Result<Splits, Error> {
    let (place, ways) = {
        let group = locked(group);
        (signed(group.rank()), signed(group.size()))
    };
    check_heads(&model.config, ways)?;
    let mut splits = Splits::default();
    let latent = model.config.raw.contains_key("kv_lora_rank");
    let mut cutter = Cutter { group, place, ways, latent, splits: &mut splits };
    for stage in 0..model.network().stages() {
        let (mut failed, mut shared) = (None, None);
        model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
            if failed.is_none() {
                failed = cutter.linear(linear, &mut shared).err();
            }
        });
        failed.map_or(Ok(()), Err)?;
    }
    if cutter.splits.parts.is_empty() {
        let detail = "parallelism.tensor: no layer of this family is split; use sharding";
        return Err(model.config.unsupported(detail.into()).into());
    }
    let vocabulary = cutter.vocabulary(model)?;
    splits.vocabulary = vocabulary;
    Ok(splits)
}

/// Heads are dealt whole.
fn check_heads(config: &ModelConfig, ways: i64) -> Result<(), ModelError> {
    let number = |name: &str| config.raw.get(name).and_then(Value::as_i64);
    let heads = number("num_attention_heads");
    // Latent attention has as many key heads as query heads, whatever the file says.
    let latent = config.raw.contains_key("kv_lora_rank");
    let keys = if latent { None } else { number("num_key_value_heads") };
    for (name, heads) in [("num_attention_heads", heads), ("num_key_value_heads", keys)] {
        if let Some(heads) = heads.filter(|heads| heads % ways != 0) {
            return Err(config.unsupported(format!(
                "{name} is {heads}, which parallelism.tensor {ways} does not divide; use one that does"
            )));
        }
    }
    Ok(())
}

/// Cuts tensors.
struct Cutter<'a> {
    group: &'a SharedGroup,
    place: i64,
    ways: i64,
    /// Whether queries are alone in reading the layer's input.
    latent: bool,
    splits: &'a mut Splits,
}

impl Cutter<'_> {
    /// Puts a split layer in the place of a whole one, where its name says so. `shared` is the
    /// input of the layers before, where this one may read it, too.
    fn linear(
        &mut self,
        linear: &mut Linear,
        shared: &mut Option<Arc<SharedInput>>,
    ) -> Result<(), ModelError> {
        let columns = BY_OUTPUT.iter().find_map(|names| {
            let position = names.iter().position(|end| ends_in(&linear.name, end))?;
            Some((position, names.len()))
        });
        let by_input = BY_INPUT.iter().any(|end| ends_in(&linear.name, end));
        let latent = ends_in(&linear.name, LATENT_DOWN);
        if columns.is_none() && !by_input && !latent {
            return Ok(());
        }
        let LinearKind::Dense { weight, bias } = &linear.kind else {
            return Err(ModelError::Pass("only dense layers are split over ranks; remove peft"));
        };
        let (weight, bias) = (weight.shallow_clone(), bias.as_ref().map(Tensor::shallow_clone));
        let group = Arc::clone(self.group);
        let op: Box<dyn LinearOp> = if let Some((position, of)) = columns {
            self.cut(&format!("{}.weight", linear.name), &weight, 0)?;
            if let Some(bias) = &bias {
                self.cut(&format!("{}.bias", linear.name), bias, 0)?;
            }
            if position == 0 || shared.is_none() {
                *shared = Some(Arc::new(SharedInput { group, copied: Mutex::new(None) }));
            }
            let whole = ends_in(&linear.name, LATENT_UP);
            let input = shared.as_ref().filter(|_| !whole).map(Arc::clone);
            let last = position + 1 == of || (self.latent && ends_in(&linear.name, "q_proj"));
            Box::new(ByOutput { weight, bias, input, first: position == 0, last })
        } else if by_input {
            self.cut(&format!("{}.weight", linear.name), &weight, 1)?;
            Box::new(ByInput { weight, bias, group })
        } else {
            Box::new(BeforeHeads { weight, bias, group })
        };
        linear.kind = LinearKind::Other(op);
        Ok(())
    }

    /// Keeps this rank's part, along `dimension`.
    fn cut(&mut self, name: &str, tensor: &Tensor, dimension: usize) -> Result<(), ModelError> {
        let whole = tensor.size();
        let length = whole[dimension];
        if length % self.ways != 0 {
            // The sizes were checked where files were read; only wide layers get here.
            return Err(ModelError::Operator(nccl_rs::Error::InvalidArgument(format!(
                "{name} has {length} rows or columns, which parallelism.tensor {} does not divide; use one that does",
                self.ways
            ))));
        }
        let part = length / self.ways;
        let mut offsets = vec![0; whole.len()];
        offsets[dimension] = self.place * part;
        let own = tensor.detach().f_narrow(signed(dimension), offsets[dimension], part)?;
        let mut copy = Tensor::f_empty(own.size(), (own.kind(), own.device()))?;
        copy.f_copy_(&own)?;
        nccl_rs::storage::replace(tensor, &copy)?;
        self.splits.parts.insert(name.to_owned(), (whole, offsets));
        Ok(())
    }

    /// Splits embeddings and head of a decoder, where tokens can be dealt evenly.
    fn vocabulary(&mut self, model: &Model) -> Result<Option<Vocabulary>, ModelError> {
        let all = model.tensors();
        let find = |name: &str| all.iter().find(|tensor| tensor.name == name);
        let Some(embeddings) = find(EMBEDDINGS) else { return Ok(None) };
        let rows = embeddings.tensor.size()[0];
        if rows % self.ways != 0 {
            return Ok(None);
        }
        let tokens = rows / self.ways;
        self.cut(EMBEDDINGS, &embeddings.tensor, 0)?;
        if let Some(head) = find(HEAD) {
            self.cut(HEAD, &head.tensor, 0)?;
        }
        Ok(Some(Vocabulary {
            group: Arc::clone(self.group),
            start: self.place * tokens,
            tokens,
            is_head: model.head == Head::CausalLm,
        }))
    }
}

impl Vocabulary {
    /// A stage of `stages`; first and last see this rank's tokens only.
    pub fn forward(
        &self,
        network: &dyn Network,
        stage: usize,
        input: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        if stage == 0 {
            let own = input.f_sub_scalar(self.start)?;
            let others = own.f_lt(0)?.f_logical_or(&own.f_ge(self.tokens)?)?;
            let known = network.forward(0, &own.f_masked_fill(&others, 0)?, pass)?;
            let known = known.f_masked_fill(&others.f_unsqueeze(-1)?, 0.0)?;
            return Ok(locked(&self.group).sum_of_ranks(&known)?);
        }
        if stage + 1 < network.stages() || !self.is_head {
            return network.forward(stage, input, pass);
        }
        let input = locked(&self.group).copy_to_ranks(input)?;
        let logits = network.logits(&input, pass)?;
        pass.output.of_logits(locked(&self.group).join_of_ranks(&logits, -1)?)
    }
}

/// An input that neighbouring layers read: its gradient is summed over ranks once.
#[derive(Debug)]
struct SharedInput {
    group: SharedGroup,
    copied: Mutex<Option<(Tensor, Tensor)>>,
}

impl SharedInput {
    fn copied(&self, input: &Tensor, first: bool, last: bool) -> Result<Tensor, ModelError> {
        let mut kept = self.copied.lock().unwrap_or_else(PoisonError::into_inner);
        if !first
            && let Some((of, copied)) = kept.as_ref()
            && of.data_ptr() == input.data_ptr()
            && of.size() == input.size()
        {
            let copied = copied.shallow_clone();
            if last {
                *kept = None;
            }
            return Ok(copied);
        }
        let copied = locked(&self.group).copy_to_ranks(input)?;
        *kept = (!last).then(|| (input.shallow_clone(), copied.shallow_clone()));
        Ok(copied)
    }
}

/// A layer of which this rank has some outputs.
#[derive(Debug)]
struct ByOutput {
    /// `[N / ways, K]`.
    weight: Tensor,
    /// `[N / ways]`.
    bias: Option<Tensor>,
    /// None where the layer before has summed gradients.
    input: Option<Arc<SharedInput>>,
    /// Of those that share the input.
    first: bool,
    last: bool,
}

/// A layer of which this rank has some inputs.
#[derive(Debug)]
struct ByInput {
    /// `[N, K / ways]`.
    weight: Tensor,
    /// `[N]`, added once.
    bias: Option<Tensor>,
    group: SharedGroup,
}

/// A layer that every rank has whole, and whose outputs each uses for its own heads.
#[derive(Debug)]
struct BeforeHeads {
    /// `[N, K]`.
    weight: Tensor,
    /// `[N]`.
    bias: Option<Tensor>,
    group: SharedGroup,
}

impl LinearOp for ByOutput {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let copied = match &self.input {
            Some(shared) => shared.copied(input, self.first, self.last)?,
            None => input.shallow_clone(),
        };
        Ok(copied.f_linear(&self.weight, self.bias.as_ref())?)
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.weight, self.bias.as_ref())
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        Some(Ok(dense(&self.weight, self.bias.as_ref())))
    }
}

impl LinearOp for ByInput {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let part = input.f_linear(&self.weight, None::<&Tensor>)?;
        let sum = locked(&self.group).sum_of_ranks(&part)?;
        match &self.bias {
            Some(bias) => Ok(sum.f_add(bias)?),
            None => Ok(sum),
        }
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.weight, self.bias.as_ref())
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        Some(Ok(dense(&self.weight, self.bias.as_ref())))
    }
}

impl LinearOp for BeforeHeads {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let output = input.f_linear(&self.weight, self.bias.as_ref())?;
        Ok(locked(&self.group).copy_to_ranks(&output)?)
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.weight, self.bias.as_ref())
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        Some(Ok(dense(&self.weight, self.bias.as_ref())))
    }
}

fn named(weight: &Tensor, bias: Option<&Tensor>) -> Vec<(String, Tensor)> {
    let weight = ("weight".to_owned(), weight.shallow_clone());
    let bias = bias.map(|bias| ("bias".to_owned(), bias.shallow_clone()));
    std::iter::once(weight).chain(bias).collect()
}

/// The layer without ranks, once [`super::collect`] has put the whole weights in place.
fn dense(weight: &Tensor, bias: Option<&Tensor>) -> LinearKind {
    LinearKind::Dense { weight: weight.shallow_clone(), bias: bias.map(Tensor::shallow_clone) }
}

/// Whether whole parts of `name` end in `end`.
fn ends_in(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Numbers of ranks and sizes of tensors fit `i64`.
fn signed(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_between_embeddings_and_head_has_at_most_one_way_to_be_split() {
        let columns = |name: &str| {
            BY_OUTPUT.iter().flat_map(|ends| ends.iter()).filter(|end| ends_in(name, end)).count()
        };
        let rows = |name: &str| BY_INPUT.iter().filter(|end| ends_in(name, end)).count();
        for (name, want) in [
            ("model.layers.0.self_attn.q_proj", (1, 0)),
            ("model.layers.0.self_attn.o_proj", (0, 1)),
            ("model.layers.3.mlp.experts.7.down_proj", (0, 1)),
            ("model.layers.3.mlp.shared_experts.up_proj", (1, 0)),
            ("model.layers.0.self_attn.q_a_proj", (0, 0)),
            ("bert.encoder.layer.0.attention.self.key", (1, 0)),
            ("bert.encoder.layer.0.intermediate.dense", (1, 0)),
            ("bert.encoder.layer.0.attention.output.dense", (0, 1)),
            ("bert.pooler.dense", (0, 0)),
            ("lm_head", (0, 0)),
        ] {
            assert_eq!((columns(name), rows(name)), want, "{name}");
        }
    }
}
