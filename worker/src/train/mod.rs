//! One rank of a training job: state, schedule, step, evaluation, loop.

pub mod evaluate;
pub mod gang;
pub mod horizon;
mod inputs;
pub mod journal;
mod milestones;
pub mod optimizer;
pub mod rank;
pub mod run;
pub mod schedule;
pub mod session;
pub mod state;
pub mod step;

pub use run::run;
