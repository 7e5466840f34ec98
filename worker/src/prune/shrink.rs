//! Heads and neurons that go whole: smaller tensors, and a `config.json` that says so.
//!
//! What goes is what is smallest: the squares of all numbers that a head or a neuron has in a matrix,
//! over those of the whole matrix, summed over the matrices that it has a part in (Li et al. 2017
//! for filters; the share makes matrices count alike whatever their scale). Every layer loses as many,
//! since `config.json` has one number for all of them.

use std::ops::Range;

use hearth_crds::pruning::Pruning;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::model::{Family, ModelConfig, ModelError, Weights};

/// What stays of a layer's neurons is a multiple of this where there are more: kernels and number
/// formats work on so many columns at a time.
const MULTIPLE: i64 = 32;

/// Units have rows of a matrix, or columns.
const ROWS: i64 = 0;
const COLUMNS: i64 = 1;

/// A tensor of a layer, and where units have their parts in it.
struct Part {
    name: String,
    /// [`ROWS`] or [`COLUMNS`].
    axis: i64,
    /// Neighbouring rows or columns that a unit has.
    width: i64,
}

/// What is left of a model when the shares of heads and neurons in `pruning` have gone.
pub fn shrink(
    config: ModelConfig,
    weights: Weights,
    pruning: &Pruning,
) -> Result<(ModelConfig, Weights), ModelError> {
    let mut shrunk = (config, weights);
    if let Some(share) = pruning.neurons {
        shrunk = without_neurons(shrunk, share)?;
    }
    if let Some(share) = pruning.heads {
        shrunk = without_heads(shrunk, share)?;
    }
    Ok(shrunk)
}

fn without_neurons(
    (mut config, mut weights): (ModelConfig, Weights),
    share: f64,
) -> Result<(ModelConfig, Weights), ModelError> {
    let Some(prefix) = layers_of(config.family) else {
        return Err(config.unsupported(
            "pruning.neurons: only the feed-forward layers of BERT, ViT, Llama, Qwen2 and Qwen3 are narrowed; use pruning.type Unstructured".into(),
        ));
    };
    let neurons = number(&config, "intermediate_size")?;
    let kept = kept_neurons(neurons, share);
    let decoder = config.family.is_decoder();
    for layer in layers(&config)? {
        let part =
            |name: &str, axis| Part { name: format!("{prefix}{layer}.{name}"), axis, width: 1 };
        let parts = if decoder {
            vec![
                part("mlp.gate_proj", ROWS),
                part("mlp.up_proj", ROWS),
                part("mlp.down_proj", COLUMNS),
            ]
        } else {
            vec![part("intermediate.dense", ROWS), part("output.dense", COLUMNS)]
        };
        cut(&mut weights, &parts, (neurons, kept))?;
    }
    config.raw.insert("intermediate_size".to_owned(), json!(kept));
    Ok((config, weights))
}

fn without_heads(
    (mut config, mut weights): (ModelConfig, Weights),
    share: f64,
) -> Result<(ModelConfig, Weights), ModelError> {
    if !matches!(config.family, Family::Llama | Family::Qwen2 | Family::Qwen3) {
        return Err(config.unsupported(
            "pruning.heads: only the config.json of Llama, Qwen2 and Qwen3 says how large a head is (head_dim), so that some can go; use pruning.neurons".into(),
        ));
    }
    let heads = number(&config, "num_attention_heads")?;
    let groups = number(&config, "num_key_value_heads").unwrap_or(heads);
    let default = match config.family {
        Family::Qwen3 => 128,
        _ => number(&config, "hidden_size")? / heads,
    };
    let size = number(&config, "head_dim").unwrap_or(default);
    if groups < 1 || heads % groups != 0 {
        return Err(config.malformed(format!(
            "num_attention_heads {heads} is no multiple of num_key_value_heads {groups}"
        )));
    }
    let (sharing, kept) = (heads / groups, (groups - count(groups, share)).max(1));
    for layer in layers(&config)? {
        let part = |name: &str, axis, heads| Part {
            name: format!("model.layers.{layer}.self_attn.{name}_proj"),
            axis,
            width: heads * size,
        };
        let parts = [
            part("q", ROWS, sharing),
            part("k", ROWS, 1),
            part("v", ROWS, 1),
            part("o", COLUMNS, sharing),
        ];
        cut(&mut weights, &parts, (groups, kept))?;
    }
    for (field, value) in
        [("num_attention_heads", kept * sharing), ("num_key_value_heads", kept), ("head_dim", size)]
    {
        config.raw.insert(field.to_owned(), json!(value));
    }
    Ok((config, weights))
}

