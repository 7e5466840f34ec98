//! LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024), as PEFT's
//! `tuners/lora` computes them.
//!
//! Shapes: a layer maps `K` values to `N`, `r` is the rank.

use tch::Tensor;

use crate::model::parts::dropout::Dropout;
use crate::model::{Linear, LinearKind, LinearOp, Model, ModelError};

/// Settings of PEFT's `LoraConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`.
    pub rank: i64,
    /// `lora_alpha`.
    pub alpha: f64,
    /// `lora_dropout`.
    pub dropout: f64,
    /// Last parts of layers' names; none for every linear layer between embeddings and head.
    pub target_modules: Option<Vec<String>>,
    /// Scale by `alpha / √r` instead of `alpha / r`.
    pub use_rslora: bool,
    /// Learn lengths and directions of weight rows apart.
    pub use_dora: bool,
}

impl LoraConfig {
    fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    fn targets(&self, name: &str) -> bool {
        self.target_modules.as_ref().is_none_or(|targets| {
            targets.iter().any(|t| {
                name.strip_suffix(t.as_str()).is_some_and(|p| p.is_empty() || p.ends_with('.'))
            })
        })
    }
}

/// A frozen layer with what is learnt beside it.
#[derive(Debug)]
struct Lora {
    /// `[N, K]`, frozen.
    weight: Tensor,
    /// `[N]`, frozen.
    bias: Option<Tensor>,
    /// `[r, K]`.
    a: Tensor,
    /// `[N, r]`.
    b: Tensor,
    /// DoRA's lengths of rows, `[N]`.
    magnitude: Option<Tensor>,
    scale: f64,
    dropout: f64,
}

/// Freezes `model` and puts adapters beside its layers. The head of a classifier stays trainable,
/// as PEFT has it. Initial values follow PEFT and come from the present random state. Returns the
/// number of layers with an adapter.
pub fn adapt(model: &mut Model, config: &LoraConfig) -> Result<usize, ModelError> {
    let last = model.network().stages() - 1;
    for parameter in model.parameters() {
        let keeps = parameter.stage == last && !model.labels().is_empty();
        let _ = parameter.tensor.f_set_requires_grad(keeps)?;
    }
    let mut adapted = 0;
    for stage in 1..last {
        let mut failed = None;
        model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
            if failed.is_none() && config.targets(&linear.name) {
                match attach(linear, config) {
                    Ok(()) => adapted += 1,
                    Err(error) => failed = Some(error),
                }
            }
        });
        failed.map_or(Ok(()), Err)?;
    }
    Ok(adapted)
}

fn attach(linear: &mut Linear, config: &LoraConfig) -> Result<(), ModelError> {
    let LinearKind::Dense { weight, bias } = &linear.kind else {
        return Err(ModelError::Pass("an adapter needs a dense layer"));
    };
    let (outputs, inputs, options) =
        (weight.size()[0], weight.size()[1], (weight.kind(), weight.device()));
    // PEFT's kaiming_uniform_(a=√5): bounds ±1/√K.
    let bound = (inputs as f64).powf(-0.5);
    let a = Tensor::f_empty([config.rank, inputs], options)?.f_uniform_(-bound, bound)?;
    let magnitude = config.use_dora.then(|| row_lengths(weight)).transpose()?;
    let adapter = Lora {
        weight: weight.shallow_clone(),
        bias: bias.as_ref().map(Tensor::shallow_clone),
        a: a.f_set_requires_grad(true)?,
        b: Tensor::f_zeros([outputs, config.rank], options)?.f_set_requires_grad(true)?,
        magnitude: magnitude.map(|m| m.detach().f_set_requires_grad(true)).transpose()?,
        scale: config.scale(),
        dropout: config.dropout,
    };
    linear.kind = LinearKind::Other(Box::new(adapter));
    Ok(())
}

/// Puts each adapter's effect into its layer's weight.
pub fn merge(model: &mut Model) -> Result<(), ModelError> {
    let stages = model.network().stages();
    for stage in 0..stages {
        let mut failed = None;
        model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
            let LinearKind::Other(op) = &linear.kind else { return };
            match op.merged() {
                None => {}
                Some(Ok(dense)) => linear.kind = dense,
                Some(Err(error)) => failed = Some(error),
            }
        });
        failed.map_or(Ok(()), Err)?;
    }
    Ok(())
}

/// L2 norm of each row of `[N, K]`, `[N]`.
fn row_lengths(weight: &Tensor) -> Result<Tensor, ModelError> {
    Ok(weight.f_norm_scalaropt_dim(2.0, &[1i64][..], false)?)
}

impl Lora {
    /// `scale · B A`, `[N, K]`.
    fn delta(&self) -> Result<Tensor, ModelError> {
        Ok(self.b.f_matmul(&self.a)?.f_mul_scalar(self.scale)?)
    }

    /// DoRA's factor of each output: wanted length over present length, `[N]`. The present length
    /// takes no part in the gradient (section 4.3 of the paper).
    fn stretch(&self, magnitude: &Tensor) -> Result<Tensor, ModelError> {
        let length = tch::no_grad(|| row_lengths(&self.weight.f_add(&self.delta()?)?))?;
        Ok(magnitude.f_div(&length.detach())?)
    }
}

