//! Rounds a model's layers stage by stage, each for the inputs that it gets behind the stages that
//! were rounded before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

use super::gptq::{self, Moments};
use super::scheme::Scheme;
use super::smooth::smooth;
use super::tensors::Rounded;
use super::tune;
use crate::data::{Fetched, Samples};
use crate::error::Error;
use crate::model::{Dropout, LinearKind, LinearOp, Model, ModelError, Pass};

/// Layers by name that were rounded.
pub type RoundedLayers = BTreeMap<String, Rounded>;

/// A dense layer that takes note of its inputs.
#[derive(Debug)]
struct Watched {
    weight: Tensor,
    bias: Option<Tensor>,
    moments: Arc<Mutex<Moments>>,
}

impl LinearOp for Watched {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).add(input)?;
        Ok(input.f_linear(&self.weight, self.bias.as_ref())?)
    }

    fn merged(&self) -> Option<Result<LinearKind, ModelError>> {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Some(Ok(LinearKind::Dense { weight: self.weight.shallow_clone(), bias }))
    }
}

/// A row on its way through the stages.
pub(super) struct Row {
    /// What the next stage reads, `[1, T, D]`.
    pub(super) hidden: Tensor,
    pub(super) pass: Pass,
}

impl Row {
    /// What a stage makes of it.
    pub(super) fn through(&self, model: &Model, stage: usize) -> Result<Tensor, ModelError> {
        model.network().forward(stage, &self.hidden, &self.pass)
    }
}

/// Smooths a decoder's layers, rounds those of `model` that get whole numbers, trains their scales
/// where the numbers have few bits, and leaves in it what they stand for. `samples` are shown to it
/// one by one, at most `rows` of them. `kept_in` is the kind in which norms are written.
pub fn calibrate(
    model: &mut Model,
    schemes: &BTreeMap<String, Option<Scheme>>,
    samples: &Samples,
    (rows, kept_in): (u32, Kind),
) -> Result<RoundedLayers, Error> {
    let mut shown = tch::no_grad(|| shown(model, samples, rows))?;
    let few_bits = |scheme: &Scheme| matches!(scheme, Scheme::Packed { bits: ..8, .. });
    let tunes = schemes.values().flatten().any(few_bits);
    let answers = tunes.then(|| tune::answers(model, &mut shown)).transpose()?;
    let mut rounded = RoundedLayers::new();
    let stages = model.network().stages();
    for stage in 0..stages {
        tch::no_grad(|| smooth(model, stage, schemes, &shown, kept_in))?;
        let watched = watch(model, stage, schemes)?;
        tch::no_grad(|| {
            if !watched.is_empty() {
                for row in &shown {
                    let _ = row.through(model, stage)?;
                }
                rounded.extend(settle(model, stage, schemes, &watched)?);
            }
            if stage + 1 < stages {
                for row in &mut shown {
                    row.hidden = row.through(model, stage)?;
                }
            }
            Ok::<_, ModelError>(())
        })?;
        tracing::info!("calibrated {} of {stages} stages", stage + 1);
    }
    if let Some(answers) = answers {
        tune::tune(model, &mut rounded, shown, answers)?;
    }
    Ok(rounded)
}

fn shown(model: &Model, samples: &Samples, rows: u32) -> Result<Vec<Row>, Error> {
    let mut shown = Vec::new();
    let mut fetched = Fetched::default();
    for row in 0..samples.len().min(rows) {
        samples.fetch(&[row], &mut fetched)?;
        for ids in fetched.ids() {
            let ids: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
            let tokens = i64::try_from(ids.len()).unwrap_or(i64::MAX);
            let hidden = Tensor::f_from_slice(&ids)?.f_unsqueeze(0)?;
            let pass = if model.config.family.is_decoder() {
                Pass::decoder(model.network(), tokens, Device::Cpu, Dropout::Off)?
            } else {
                Pass::encoder(None, Dropout::Off)?
            };
            shown.push(Row { hidden, pass });
        }
    }
    Ok(shown)
}

/// Bits and groups of a layer that is rounded to whole numbers.
fn whole(schemes: &BTreeMap<String, Option<Scheme>>, name: &str) -> Option<(u32, Option<i64>)> {
    schemes.get(name).copied().flatten().and_then(Scheme::whole)
}

/// Has the layers of a stage that are to be rounded take note of their inputs.
fn watch(
    model: &mut Model,
    stage: usize,
    schemes: &BTreeMap<String, Option<Scheme>>,
) -> Result<BTreeMap<String, Arc<Mutex<Moments>>>, ModelError> {
    let mut watched = BTreeMap::new();
    let mut failed = None;
    model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
        let LinearKind::Dense { weight, bias } = &linear.kind else { return };
        if whole(schemes, &linear.name).is_none() {
            return;
        }
        let moments = match Moments::new(weight.size()[1]) {
            Ok(moments) => Arc::new(Mutex::new(moments)),
            Err(error) => {
                failed = Some(error);
                return;
            }
        };
        watched.insert(linear.name.clone(), moments.clone());
        let bias = bias.as_ref().map(Tensor::shallow_clone);
        let weight = weight.shallow_clone();
        linear.kind = LinearKind::Other(Box::new(Watched { weight, bias, moments }));
    });
    failed.map_or(Ok(watched), Err)
}

/// Rounds the watched layers of a stage, and puts in their place dense ones of the rounded weights.
fn settle(
    model: &mut Model,
    stage: usize,
    schemes: &BTreeMap<String, Option<Scheme>>,
    watched: &BTreeMap<String, Arc<Mutex<Moments>>>,
) -> Result<RoundedLayers, ModelError> {
    let mut rounded = RoundedLayers::new();
    let mut failed = None;
    model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
        let Some(moments) = watched.get(&linear.name) else { return };
        let Some((bits, group)) = whole(schemes, &linear.name) else { return };
        let LinearKind::Other(op) = &linear.kind else { return };
        let Some(Ok(LinearKind::Dense { weight, bias })) = op.merged() else { return };
        let moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
        let done = gptq::round(&weight, &moments, bits, group)
            .and_then(|layer| Ok((layer.dequantize()?, layer)));
        match done {
            Ok((weight, layer)) => {
                rounded.insert(linear.name.clone(), layer);
                linear.kind = LinearKind::Dense { weight, bias };
            }
            Err(error) => failed = Some(error),
        }
    });
    failed.map_or(Ok(rounded), Err)
}
