//! Decisions about a TrainingJob: pure functions of what was observed.

mod outcome;
mod preparing;
mod size;
mod stage;

pub use outcome::{Outcome, outcome};
pub(crate) use preparing::is_prepared;
pub(crate) use size::{awaited, news_of_size, pods};
pub use stage::{Stage, stage};
pub(crate) use stage::{held, replicas, said_soon, trains};
