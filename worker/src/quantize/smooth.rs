//! Moves what is hard to round from where it costs much to where it costs little, without changing
//! what the model computes.
//!
//! A few channels of a decoder's activations are many times larger than the others. Where such a
//! channel is made by a norm, or by a linear layer, it can be made smaller there, and the columns of
//! the layers that read it larger: so INT8's activations keep their small values (Xiao et al. 2023,
//! SmoothQuant), and the columns that count most get the finest steps (Lin et al. 2024, AWQ).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use nccl_rs::qlinear::quantize_weight;
use tch::{Kind, Tensor};

use super::calibrate::Row;
use super::scheme::Scheme;
use super::tensors::{divisor, nearest};
use crate::model::module::Leaf;
use crate::model::{Dropout, LinearKind, LinearOp, Model, ModelError};

/// Tokens that a scale is judged by.
const TOKENS: i64 = 512;
/// Tenths of the power of a channel's size that it is divided by. 0 changes nothing.
const POWERS: std::ops::RangeInclusive<u8> = 0..=10;

/// A place where channels are made and read.
struct Site {
    /// Tensors whose rows make a channel each: a norm's weight, or a layer's weight and bias.
    made_by: Vec<Tensor>,
    /// Layers whose columns read it.
    read_by: Vec<Reader>,
    /// Their inputs, f32 `[T, K]`.
    inputs: Tensor,
    /// `[G, R, d]`: channel `(g, i)` is read by columns `(g, r, i)` for all `r`.
    columns: [i64; 3],
    /// The kind in which a norm is written.
    kept_in: Option<Kind>,
}

/// A layer that reads channels.
struct Reader {
    weight: Tensor,
    scheme: Option<Scheme>,
}

/// A dense layer that keeps some of its inputs.
#[derive(Debug)]
struct Recorded {
    weight: Tensor,
    bias: Option<Tensor>,
    /// One token out of so many.
    every: i64,
    inputs: Arc<Mutex<Vec<Tensor>>>,
}

impl LinearOp for Recorded {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let width = input.size().last().copied().unwrap_or(1);
        let rows = input.f_reshape([-1, width])?.f_slice(0, 0, None, self.every)?.f_contiguous()?;
        self.inputs.lock().unwrap_or_else(PoisonError::into_inner).push(rows);
        Ok(input.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Smooths the layers of a decoder's stage for what `shown` has them read. What the stage computes
/// stays the same but for the last digits. `kept_in` is the kind in which norms are written.
pub(super) fn smooth(
    model: &mut Model,
    stage: usize,
    schemes: &BTreeMap<String, Option<Scheme>>,
    shown: &[Row],
    kept_in: Kind,
) -> Result<(), ModelError> {
    let tokens: i64 = shown.iter().map(|row| row.hidden.size()[1]).sum();
    let Some(prefix) = layer_of(model, stage).filter(|_| tokens > 0) else { return Ok(()) };
    let inputs = inputs(model, stage, shown, (tokens / TOKENS).max(1))?;
    for site in sites(model, (stage, &prefix), schemes, &inputs, kept_in) {
        site.smooth()?;
    }
    Ok(())
}

/// Such as `model.layers.3`, of a stage with attention by heads.
fn layer_of(model: &Model, stage: usize) -> Option<String> {
    let mut found = None;
    model.network().stage(stage).leaves(&mut |leaf| {
        if let Leaf::Linear(linear) = leaf
            && let Some(prefix) = linear.name.strip_suffix(".self_attn.q_proj")
        {
            found = Some(prefix.to_owned());
        }
    });
    found
}

/// What the dense layers of a stage read, by their names.
fn inputs(
    model: &mut Model,
    stage: usize,
    shown: &[Row],
    every: i64,
) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let mut kept = BTreeMap::new();
    let mut before = BTreeMap::new();
    model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
        let LinearKind::Dense { weight, bias } = &linear.kind else { return };
        let inputs = Arc::new(Mutex::new(Vec::new()));
        kept.insert(linear.name.clone(), inputs.clone());
        let (weight, bias) = (weight.shallow_clone(), bias.as_ref().map(Tensor::shallow_clone));
        let recorded = LinearKind::Other(Box::new(Recorded { weight, bias, every, inputs }));
        before.insert(linear.name.clone(), std::mem::replace(&mut linear.kind, recorded));
    });
    let outcome = shown.iter().try_for_each(|row| row.through(model, stage).map(|_| ()));
    model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
        if let Some(kind) = before.remove(&linear.name) {
            linear.kind = kind;
        }
    });
    outcome?;
    let joined = |(name, parts): (String, Arc<Mutex<Vec<Tensor>>>)| {
        let parts = parts.lock().unwrap_or_else(PoisonError::into_inner);
        // An expert that no token came to has read nothing.
        (!parts.is_empty()).then(|| Ok((name, Tensor::f_cat(&parts, 0)?)))
    };
    kept.into_iter().filter_map(joined).collect()
}

