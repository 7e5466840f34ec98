//! `hearth`, also `kubectl hearth`: runs a job's YAML on this machine, follows
//! objects of a cluster, and converts the configurations of other trainers.
//!
//! [`render`] turns states into text and is pure; [`display`] puts text on a
//! terminal or into a log. [`run`] plans with the operator's own functions, so
//! that a local run refuses and does what a cluster would.

pub mod args;
pub mod convert;
mod display;
mod documents;
pub mod key;
pub mod plot;
mod render;
pub mod rollout;
pub mod run;
pub mod watch;

/// Exit codes besides the worker's own (`hearth_crds::worker_config::ExitCode`).
pub mod exit {
    /// Done.
    pub const DONE: i32 = 0;
    /// It failed; the message says why.
    pub const FAILED: i32 = 1;
    /// A time limit passed (as `timeout(1)`).
    pub const TIMED_OUT: i32 = 124;
    /// Ctrl-C (128 + SIGINT).
    pub const INTERRUPTED: i32 = 130;
}
