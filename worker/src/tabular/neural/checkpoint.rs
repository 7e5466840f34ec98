//! Where the training of a network is: its weights, what the optimizer remembers, the best weights so far.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::tensors::{NetworkError, pack, unpack};
use crate::model::Parameter;
use crate::train::optimizer::Optimizer;
use crate::train::patience::Patience;

/// Key of the note in the file.
const KEY: &str = "progress";
const WEIGHT: &str = "weight.";
const MOMENT: &str = "moment.";
const BEST: &str = "best.";

/// How far training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Position {
    /// Optimizer steps done.
    pub(super) step: u64,
    /// Step of the lowest loss on held-out rows.
    pub(super) best_step: Option<u64>,
    /// Evaluations without a better one.
    pub(super) patience: Patience,
    /// Whether patience is at its end.
    pub(super) over: bool,
}

impl Position {
    /// Optimizer steps done.
    pub(crate) fn step(&self) -> u64 {
        self.step
    }
}

/// What the note in the file says.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Note {
    fingerprint: String,
    position: Position,
}

/// A checkpoint that was read.
pub(crate) struct Checkpoint {
    pub(super) position: Position,
    tensors: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Reads a file's bytes; the error says why training begins anew.
    pub(crate) fn read(bytes: &[u8], fingerprint: &str) -> Result<Self, String> {
        let (tensors, note) = unpack(bytes, KEY).map_err(|error| error.to_string())?;
        let note = note.ok_or("it does not say where training was")?;
        let note: Note = serde_json::from_str(&note).map_err(|error| error.to_string())?;
        if note.fingerprint != fingerprint {
            return Err("it is of other settings or rows".to_owned());
        }
        Ok(Self { position: note.position, tensors })
    }

    /// Where training was.
    pub(crate) fn position(&self) -> &Position {
        &self.position
    }

    /// Puts it in place of what training begins with; gives the best weights, where there are some.
    pub(super) fn restore(
        &self,
        parameters: &[Parameter],
        optimizer: &Optimizer,
    ) -> Result<Option<Vec<Tensor>>, NetworkError> {
        for (name, target) in named(parameters) {
            self.copy(&format!("{WEIGHT}{name}"), target)?;
        }
        for (name, target) in optimizer.moments() {
            self.copy(&format!("{MOMENT}{name}"), target)?;
        }
        if self.position.best_step.is_none() {
            return Ok(None);
        }
        let best = named(parameters).map(|(name, target)| {
            let kept = target.f_detach()?.f_zeros_like()?;
            self.copy(&format!("{BEST}{name}"), kept.shallow_clone())?;
            Ok(kept)
        });
        best.collect::<Result<_, NetworkError>>().map(Some)
    }

    fn copy(&self, name: &str, mut target: Tensor) -> Result<(), NetworkError> {
        let known = self.tensors.get(name).filter(|known| known.size() == target.size());
        let known = known.ok_or_else(|| {
            NetworkError::Weights(format!("the checkpoint has no tensor {name} of that shape"))
        })?;
        tch::no_grad(|| target.f_copy_(known))?;
        Ok(())
    }
}

/// A file's bytes.
pub(super) fn bytes(
    (parameters, optimizer): (&[Parameter], &Optimizer),
    best: Option<&[Tensor]>,
    position: Position,
    fingerprint: &str,
) -> Result<Vec<u8>, NetworkError> {
    let prefixed = |prefix: &'static str| move |(name, tensor)| (format!("{prefix}{name}"), tensor);
    let own = |(name, tensor): (&str, Tensor)| (name.to_owned(), tensor);
    let mut tensors: Vec<(String, Tensor)> =
        named(parameters).map(own).map(prefixed(WEIGHT)).collect();
    tensors.extend(optimizer.moments().into_iter().map(prefixed(MOMENT)));
    if let Some(best) = best {
        let best =
            named(parameters).zip(best).map(|((name, _), kept)| (name, kept.shallow_clone()));
        tensors.extend(best.map(own).map(prefixed(BEST)));
    }
    let note = Note { fingerprint: fingerprint.to_owned(), position };
    let note =
        serde_json::to_string(&note).map_err(|error| NetworkError::Weights(error.to_string()))?;
    pack(&tensors, (KEY, &note))
}

fn named(parameters: &[Parameter]) -> impl Iterator<Item = (&str, Tensor)> {
    parameters.iter().map(|of| (of.name.as_str(), of.tensor.shallow_clone()))
}
