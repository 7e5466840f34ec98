//! Adapters beside a model that is served: each token of a pass gets what the adapters of its own text
//! add, so that texts of many adapters are computed together (Sheng et al. 2024, S-LoRA).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::saved::{PREFIX, WEIGHTS, settings};
use crate::model::weights::read_tensors;
use crate::model::{Dropout, Linear, LinearKind, LinearOp, Model, ModelError};

/// Layers that every token of a pass goes through once, in its place.
const LAYERS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Tokens side by side in a pass whose text has adapters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Which ones.
    pub adapter: usize,
    /// The first token.
    pub start: i64,
    /// Tokens.
    pub count: i64,
}

/// Tells the adapters of a model whose turn it is.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<Vec<Turn>>>);

impl Turns {
    /// For the next pass.
    pub fn set(&self, turns: Vec<Turn>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = turns;
    }
}

/// Adapters of one layer: `A` `[r, K]`, and `B` `[N, r]` times their scale.
type Pair = (Tensor, Tensor);

/// A layer with adapters beside it.
#[derive(Debug)]
struct Adapted {
    base: LinearKind,
    /// By the adapters' numbers; none where they leave the layer as it is.
    pairs: Vec<Option<Pair>>,
    turns: Turns,
}

impl LinearOp for Adapted {
    /// `x [1, T, K]` → `y [1, T, N]`.
    fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let output = self.base.forward(input, dropout)?;
        for turn in self.turns.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let Some(Some((a, b))) = self.pairs.get(turn.adapter) else { continue };
            let rows = |of: &Tensor| of.f_narrow(1, turn.start, turn.count)?.f_squeeze_dim(0);
            let low = rows(input)?.f_to_kind(Kind::Float)?.f_linear(a, None::<&Tensor>)?;
            let more = low.f_matmul(&b.f_tr()?)?.f_to_kind(output.kind())?;
            let _ = rows(&output)?.f_add_(&more)?;
        }
        Ok(output)
    }
}

/// Puts the adapters in `directories` beside the layers of `model`, a decoder that is for inference
/// alone. They do nothing but in their [`Turns`].
pub fn serve(
    model: &mut Model,
    directories: &[&Path],
    device: Device,
) -> Result<Turns, ModelError> {
    let turns = Turns::default();
    let mut layers: BTreeMap<String, Vec<Option<Pair>>> = BTreeMap::new();
    for (number, directory) in directories.iter().enumerate() {
        for (layer, pair) in pairs(directory, device)? {
            let known = layers.entry(layer).or_default();
            known.resize_with(directories.len(), || None);
            known[number] = Some(pair);
        }
    }
    let network = model.network_mut();
    let mut failed = None;
    for stage in 0..network.stages() {
        network.stage_mut(stage).linears_mut(&mut |linear| {
            let Some(pairs) = layers.remove(&linear.name) else { return };
            match check(linear, &pairs, directories) {
                Ok(()) => attach(linear, pairs, &turns),
                Err(error) => failed = Some(error),
            }
        });
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some((layer, pairs)) = layers.into_iter().next() {
        let number = pairs.iter().position(Option::is_some).unwrap_or(0);
        return Err(malformed(directories[number], &format!("the model has no layer {layer}")));
    }
    Ok(turns)
}

fn attach(linear: &mut Linear, pairs: Vec<Option<Pair>>, turns: &Turns) {
    let nothing = LinearKind::Dense { weight: Tensor::new(), bias: None };
    let base = std::mem::replace(&mut linear.kind, nothing);
    let adapted = Adapted { base, pairs, turns: turns.clone() };
    linear.kind = LinearKind::Other(Box::new(adapted));
}

/// Adapters of other sizes than their layer's are found before anybody asks for them.
fn check(linear: &Linear, pairs: &[Option<Pair>], directories: &[&Path]) -> Result<(), ModelError> {
    for (pair, directory) in pairs.iter().zip(directories) {
        let Some((a, b)) = pair else { continue };
        let (inputs, outputs) = (a.size()[1], b.size()[0]);
        let trial = Tensor::f_zeros([1, 1, inputs], (Kind::Float, a.device()))?;
        let fits = linear.forward(&trial, Dropout::Off).is_ok_and(|y| y.size()[2] == outputs);
        if !fits {
            let detail = format!("{inputs} to {outputs} numbers are not those of {}", linear.name);
            return Err(malformed(directory, &detail));
        }
    }
    Ok(())
}

/// The adapters of a directory by the names of their layers.
fn pairs(directory: &Path, device: Device) -> Result<BTreeMap<String, Pair>, ModelError> {
    let settings = settings(directory)?;
    let path = directory.join(WEIGHTS);
    if settings.use_dora {
        let detail = "DoRA is not served beside a model: merge it (`hearth-worker merge`), and serve what comes of it";
        return Err(ModelError::Unsupported { path, detail: detail.to_owned() });
    }
    let mut tensors = BTreeMap::new();
    read_tensors(&path, &mut tensors)?;
    let mut pairs = BTreeMap::new();
    let names: Vec<String> = tensors.keys().cloned().collect();
    for name in names {
        let Some(layer) = name.strip_suffix(".lora_A.weight") else { continue };
        let known = layer.strip_prefix(PREFIX).filter(|layer| is_served(layer));
        let Some(known) = known else {
            let detail = format!(
                "adapters of {layer} are not served beside a model; those of {} are. Merge them (`hearth-worker merge`)",
                LAYERS.join(", ")
            );
            return Err(ModelError::Unsupported { path, detail });
        };
        let b = tensors.remove(&format!("{layer}.lora_B.weight"));
        let (Some(a), Some(b)) = (tensors.remove(&name), b) else {
            return Err(malformed(directory, &format!("{layer} has no lora_B.weight")));
        };
        if a.dim() != 2 || b.dim() != 2 || a.size()[0] != b.size()[1] {
            let detail = format!("{layer}: {:?} and {:?} are no pair", a.size(), b.size());
            return Err(malformed(directory, &detail));
        }
        let moved = |of: Tensor| of.f_to_kind(Kind::Float)?.f_to_device(device);
        let b = moved(b)?.f_mul_scalar(settings.scale())?;
        pairs.insert(known.to_owned(), (moved(a)?, b));
    }
    match tensors.keys().next() {
        Some(name) => {
            Err(malformed(directory, &format!("tensor {name} is no adapter of a linear layer")))
        }
        None => Ok(pairs),
    }
}

fn is_served(layer: &str) -> bool {
    let part = layer.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    part.is_some_and(|(_, part)| LAYERS.contains(&part))
}

fn malformed(directory: &Path, detail: &str) -> ModelError {
    let detail = format!("{detail}; are the adapters of this model?");
    ModelError::Malformed { path: directory.join(WEIGHTS), detail }
}