fn sites(
    model: &Model,
    (stage, prefix): (usize, &str),
    schemes: &BTreeMap<String, Option<Scheme>>,
    inputs: &BTreeMap<String, Tensor>,
    kept_in: Kind,
) -> Vec<Site> {
    let (mut norms, mut layers) = (BTreeMap::new(), BTreeMap::new());
    model.network().stage(stage).leaves(&mut |leaf| match leaf {
        Leaf::Weight(weight) => {
            norms.insert(weight.name.clone(), weight.tensor.shallow_clone());
        }
        Leaf::Linear(linear) => {
            if let LinearKind::Dense { weight, bias } = &linear.kind {
                let bias = bias.as_ref().map(Tensor::shallow_clone);
                layers.insert(linear.name.clone(), (weight.shallow_clone(), bias));
            }
        }
    });
    let full = |part: &str| format!("{prefix}.{part}");
    let readers = |parts: &[&str]| -> Option<Vec<Reader>> {
        let reader = |part: &&str| {
            let name = full(part);
            let (weight, _) = layers.get(&name)?;
            let scheme = schemes.get(&name).copied().flatten();
            Some(Reader { weight: weight.shallow_clone(), scheme })
        };
        parts.iter().map(reader).collect()
    };
    let of_norm = |norm: &str, parts: &[&str]| -> Option<Site> {
        let weight = norms.get(&full(norm))?.shallow_clone();
        let columns = [1, 1, weight.size()[0]];
        let inputs = inputs.get(&full(parts[0]))?.shallow_clone();
        let made_by = vec![weight];
        Some(Site { made_by, read_by: readers(parts)?, inputs, columns, kept_in: Some(kept_in) })
    };
    let of_layer = |maker: &str, reader: &str, groups: i64| -> Option<Site> {
        let (weight, bias) = layers.get(&full(maker))?;
        let (made, read) = (weight.size()[0], layers.get(&full(reader))?.0.size()[1]);
        let columns = [groups, read / made, made / groups];
        let inputs = inputs.get(&full(reader))?.shallow_clone();
        let made_by = std::iter::once(weight).chain(bias).map(Tensor::shallow_clone).collect();
        Some(Site { made_by, read_by: readers(&[reader])?, inputs, columns, kept_in: None })
    };
    let number = |key: &str| model.config.raw.get(key).and_then(serde_json::Value::as_i64);
    let heads = number("num_attention_heads").unwrap_or(1);
    let groups = number("num_key_value_heads").unwrap_or(heads);
    let attention = ["q", "k", "v"].map(|part| format!("self_attn.{part}_proj"));
    let attention = attention.each_ref().map(String::as_str);
    [
        of_norm("input_layernorm.weight", &attention),
        of_layer("self_attn.v_proj", "self_attn.o_proj", groups),
        of_norm("post_attention_layernorm.weight", &["mlp.gate_proj", "mlp.up_proj"]),
        of_layer("mlp.up_proj", "mlp.down_proj", 1),
    ]
    .into_iter()
    .flatten()
    .filter(|site| site.read_by.iter().any(|reader| reader.scheme.is_some()))
    .collect()
}

impl Site {
    /// Divides channels by the power of their size with which rounding loses least.
    fn smooth(&self) -> Result<(), ModelError> {
        let size = self.size()?;
        let mut best: Option<(f64, Tensor)> = None;
        for tenths in POWERS {
            let by = self.divisors(&size, f64::from(tenths) / 10.0)?;
            let lost = self.lost(&by)?;
            if best.as_ref().is_none_or(|(least, _)| lost < *least) {
                best = Some((lost, by));
            }
        }
        let Some((_, by)) = best else { return Ok(()) };
        for made in &self.made_by {
            let rows = if made.dim() == 1 { by.shallow_clone() } else { by.f_unsqueeze(1)? };
            let _ = made.shallow_clone().f_div_(&rows)?;
        }
        for reader in &self.read_by {
            let _ = reader.weight.shallow_clone().f_mul_(&self.by_column(&by)?)?;
        }
        Ok(())
    }

