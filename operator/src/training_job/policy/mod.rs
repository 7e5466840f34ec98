//! Decisions about a TrainingJob: pure functions of what was observed.

mod outcome;
mod stage;

pub use outcome::{Outcome, outcome};
pub(crate) use stage::trains;
pub use stage::{Stage, stage};
