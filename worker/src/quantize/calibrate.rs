//! Rounds a model's layers stage by stage, each for the inputs that it gets behind the stages that
//! were rounded before it.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use super::scheme::Scheme;
use super::smooth::smooth;
use super::tensors::Rounded;
use super::watch::Watch;
use crate::data::{Fetched, Samples};
use crate::error::Error;
use crate::model::{Dropout, Model, ModelError, Pass};

/// Layers by name that were rounded.
pub type RoundedLayers = BTreeMap<String, Rounded>;

/// A row on its way through the stages.
pub(super) struct Row {
    /// What the next stage reads behind rounded ones, `[1, T, D]`.
    pub(super) hidden: Tensor,
    /// What it reads behind the original ones.
    exact: Tensor,
    pass: Pass,
}

impl Row {
    /// What a stage makes of it.
    pub(super) fn through(&self, model: &Model, stage: usize) -> Result<Tensor, ModelError> {
        model.network().forward(stage, &self.hidden, &self.pass)
    }

    /// What a stage makes of what the original model reads.
    fn exactly_through(&self, model: &Model, stage: usize) -> Result<Tensor, ModelError> {
        model.network().forward(stage, &self.exact, &self.pass)
    }
}

/// Smooths a decoder's layers, rounds those of `model` that get whole numbers, and leaves in it what
/// they stand for. `samples` are shown to it one by one, at most `rows` of them. `kept_in` is the kind
/// in which norms are written.
pub fn calibrate(
    model: &mut Model,
    schemes: &BTreeMap<String, Option<Scheme>>,
    samples: &Samples,
    (rows, kept_in): (u32, Kind),
) -> Result<RoundedLayers, Error> {
    tch::no_grad(|| {
        let mut shown = shown(model, samples, rows)?;
        let mut rounded = RoundedLayers::new();
        let stages = model.network().stages();
        for stage in 0..stages {
            smooth(model, stage, schemes, &shown, kept_in)?;
            rounded.extend(settle(model, stage, schemes, &mut shown)?);
            tracing::info!("calibrated {} of {stages} stages", stage + 1);
        }
        Ok(rounded)
    })
}

/// Rounds the layers of a stage step by step, and takes the rows through it: each step for what it
/// reads behind those that are rounded, so that what it gives is nearest to what the original gives.
fn settle(
    model: &mut Model,
    stage: usize,
    schemes: &BTreeMap<String, Option<Scheme>>,
    shown: &mut [Row],
) -> Result<RoundedLayers, ModelError> {
    let mut rounded = RoundedLayers::new();
    let last = stage + 1 == model.network().stages();
    let first = shown.first();
    let ask =
        |model: &Model| first.map_or(Ok(()), |row| row.exactly_through(model, stage).map(|_| ()));
    let Some(watch) = Watch::of(model, stage, schemes, ask)? else {
        if !last {
            for row in shown {
                (row.hidden, row.exact) =
                    (row.through(model, stage)?, row.exactly_through(model, stage)?);
            }
        }
        return Ok(rounded);
    };
    for row in &mut *shown {
        row.exact = watch.exactly(|| row.exactly_through(model, stage))?;
    }
    for step in 0..watch.steps() {
        for row in &*shown {
            watch.count(step, || row.through(model, stage))?;
        }
        rounded.extend(watch.settle(step)?);
    }
    if !last {
        for row in shown {
            row.hidden = watch.rounded(|| row.through(model, stage))?;
        }
    }
    watch.leave(model, stage);
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
            let exact = hidden.shallow_clone();
            shown.push(Row { hidden, exact, pass });
        }
    }
    Ok(shown)
}