    /// How large each channel is, `[G d]`: its largest value where activations are rounded, else its
    /// root mean square.
    fn size(&self) -> Result<Tensor, ModelError> {
        let [groups, each, width] = self.columns;
        let inputs = self.inputs.f_view([-1, groups, each, width])?;
        let rounds_inputs = self
            .read_by
            .iter()
            .any(|reader| !matches!(reader.scheme, Some(Scheme::Packed { .. }) | None));
        let size = if rounds_inputs {
            inputs.f_abs()?.f_amax([0i64, 2], false)?
        } else {
            inputs.f_square()?.f_mean_dim(&[0i64, 2][..], false, Kind::Float)?.f_sqrt()?
        };
        Ok(size.f_reshape([-1])?)
    }

    /// `size ^ power`, about 1 in the middle. For a norm, what is left of its weight is a number of
    /// the kind that it is written in.
    fn divisors(&self, size: &Tensor, power: f64) -> Result<Tensor, ModelError> {
        let floor = size.f_max()?.f_mul_scalar(1e-4)?.f_clamp_min(1e-8)?;
        let by = size.f_maximum(&floor)?.f_pow_tensor_scalar(power)?;
        let middle = by.f_max()?.f_mul(&by.f_min()?)?.f_sqrt()?;
        let by = by.f_div(&middle)?;
        let (Some(kind), [norm, ..]) = (self.kept_in, &self.made_by[..]) else { return Ok(by) };
        let left = norm.f_div(&by)?.f_to_kind(kind)?.f_to_kind(Kind::Float)?;
        let exact = norm.f_div(&left)?;
        Ok(exact.f_where_self(
            &exact.f_isfinite()?.f_logical_and(&exact.f_ne(0.0)?)?,
            &by.f_ones_like()?,
        )?)
    }

    /// Divisors of channels for the columns that read them, `[K]`.
    fn by_column(&self, by: &Tensor) -> Result<Tensor, ModelError> {
        let [groups, each, width] = self.columns;
        let spread = by.f_view([groups, 1, width])?.f_expand([groups, each, width], false)?;
        Ok(spread.f_reshape([-1])?)
    }

    /// Sum of squares of what rounding changes in what the readers give.
    fn lost(&self, by: &Tensor) -> Result<f64, ModelError> {
        let by = self.by_column(by)?;
        let inputs = self.inputs.f_div(&by)?;
        let mut lost = 0.0;
        for reader in &self.read_by {
            let Some(scheme) = reader.scheme else { continue };
            let exact = self.inputs.f_linear(&reader.weight, None::<&Tensor>)?;
            let weight = reader.weight.f_mul(&by)?;
            let (read, weight) = rounded(&inputs, &weight, scheme)?;
            let error = read.f_linear(&weight, None::<&Tensor>)?.f_sub(&exact)?;
            lost += f64::try_from(&error.f_square()?.f_sum(Kind::Double)?)?;
        }
        Ok(lost)
    }
}

