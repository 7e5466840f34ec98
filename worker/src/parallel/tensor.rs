//! Layers that are split over ranks (Shoeybi et al. 2019, Megatron-LM): the first linear layer of
//! a pair by outputs (columns of `x Wᵀ`), the second by inputs (rows), so that only its outputs
//! are summed; attention so holds some of the heads. Embeddings and the head over the vocabulary
//! are split by its tokens ([`super::vocabulary`]). Between split layers of a decoder each rank has
//! a part of the tokens ([`super::sequence`]).
//!
//! What is split is told by names, as transformers' `base_model_tp_plan` tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tch::Tensor;

use super::OverTensor;
use super::expert::tensors_of;
use super::groups::{SharedGroup, locked};
use super::sequence::Sequence;
use super::split_linear::{BeforeHeads, Border, ByInput, ByOutput, SharedInput};
use super::vocabulary::Vocabulary;
use crate::error::Error;
use crate::model::parts::experts::Dealt as _;
use crate::model::{
    Head, Linear, LinearKind, LinearOp, Model, ModelConfig, ModelError, Network, Pass,
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

/// What was split.
#[derive(Debug, Default)]
pub struct Splits {
    /// By name: shape of the whole and where this rank's part lies.
    parts: BTreeMap<String, (Vec<i64>, Vec<i64>)>,
    /// Names of whole tensors that work on a part of what all ranks have.
    partial: BTreeSet<String>,
    /// Where tokens are dealt to the ranks.
    sequence: Option<Arc<Sequence>>,
    /// Where embeddings are split.
    vocabulary: Option<Vocabulary>,
    /// Whether the head is, too.
    head_is_split: bool,
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
        if self.parts.contains_key(name) {
            OverTensor::Split
        } else if self.partial.contains(name) {
            OverTensor::Partial
        } else {
            OverTensor::Copied
        }
    }

    /// Output of a stage for that of the one before it.
    pub fn forward(
        &self,
        network: &dyn Network,
        stage: usize,
        input: &Tensor,
        pass: &Pass,
    ) -> Result<Tensor, ModelError> {
        let (Some(sequence), Some(rope)) = (&self.sequence, &pass.rope) else {
            return network.forward(stage, input, pass);
        };
        sequence.begin(rope.tokens());
        match (&self.vocabulary, stage) {
            (Some(vocabulary), 0) => sequence.scatter_sum(&vocabulary.embed(network, input, pass)?),
            (None, 0) => sequence.part(&network.forward(0, input, pass)?),
            _ if stage + 1 < network.stages() => network.forward(stage, input, pass),
            (Some(vocabulary), _) if self.head_is_split => {
                vocabulary.output(network, &sequence.gather(input)?, pass)
            }
            _ => network.forward(stage, &sequence.join(input)?, pass),
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
    let latent = model.config.raw.contains_key("kv_lora_rank");
    let sequence = model.network().rope().map(|_| Arc::new(Sequence::new(group)));
    let whole = whole_rows(model, sequence.as_ref());
    let mut splits = Splits { sequence, ..Splits::default() };
    let mut cutter = Cutter { group, place, ways, latent, whole: &whole, splits: &mut splits };
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
    cutter.vocabulary(model)?;
    splits.partial = partial(model, &splits, &whole);
    Ok(splits)
}

/// Lets mixtures of experts see whole rows, since a router's choice is the same on all ranks; names
/// of their tensors.
fn whole_rows(model: &mut Model, sequence: Option<&Arc<Sequence>>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, mixture) in model.network_mut().mixtures() {
        names.extend(tensors_of(mixture).into_iter().map(|(name, _)| name));
        mixture.dealt = sequence.map(|sequence| Arc::<Sequence>::clone(sequence) as _);
    }
    names
}

/// Names of what is whole on each rank and works on some heads, some tokens or some of the
/// vocabulary.
fn partial(model: &Model, splits: &Splits, whole: &BTreeSet<String>) -> BTreeSet<String> {
    let last = model.network().stages() - 1;
    let mut all = model.tensors();
    all.retain(|tensor| {
        let name = &tensor.name;
        let of_tokens =
            splits.sequence.is_some() && (1..last).contains(&tensor.stage) && !whole.contains(name);
        let beside_tokens = splits.head_is_split && name == LAST_NORM;
        let of_heads = WITHIN_HEADS.iter().any(|end| ends_in(name, end));
        !splits.parts.contains_key(name) && (of_tokens || beside_tokens || of_heads)
    });
    all.into_iter().map(|tensor| tensor.name).collect()
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
    /// Names of tensors that work on whole rows.
    whole: &'a BTreeSet<String>,
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
        let weight_name = format!("{}.weight", linear.name);
        let sequence = self.splits.sequence.clone();
        let sequence = sequence.filter(|_| !self.whole.contains(&weight_name));
        let border = Border { group: Arc::clone(self.group), sequence };
        let op: Box<dyn LinearOp> = if let Some((position, of)) = columns {
            self.cut(&weight_name, &weight, 0)?;
            if let Some(bias) = &bias {
                self.cut(&format!("{}.bias", linear.name), bias, 0)?;
            }
            if position == 0 || shared.is_none() {
                *shared = Some(Arc::new(SharedInput::new(border)));
            }
            let whole = ends_in(&linear.name, LATENT_UP);
            let input = shared.as_ref().filter(|_| !whole).map(Arc::clone);
            let last = position + 1 == of || (self.latent && ends_in(&linear.name, "q_proj"));
            Box::new(ByOutput { weight, bias, input, first: position == 0, last })
        } else if by_input {
            self.cut(&weight_name, &weight, 1)?;
            Box::new(ByInput { weight, bias, border })
        } else {
            Box::new(BeforeHeads { weight, bias, border })
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
    fn vocabulary(&mut self, model: &Model) -> Result<(), ModelError> {
        let all = model.tensors();
        let find = |name: &str| all.iter().find(|tensor| tensor.name == name);
        let Some(embeddings) = find(EMBEDDINGS) else { return Ok(()) };
        let whole = embeddings.tensor.size()[0];
        if whole % self.ways != 0 {
            return Ok(());
        }
        let tokens = whole / self.ways;
        self.cut(EMBEDDINGS, &embeddings.tensor, 0)?;
        if let Some(head) = find(HEAD) {
            self.cut(HEAD, &head.tensor, 0)?;
        }
        self.splits.head_is_split = model.head == Head::CausalLm;
        let vocabulary = Vocabulary::new(self.group, self.place * tokens, tokens, whole);
        self.splits.vocabulary = Some(vocabulary);
        Ok(())
    }
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
