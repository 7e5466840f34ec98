//! LightGBM's C interface for Rust: what owns, checks and drops. The only place with `unsafe`.
//!
//! ```text
//! handle: owners of what LightGBM makes    training: data, and a booster that grows
//! check: a model's text, before LightGBM reads it    predictor: a model that no longer changes
//! forest: its trees as data
//! ```
//!
//! LightGBM's C functions catch every C++ exception and return -1 (`API_BEGIN`/`API_END` in its
//! `c_api.cpp`), the reason in a variable of the thread. What it logs goes to `tracing`, for a
//! worker's standard output is for its events.

#![expect(unsafe_code, reason = "FFI")]

mod check;
mod forest;
mod handle;
mod predictor;
mod training;

pub use forest::{Child, Forest, Split, Test, Tree};
pub(crate) use predictor::Predictor;
pub(crate) use training::{Data, Matrix, Training};

/// LightGBM's version, as built.
pub(crate) const VERSION: &str = "4.7.0";

/// Most leaves of a tree: more gain nothing, and explanations take the square of a tree's depth.
pub(crate) const MAX_LEAVES: u32 = 1024;
