//! One rank of a training job: state, schedule, step, evaluation, loop.

mod diagnose;
mod drift;
pub mod epoch;
pub mod evaluate;
mod finite;
pub mod gang;
pub mod horizon;
mod inputs;
pub mod journal;
pub mod memory;
mod milestones;
pub mod optimizer;
pub mod patience;
pub mod rank;
pub mod run;
pub mod schedule;
pub mod session;
pub mod state;
pub mod step;
pub mod team;

pub use run::run;
pub(crate) use session::stop_on_sigterm;
