//! A small training state that is different at every step, and a check that one
//! was restored bit for bit.

use std::sync::Arc;
use std::time::Instant;

use hearth_worker::checkpoint::part::Part;
use hearth_worker::checkpoint::reports::Reports;
use hearth_worker::checkpoint::saver::{Finished, Request};
use hearth_worker::checkpoint::{CheckpointStore, Saver, Storage};
use hearth_worker::error::Error;
use hearth_worker::train::state::TrainState;
use tch::{Device, Kind, Tensor};

/// Weights and moments of step `step`; `rows` sets their size.
pub(crate) fn tensors(step: u64, rows: i64) -> Vec<(String, Tensor)> {
    ["model.weight", "exp_avg.weight", "exp_avg_sq.weight"]
        .iter()
        .zip(1_i64..)
        .map(|(name, which)| {
            let step = i64::try_from(step).unwrap();
            let values = Tensor::arange(rows * 64, (Kind::Float, Device::Cpu)) * 0.37;
            ((*name).to_owned(), (values + step * 1000 + which).sin().reshape([rows, 64]))
        })
        .collect()
}

/// Zeros of the same names and shapes.
pub(crate) fn blank(rows: i64) -> Vec<(String, Tensor)> {
    let zeros = |(name, tensor): (String, Tensor)| (name, tensor.zeros_like());
    tensors(0, rows).into_iter().map(zeros).collect()
}

/// A saver of a rank that trains alone.
pub(crate) fn saver(storage: Arc<dyn Storage>, generation: u32) -> Saver {
    Saver::start(CheckpointStore::new(storage, generation), Reports::alone()).unwrap()
}

/// What a training loop asks for at `step`.
pub(crate) fn request(step: u64, rows: i64, keep: usize) -> Request {
    let parts =
        tensors(step, rows).into_iter().map(|(name, tensor)| Part::whole(name, tensor)).collect();
    Request { state: TrainState { step, ..TrainState::default() }, parts, keep }
}

/// Saves `step` and waits for it.
pub(crate) fn save(
    storage: &Arc<dyn Storage>,
    (step, rows, keep): (u64, i64, usize),
) -> Result<Finished, Error> {
    let mut saver = saver(Arc::clone(storage), u32::try_from(step).unwrap());
    saver.save(&request(step, rows, keep), Instant::now())?;
    saver.wait(&mut || ()).map(Option::unwrap)
}

/// Starts anew as rank 0 does: cleans up, takes the newest checkpoint, and
/// restores it. The step, or what is wrong.
pub(crate) fn restart(storage: &Arc<dyn Storage>, rows: i64) -> Result<u64, String> {
    let store = CheckpointStore::new(Arc::clone(storage), 99);
    store.prepare().map_err(|error| error.sentence())?;
    let found = store.newest().map_err(|error| error.sentence())?;
    if let Some((path, reason)) = found.rejected.first() {
        return Err(format!("{} looks like a checkpoint, but {reason}", path.display()));
    }
    let checkpoint = found.checkpoint.ok_or("no checkpoint is left")?;
    let step = checkpoint.state.step;
    let values = blank(rows);
    checkpoint.restore(&values).map_err(|error| error.sentence())?;
    for ((name, value), (_, want)) in values.iter().zip(tensors(step, rows)) {
        if !value.equal(&want) {
            return Err(format!("{name} is not what step {step} saved"));
        }
    }
    Ok(step)
}
