//! Rotary position embeddings (Su et al. 2021) and the ways to stretch them, as
//! `modeling_rope_utils.py` of transformers has them.

use std::f64::consts::PI;

use nccl_rs::fused;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::model::ModelError;

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Element `i` with element `i + d/2` (Llama).
    Halves,
    /// Element `2i` with element `2i + 1` (DeepSeek's MLA). What comes out is in halves: queries
    /// and keys are permuted alike, so their products are those of the interleaved form.
    Pairs,
}

/// `rope_theta`, and `rope_scaling` (`rope_parameters` since transformers 5) of a `config.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct RopeParameters {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    factor: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f64>,
}

/// Angles by position.
#[derive(Debug)]
pub struct Rope {
    /// Radians a position, f32 `[d/2]`.
    frequencies: Vec<f32>,
    /// Factor of cosine and sine.
    scale: f64,
    /// Factor of the attention's softmax scale (YaRN's `mscale` of DeepSeek).
    pub softmax_scale: f64,
    layout: Layout,
}

/// Cosine and sine for the positions of one pass, `[B or 1, 1, T, d/2]`.
#[derive(Debug)]
pub struct RopeTable {
    cos: Tensor,
    sin: Tensor,
    layout: Layout,
}

impl Rope {
    /// Of heads (or their rotary part) of `size`. `top` is the configuration's own `rope_theta`,
    /// which older files have beside `rope_scaling`. Refuses with a sentence.
    pub fn new(
        parameters: &RopeParameters,
        top: Option<f64>,
        max_positions: i64,
        size: i64,
        layout: Layout,
    ) -> Result<Self, String> {
        if parameters.partial_rotary_factor.is_some_and(|share| (share - 1.0).abs() > f64::EPSILON)
        {
            return Err("partial_rotary_factor other than 1 is not supported".into());
        }
        let base = parameters.rope_theta.or(top).unwrap_or(10_000.0);
        let plain: Vec<f64> =
            (0..size / 2).map(|i| base.powf(-(2.0 * i as f64) / size as f64)).collect();
        let need = |value: Option<f64>, name: &str| {
            value.ok_or_else(|| format!("rope scaling needs {name}"))
        };
        let kind = parameters.rope_type.as_deref().unwrap_or("default");
        let mut scale = 1.0;
        let frequencies = match kind {
            "default" => plain,
            "linear" => {
                let factor = need(parameters.factor, "factor")?;
                plain.into_iter().map(|frequency| frequency / factor).collect()
            }
            "llama3" => llama3(parameters, &plain, need)?,
            "yarn" => {
                let stretched = yarn(parameters, &plain, base, max_positions as f64)?;
                scale = stretched.1;
                stretched.0
            }
            other => {
                return Err(format!(
                    "rope type {other:?} is not supported; default, linear, llama3 and yarn are"
                ));
            }
        };
        let softmax_scale = match (kind, parameters.mscale_all_dim, parameters.factor) {
            ("default", ..) | (_, None, _) | (.., None) => 1.0,
            (_, Some(mscale), Some(factor)) if mscale != 0.0 => magnitude(factor, mscale).powi(2),
            _ => 1.0,
        };
        #[expect(clippy::cast_possible_truncation, reason = "libtorch computes angles in f32")]
        let frequencies = frequencies.into_iter().map(|frequency| frequency as f32).collect();
        Ok(Self { frequencies, scale, softmax_scale, layout })
    }

    /// The table for `positions` i64 `[B, T]` or `[T]`.
    pub fn table(&self, positions: &Tensor) -> Result<RopeTable, ModelError> {
        let device = positions.device();
        let frequencies = Tensor::f_from_slice(&self.frequencies)?.f_to_device(device)?;
        let rows = if positions.dim() == 1 { 1 } else { positions.size()[0] };
        let angles =
            positions.f_to_kind(Kind::Float)?.f_reshape([rows, 1, -1, 1])?.f_mul(&frequencies)?;
        Ok(RopeTable {
            cos: angles.f_cos()?.f_mul_scalar(self.scale)?,
            sin: angles.f_sin()?.f_mul_scalar(self.scale)?,
            layout: self.layout,
        })
    }

    /// The table for positions `start .. start + length`.
    pub fn range(&self, start: i64, length: i64, device: Device) -> Result<RopeTable, ModelError> {
        self.table(&Tensor::f_arange_start(start, start + length, (Kind::Int64, device))?)
    }
}

impl RopeTable {
    /// `T`.
    pub fn tokens(&self) -> i64 {
        self.cos.size()[2]
    }

