//! LoRA (Hu et al. 2021), rsLoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024), as PEFT's
//! `tuners/lora` computes them.
//!
//! Shapes: a layer maps `K` values to `N`, `r` is the rank.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tch::Tensor;

use crate::model::module::Leaf;
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
    /// What the product of both adapters is multiplied by.
    pub fn scale(&self) -> f64 {
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

/// Adapters that are in a model.
#[derive(Clone, Debug)]
pub struct Adapters {
    /// Layers that have one.
    pub layers: usize,
    on: Arc<AtomicBool>,
}

impl Adapters {
    /// Runs `body` while all of them do nothing: the model is the one that they were put beside.
    pub fn off<T>(&self, body: impl FnOnce() -> T) -> T {
        struct Back<'a>(&'a AtomicBool, bool);
        impl Drop for Back<'_> {
            fn drop(&mut self) {
                self.0.store(self.1, Ordering::Relaxed);
            }
        }
        let _back = Back(&self.on, self.on.swap(false, Ordering::Relaxed));
        body()
    }
}

/// A frozen layer with what is learnt beside it.
#[derive(Debug)]
struct Lora {
    /// Frozen, without the bias.
    base: LinearKind,
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
    /// Shared by all adapters of a model.
    on: Arc<AtomicBool>,
}

/// Freezes `model` and puts adapters beside its layers. The linear layers of a classifier's head
/// stay trainable, as PEFT has it; that of a language model has an adapter only where `target_modules` names it.
/// Initial values follow PEFT and come from the present random state.
pub fn adapt(model: &mut Model, config: &LoraConfig) -> Result<Adapters, ModelError> {
    let last = model.network().stages() - 1;
    let speaks = model.labels().is_empty();
    let mut kept = BTreeSet::new();
    model.network().stage(last).leaves(&mut |leaf| {
        if let Leaf::Linear(linear) = leaf
            && !speaks
        {
            kept.extend(linear.tensors().into_iter().map(|(name, _)| name));
        }
    });
    for parameter in model.parameters() {
        let _ = parameter.tensor.f_set_requires_grad(kept.contains(&parameter.name))?;
    }
    let on = Arc::new(AtomicBool::new(true));
    let mut layers = 0;
    let heads = usize::from(speaks && config.target_modules.is_some());
    for stage in 1..last + heads {
        let mut failed = None;
        model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
            if failed.is_none() && config.targets(&linear.name) {
                match attach(linear, config, &on) {
                    Ok(()) => layers += 1,
                    Err(error) => failed = Some(error),
                }
            }
        });
        failed.map_or(Ok(()), Err)?;
    }
    let asks_for_head = config.target_modules.iter().flatten().any(|name| name == "lm_head");
    if asks_for_head && !model.linears().iter().any(|linear| linear.name == "lm_head") {
        let detail = "peft.targetModules names lm_head, which shares its weight with the embeddings; take it out";
        return Err(ModelError::Unsupported {
            path: model.config.path.clone(),
            detail: detail.into(),
        });
    }
    if layers == 0 {
        return Err(no_layer(model, config));
    }
    Ok(Adapters { layers, on })
}