impl LinearOp for Lora {
    fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        let dropped = dropout.apply(input.shallow_clone(), self.dropout)?;
        let low = dropped.f_linear(&self.a, None::<&Tensor>)?;
        let learnt = low.f_linear(&self.b, None::<&Tensor>)?.f_mul_scalar(self.scale)?;
        let Some(magnitude) = &self.magnitude else {
            return Ok(input.f_linear(&self.weight, self.bias.as_ref())?.f_add(&learnt)?);
        };
        let stretch = self.stretch(magnitude)?;
        let plain = input.f_linear(&self.weight, None::<&Tensor>)?;
        let base = if dropout.share(self.dropout) > 0.0 {
            dropped.f_linear(&self.weight, None::<&Tensor>)?
        } else {
            plain.shallow_clone()
        };
        let directed = base.f_mul(&stretch.f_sub_scalar(1)?)?.f_add(&learnt.f_mul(&stretch)?)?;
        let output = plain.f_add(&directed)?;
        Ok(match &self.bias {
            Some(bias) => output.f_add(bias)?,
            None => output,
        })
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![("weight".to_owned(), self.weight.shallow_clone())];
        all.extend(self.bias.as_ref().map(|bias| ("bias".to_owned(), bias.shallow_clone())));
        all.push(("lora_A.weight".to_owned(), self.a.shallow_clone()));
        all.push(("lora_B.weight".to_owned(), self.b.shallow_clone()));
        let magnitude = self.magnitude.as_ref().map(Tensor::shallow_clone);
        all.extend(magnitude.map(|tensor| ("lora_magnitude_vector".to_owned(), tensor)));
        all
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        let merge = || {
            let moved = self.weight.f_add(&self.delta()?)?;
            let weight = match &self.magnitude {
                Some(magnitude) => moved.f_mul(&self.stretch(magnitude)?.f_unsqueeze(1)?)?,
                None => moved,
            };
            let bias = self.bias.as_ref().map(Tensor::shallow_clone);
            Ok(LinearKind::Dense { weight: weight.detach(), bias })
        };
        Some(tch::no_grad(merge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn layer() -> Linear {
        tch::manual_seed(3);
        let options = (Kind::Float, Device::Cpu);
        let kind = LinearKind::Dense {
            weight: Tensor::randn([6, 4], options),
            bias: Some(Tensor::randn([6], options)),
        };
        Linear { name: "model.layers.0.self_attn.q_proj".into(), kind }
    }

    fn config(use_dora: bool, use_rslora: bool) -> LoraConfig {
        LoraConfig { rank: 2, alpha: 6.0, dropout: 0.0, target_modules: None, use_rslora, use_dora }
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        f64::try_from((a - b).abs().max()).unwrap()
    }

    #[test]
    fn a_fresh_adapter_changes_nothing_and_a_trained_one_merges_to_the_same() {
        let input = Tensor::randn([5, 4], (Kind::Float, Device::Cpu));
        for (dora, rslora) in [(false, false), (false, true), (true, false)] {
            let mut linear = layer();
            let before = linear.forward(&input, Dropout::On).unwrap();
            attach(&mut linear, &config(dora, rslora)).unwrap();
            let fresh = linear.forward(&input, Dropout::On).unwrap();
            assert!(distance(&before, &fresh) < 1e-5, "dora {dora}");

            for (name, mut tensor) in linear.tensors().into_iter().skip(2) {
                let mut other = tensor.randn_like() * 0.3;
                if name.ends_with("vector") {
                    other = other.abs() + 0.5;
                }
                tch::no_grad(|| tensor.copy_(&other));
            }
            let trained = linear.forward(&input, Dropout::On).unwrap();
            assert!(distance(&before, &trained) > 0.1, "dora {dora}");
            let LinearKind::Other(op) = &linear.kind else { panic!("no adapter") };
            let merged = Linear { name: linear.name.clone(), kind: op.merged().unwrap().unwrap() };
            let after = merged.forward(&input, Dropout::Off).unwrap();
            assert!(distance(&trained, &after) < 1e-4, "dora {dora}");
        }
    }

    #[test]
    fn the_scale_is_peft_s() {
        assert!((config(false, false).scale() - 3.0).abs() < 1e-12);
        assert!((config(false, true).scale() - 6.0 / 2f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn names_match_by_whole_last_parts() {
        let only = |target: &str| LoraConfig {
            target_modules: Some(vec![target.into()]),
            ..config(false, false)
        };
        for (target, name, want) in [
            ("q_proj", "model.layers.0.self_attn.q_proj", true),
            ("proj", "model.layers.0.self_attn.q_proj", false),
            ("self_attn.q_proj", "model.layers.0.self_attn.q_proj", true),
            ("k_proj", "model.layers.0.self_attn.q_proj", false),
        ] {
            assert_eq!(only(target).targets(name), want, "{target}");
        }
    }
}
