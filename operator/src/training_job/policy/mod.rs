//! Decisions about a TrainingJob: pure functions of what was observed.

mod outcome;
mod stage;

pub use outcome::{Outcome, outcome};
pub use stage::{Stage, stage};
pub(crate) use stage::{held, replicas, trains};
