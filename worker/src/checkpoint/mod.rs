//! Checkpoints that cannot tear, and what is kept of them.
//!
//! `checkpoints/step-N/` holds `rank-R.safetensors` (replicas are equal, so
//! each rank writes a share of the tensors), `state.json`, and `manifest.json`
//! last, with the size and hash of both. All is written under a temporary
//! name, synced and renamed.
//!
//! Invariant: a step without a valid manifest does not exist.

pub mod manifest;
pub mod retention;
pub mod shard;
pub mod store;

pub use manifest::Manifest;
pub use store::CheckpointStore;