/// Keeps the largest `kept` of `units` in all parts of a layer.
fn cut(weights: &mut Weights, parts: &[Part], (units, kept): (i64, i64)) -> Result<(), ModelError> {
    let mut sizes = Tensor::f_zeros([units], (Kind::Double, tch::Device::Cpu))?;
    for part in parts {
        let name = format!("{}.weight", part.name);
        let mut shape = weights.get(&name).map(|weight| weight.size()).unwrap_or_default();
        if let [rows, columns] = shape.as_mut_slice() {
            *if part.axis == ROWS { rows } else { columns } = units * part.width;
        }
        let squares = weights.float(&name, &shape)?.f_to_kind(Kind::Double)?.f_square()?;
        let by_unit = squares.f_transpose(0, part.axis)?.f_reshape([units, -1])?;
        let by_unit = by_unit.f_sum_dim_intlist(1, false, Kind::Double)?;
        let all = by_unit.f_sum(Kind::Double)?.f_clamp_min(f64::MIN_POSITIVE)?;
        sizes = sizes.f_add(&by_unit.f_div(&all)?)?;
    }
    let largest = sizes.f_argsort_stable(true, 0, true)?.f_narrow(0, 0, kept)?;
    let (staying, _) = largest.f_sort(0, false)?;
    for part in parts {
        let places = spread(&staying, part.width)?;
        weights.replace(&format!("{}.weight", part.name), |weight| {
            weight.f_index_select(part.axis, &places)
        })?;
        if part.axis == ROWS {
            weights
                .replace(&format!("{}.bias", part.name), |bias| bias.f_index_select(0, &places))?;
        }
    }
    Ok(())
}

/// All rows or columns of these units.
fn spread(units: &Tensor, width: i64) -> Result<Tensor, ModelError> {
    let within = Tensor::f_arange(width, (Kind::Int64, tch::Device::Cpu))?;
    Ok(units.f_mul_scalar(width)?.f_unsqueeze(1)?.f_add(&within)?.f_reshape([-1])?)
}

/// What tensors of a layer are called before its number.
fn layers_of(family: Family) -> Option<&'static str> {
    match family {
        Family::Bert => Some("bert.encoder.layer."),
        Family::Vit => Some("vit.encoder.layer."),
        Family::Llama | Family::Qwen2 | Family::Qwen3 => Some("model.layers."),
        _ => None,
    }
}

fn layers(config: &ModelConfig) -> Result<Range<i64>, ModelError> {
    Ok(0..number(config, "num_hidden_layers")?)
}

fn number(config: &ModelConfig, field: &str) -> Result<i64, ModelError> {
    let value = config.raw.get(field).and_then(Value::as_i64);
    value.filter(|value| *value > 0).ok_or_else(|| {
        config.malformed(format!("{field} is missing, which pruning.type Structured changes"))
    })
}

/// A share of so many, rounded down.
fn count(all: i64, share: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a share of a count")]
    let count = (all as f64 * share) as i64;
    count
}

fn kept_neurons(neurons: i64, share: f64) -> i64 {
    let kept = (neurons - count(neurons, share)).max(1);
    if neurons <= MULTIPLE {
        return kept;
    }
    ((kept + MULTIPLE - 1) / MULTIPLE * MULTIPLE).min(neurons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_neurons_stay_as_kernels_take_at_a_time() {
        for (neurons, share, kept) in
            [(1536, 0.5, 768), (1536, 0.3, 1088), (100, 0.5, 64), (100, 0.01, 100), (20, 0.5, 10)]
        {
            assert_eq!(kept_neurons(neurons, share), kept, "{share} of {neurons}");
        }
    }
}