/// Activations `[T, K]` and a weight `[N, K]` as they come back from a scheme, roughly: each number
/// rounded to the nearest.
fn rounded(
    inputs: &Tensor,
    weight: &Tensor,
    scheme: Scheme,
) -> Result<(Tensor, Tensor), ModelError> {
    match scheme {
        Scheme::Int8 => {
            let by_row = |rows: &Tensor| {
                let (values, scale) = quantize_weight(&rows.f_contiguous()?)?;
                Ok::<_, ModelError>(values.f_to_kind(Kind::Float)?.f_mul(&scale.f_unsqueeze(1)?)?)
            };
            Ok((by_row(inputs)?, by_row(weight)?))
        }
        Scheme::Packed { bits, group } => {
            let (rows, columns) = (weight.size()[0], weight.size()[1]);
            let groups = weight.f_view([rows, -1, group.unwrap_or(columns)])?;
            let most = groups.f_abs()?.f_amax([-1i64], true)?;
            let step = divisor(&most.f_div_scalar(f64::from(1u32 << (bits - 1)) - 0.5)?)?;
            let back = nearest(&groups.f_div(&step)?, bits)?.f_mul(&step)?;
            Ok((inputs.shallow_clone(), back.f_view([rows, columns])?))
        }
        Scheme::Float8 => Ok((inputs.shallow_clone(), weight.shallow_clone())),
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// A norm that makes 64 channels, some of them far larger than the others, and two readers.
    fn site(scheme: Scheme) -> Site {
        let size = Tensor::ones([64], CPU);
        let _ = size.narrow(0, 10, 3).fill_(60.0);
        let reader =
            |rows: i64| Reader { weight: Tensor::randn([rows, 64], CPU), scheme: Some(scheme) };
        Site {
            inputs: Tensor::randn([200, 64], CPU) * &size,
            made_by: vec![size],
            read_by: vec![reader(32), reader(16)],
            columns: [1, 1, 64],
            kept_in: Some(Kind::BFloat16),
        }
    }

    fn nothing(site: &Site) -> Tensor {
        let [groups, _, width] = site.columns;
        Tensor::ones([groups * width], CPU)
    }

    #[test]
    fn what_stands_out_moves_into_the_weights_and_nothing_else_changes() {
        tch::manual_seed(8);
        for (scheme, most) in
            [(Scheme::Int8, 0.3), (Scheme::Packed { bits: 4, group: Some(32) }, 0.9)]
        {
            let site = site(scheme);
            let exact = site.inputs.matmul(&site.read_by[0].weight.tr());
            let plain = &site.inputs / &site.made_by[0];
            let before = site.lost(&nothing(&site)).unwrap();
            site.smooth().unwrap();
            let norm = &site.made_by[0];
            let written = norm.to_kind(Kind::BFloat16).to_kind(Kind::Float);
            assert!(written.allclose(norm, 1e-6, 0.0, false), "it is written as something else");
            let smoothed = Site { inputs: plain * norm, ..site };
            let same = smoothed.inputs.matmul(&smoothed.read_by[0].weight.tr());
            assert!(same.allclose(&exact, 1e-4, 1e-2, false));
            let after = smoothed.lost(&nothing(&smoothed)).unwrap();
            assert!(after < most * before, "{scheme:?}: {after} after {before}");
        }
    }

    #[test]
    fn heads_that_share_values_share_divisors() {
        tch::manual_seed(9);
        // Two groups of two channels, each read by three heads.
        let made = Tensor::randn([4, 5], CPU);
        let bias = Tensor::randn([4], CPU);
        let weight = Tensor::randn([7, 12], CPU);
        let hidden = Tensor::randn([20, 5], CPU);
        let values = |made: &Tensor, bias: &Tensor| {
            let values = hidden.linear(made, Some(bias)).view([-1, 2, 1, 2]);
            values.expand([20, 2, 3, 2], false).reshape([20, 12])
        };
        let inputs = values(&made, &bias) * 1.0;
        let exact = inputs.matmul(&weight.tr());
        let site = Site {
            inputs,
            made_by: vec![made, bias],
            read_by: vec![Reader { weight, scheme: Some(Scheme::Int8) }],
            columns: [2, 3, 2],
            kept_in: None,
        };
        let by = site.divisors(&site.size().unwrap(), 0.5).unwrap();
        assert_eq!(by.size(), [4]);
        site.smooth().unwrap();
        let same = values(&site.made_by[0], &site.made_by[1]).matmul(&site.read_by[0].weight.tr());
        assert!(same.allclose(&exact, 1e-4, 1e-4, false));
    }

    #[test]
    fn channels_that_are_always_zero_stay() {
        let site = site(Scheme::Int8);
        let _ = site.made_by[0].narrow(0, 0, 2).zero_();
        let site = Site { inputs: &site.inputs * site.made_by[0].ne(0.0), ..site };
        site.smooth().unwrap();
        for tensor in [&site.made_by[0], &site.read_by[0].weight] {
            assert!(bool::try_from(tensor.isfinite().all()).unwrap());
        }
        assert!(bool::try_from(site.made_by[0].narrow(0, 0, 2).eq(0.0).all()).unwrap());
    }
}