/// Names of layers as they can be targeted: their last parts.
fn no_layer(model: &Model, config: &LoraConfig) -> ModelError {
    let names: BTreeSet<&str> =
        model.linears().into_iter().filter_map(|linear| linear.name.rsplit('.').next()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let detail = match &config.target_modules {
        Some(wanted) => format!(
            "peft.targetModules names {}; the model's linear layers are called {}",
            wanted.join(", "),
            names.join(", ")
        ),
        None => "peft has no linear layer between inputs and head to adapt; remove it".into(),
    };
    ModelError::Unsupported { path: model.config.path.clone(), detail }
}

fn attach(
    linear: &mut Linear,
    config: &LoraConfig,
    on: &Arc<AtomicBool>,
) -> Result<(), ModelError> {
    let weight = dense(&linear.kind)?;
    let (outputs, inputs, options) =
        (weight.size()[0], weight.size()[1], (weight.kind(), weight.device()));
    // PEFT's kaiming_uniform_(a=√5): bounds ±1/√K.
    let bound = (inputs as f64).powf(-0.5);
    let a = Tensor::f_empty([config.rank, inputs], options)?.f_uniform_(-bound, bound)?;
    let magnitude = config.use_dora.then(|| row_lengths(&weight)).transpose()?;
    let magnitude = magnitude.map(|m| m.detach().f_set_requires_grad(true)).transpose()?;
    let b = Tensor::f_zeros([outputs, config.rank], options)?.f_set_requires_grad(true)?;
    let nothing = LinearKind::Dense { weight: Tensor::new(), bias: None };
    let (base, bias) = match std::mem::replace(&mut linear.kind, nothing) {
        LinearKind::Dense { weight, bias } => (LinearKind::Dense { weight, bias: None }, bias),
        LinearKind::Other(mut op) => {
            let bias = op.take_bias();
            (LinearKind::Other(op), bias)
        }
    };
    linear.kind = LinearKind::Other(Box::new(Lora {
        base,
        bias,
        a: a.f_set_requires_grad(true)?,
        b,
        magnitude,
        scale: config.scale(),
        dropout: config.dropout,
        on: Arc::clone(on),
    }));
    Ok(())
}

/// Puts each adapter's effect into its layer's weight, and makes quantized layers dense.
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

/// Weight `[N, K]` of a layer in floating point.
fn dense(kind: &LinearKind) -> Result<Tensor, ModelError> {
    match kind {
        LinearKind::Dense { weight, .. } => Ok(weight.shallow_clone()),
        LinearKind::Other(op) => match op.merged().transpose()? {
            Some(LinearKind::Dense { weight, .. }) => Ok(weight),
            _ => Err(ModelError::Pass("an adapter needs a layer that can be made dense")),
        },
    }
}

/// L2 norm of each row of `[N, K]`, `[N]`.
fn row_lengths(weight: &Tensor) -> Result<Tensor, ModelError> {
    Ok(weight.f_norm_scalaropt_dim(2.0, &[1i64][..], false)?)
}

/// Adds `low bᵀ` to what it is given, in place, where a product and a sum would go over the outputs
/// twice more: `to [M, N]`, `low [M, r]`, `b [N, r]`.
fn add_product(mut to: Tensor, low: &Tensor, b: &Tensor) -> Result<Tensor, ModelError> {
    let kind = to.kind();
    Ok(to.f_addmm_(&low.f_to_kind(kind)?, &b.f_to_kind(kind)?.f_tr()?)?)
}

impl Lora {
    /// `scale · B A`, `[N, K]`.
    fn delta(&self) -> Result<Tensor, ModelError> {
        Ok(self.b.f_matmul(&self.a)?.f_mul_scalar(self.scale)?)
    }

    /// DoRA's factor of each output: wanted length over present length, `[N]`. The present length
    /// takes no part in the gradient (section 4.3 of the paper).
    fn stretch(&self, magnitude: &Tensor) -> Result<Tensor, ModelError> {
        let length = tch::no_grad(|| row_lengths(&dense(&self.base)?.f_add(&self.delta()?)?))?;
        Ok(magnitude.f_div(&length.detach())?)
    }

    /// The base with its bias.
    fn plain(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        match (&self.base, &self.bias) {
            (LinearKind::Dense { weight, .. }, bias) => Ok(input.f_linear(weight, bias.as_ref())?),
            (base, Some(bias)) => {
                let product = base.forward(input, dropout)?;
                Ok(product.f_add(&bias.f_to_kind(product.kind())?)?)
            }
            (base, None) => base.forward(input, dropout),
        }
    }
}

impl LinearOp for Lora {
    fn forward(&self, input: &Tensor, dropout: Dropout) -> Result<Tensor, ModelError> {
        if !self.on.load(Ordering::Relaxed) {
            return self.plain(input, dropout);
        }
        let dropped = dropout.apply(input.shallow_clone(), self.dropout)?;
        let low = dropped.f_linear(&self.a, None::<&Tensor>)?.f_mul_scalar(self.scale)?;
        let Some(magnitude) = &self.magnitude else {
            // Not of a view: backward of a change in place would copy the whole gradient.
            let rows =
                |tensor: &Tensor| tensor.f_reshape([-1, *tensor.size().last().unwrap_or(&1)]);
            let mut size = input.size();
            let plain = self.plain(&rows(input)?, dropout)?;
            let output = add_product(plain, &rows(&low)?, &self.b)?;
            size.pop();
            size.push(self.b.size()[0]);
            return Ok(output.f_view(size.as_slice())?);
        };
        let learnt = low.f_linear(&self.b, None::<&Tensor>)?;
        let stretch = self.stretch(magnitude)?;
        let plain = self.base.forward(input, dropout)?;
        let base = if dropout.share(self.dropout) > 0.0 {
            self.base.forward(&dropped, dropout)?
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
        let mut all = self.base.tensors();
        all.extend(self.bias.as_ref().map(|bias| ("bias".to_owned(), bias.shallow_clone())));
        all.push(("lora_A.weight".to_owned(), self.a.shallow_clone()));
        all.push(("lora_B.weight".to_owned(), self.b.shallow_clone()));
        let magnitude = self.magnitude.as_ref().map(Tensor::shallow_clone);
        all.extend(magnitude.map(|tensor| ("lora_magnitude_vector".to_owned(), tensor)));
        all
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        let merge = || {
            let moved = dense(&self.base)?.f_add(&self.delta()?)?;
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

    fn on() -> Arc<AtomicBool> {
        Arc::new(AtomicBool::new(true))
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
            let adapters = Adapters { layers: 1, on: on() };
            attach(&mut linear, &config(dora, rslora), &adapters.on).unwrap();
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
            let off = adapters.off(|| linear.forward(&input, Dropout::On).unwrap());
            assert!(distance(&before, &off) < 1e-6, "dora {dora}");
            assert_eq!(linear.forward(&input, Dropout::On).unwrap(), trained, "on again");
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
