//! What a run costs, and where its curves go.
//!
//! [`process`] reads `/proc`, [`gpu`] asks NVML, [`system`] does both for an
//! agent and for rank 0; [`tensorboard`] writes event files. What is not known
//! is absent everywhere, never 0.

pub mod figure;
pub mod gpu;
pub mod process;
pub mod system;
pub mod tensorboard;

pub use figure::Figure;
pub use system::{Probe, SystemMetrics};