    /// Shares the tensors.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone(), layout: self.layout }
    }

    /// Turns `heads [B, H, T, d]`.
    pub fn apply(&self, heads: &Tensor) -> Result<Tensor, ModelError> {
        let half = heads.size()[3] / 2;
        if self.is_fusible(heads) {
            let table = |of: &Tensor| of.f_view([-1, half]);
            return Ok(fused::rotary(heads, &table(&self.cos)?, &table(&self.sin)?)?);
        }
        let (first, second) = match self.layout {
            Layout::Halves => (heads.f_narrow(3, 0, half)?, heads.f_narrow(3, half, half)?),
            Layout::Pairs => (heads.f_slice(3, 0, None, 2)?, heads.f_slice(3, 1, None, 2)?),
        };
        let (cos, sin) = (self.cos.f_to_kind(heads.kind())?, self.sin.f_to_kind(heads.kind())?);
        let turned = first.f_mul(&cos)?.f_sub(&second.f_mul(&sin)?)?;
        let other = second.f_mul(&cos)?.f_add(&first.f_mul(&sin)?)?;
        Ok(Tensor::f_cat(&[turned, other], 3)?)
    }

    /// Cosine and sine `[T, d/2]` on the CPU, where all rows have the same positions and halves of a
    /// head turn together.
    pub fn halves(&self) -> Option<(Tensor, Tensor)> {
        let half = self.cos.size()[3];
        let is_plain = self.layout == Layout::Halves
            && self.cos.size()[0] == 1
            && self.cos.device() == Device::Cpu;
        let table = |of: &Tensor| of.f_view([-1, half]).ok();
        is_plain.then(|| Some((table(&self.cos)?, table(&self.sin)?))).flatten()
    }

    /// Whether one pass over memory does it.
    fn is_fusible(&self, heads: &Tensor) -> bool {
        self.layout == Layout::Halves
            && heads.device() == Device::Cpu
            && [Kind::Float, Kind::BFloat16].contains(&heads.kind())
            && heads.stride()[3] == 1
            && self.cos.size()[0] == 1
    }
}

/// `_compute_llama3_parameters`: long waves are slowed, short ones kept.
fn llama3(
    parameters: &RopeParameters,
    plain: &[f64],
    need: impl Fn(Option<f64>, &str) -> Result<f64, String>,
) -> Result<Vec<f64>, String> {
    let factor = need(parameters.factor, "factor")?;
    let low = need(parameters.low_freq_factor, "low_freq_factor")?;
    let high = need(parameters.high_freq_factor, "high_freq_factor")?;
    let context =
        need(parameters.original_max_position_embeddings, "original_max_position_embeddings")?;
    let stretch = |frequency: &f64| {
        let wave = 2.0 * PI / frequency;
        if wave > context / low {
            frequency / factor
        } else if wave < context / high {
            *frequency
        } else {
            let smooth = (context / wave - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    };
    Ok(plain.iter().map(stretch).collect())
}

/// `_compute_yarn_parameters` (Peng et al. 2023): frequencies, and the factor of cosine and sine.
fn yarn(
    parameters: &RopeParameters,
    plain: &[f64],
    base: f64,
    max_positions: f64,
) -> Result<(Vec<f64>, f64), String> {
    let context = parameters
        .original_max_position_embeddings
        .ok_or("rope scaling needs original_max_position_embeddings")?;
    let factor = parameters.factor.unwrap_or(max_positions / context);
    let scale = parameters.attention_factor.unwrap_or_else(|| {
        match (parameters.mscale, parameters.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                magnitude(factor, mscale) / magnitude(factor, all)
            }
            _ => magnitude(factor, 1.0),
        }
    });
    let size = 2.0 * plain.len() as f64;
    let dimension = |turns: f64| size * (context / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
    let (mut low, mut high) = (
        dimension(parameters.beta_fast.filter(|beta| *beta != 0.0).unwrap_or(32.0)),
        dimension(parameters.beta_slow.filter(|beta| *beta != 0.0).unwrap_or(1.0)),
    );
    if parameters.truncate.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(size - 1.0));
    if (low - high).abs() < f64::EPSILON {
        high += 0.001;
    }
    let blend = |(index, frequency): (usize, &f64)| {
        let ramp = ((index as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency / factor * ramp + frequency * (1.0 - ramp)
    };
    Ok((plain.iter().enumerate().map(blend).collect(), scale))
}

/// YaRN's `get_mscale`.
fn magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(parameters: &str) -> Result<Rope, String> {
        Rope::new(&serde_json::from_str(parameters).unwrap(), None, 4096, 8, Layout::Halves)
    }

    #[test]
    fn both_layouts_keep_lengths_and_turn_by_the_difference_of_positions() {
        for layout in [Layout::Halves, Layout::Pairs] {
            let rope = Rope::new(&RopeParameters::default(), None, 64, 8, layout).unwrap();
            let table = rope.range(0, 6, Device::Cpu).unwrap();
            let one = Tensor::arange(8, (Kind::Float, Device::Cpu)).view([1, 1, 1, 8]);
            let turned = table.apply(&one.expand([1, 1, 6, 8], false)).unwrap();
            let product =
                |a, b| f64::try_from(turned.select(2, a).dot_rows(&turned.select(2, b))).unwrap();
            let length = f64::try_from(one.square().sum(Kind::Float)).unwrap();
            assert!((product(3, 3) - length).abs() < 1e-3, "{layout:?}");
            assert!((product(1, 3) - product(3, 5)).abs() < 1e-3, "{layout:?}");
            assert!((product(1, 3) - product(1, 4)).abs() > 0.1, "{layout:?}");
        }
    }

    trait DotRows {
        fn dot_rows(&self, other: &Tensor) -> Tensor;
    }

    impl DotRows for Tensor {
        fn dot_rows(&self, other: &Tensor) -> Tensor {
            (self * other).sum(Kind::Float)
        }
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        for (parameters, named) in [
            (r#"{"rope_type": "dynamic", "factor": 2}"#, "dynamic"),
            (r#"{"type": "linear"}"#, "factor"),
            (r#"{"rope_type": "yarn", "factor": 2}"#, "original_max_position_embeddings"),
            (r#"{"partial_rotary_factor": 0.5}"#, "partial_rotary_factor"),
        ] {
            let refused = rope(parameters).unwrap_err();
            assert!(refused.contains(named), "{parameters}: {refused}");
        }
    }
}
