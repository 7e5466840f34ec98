//! Checkpoints that cannot tear, and what is kept of them.
//!
//! `checkpoints/step-N/` holds a shard a rank (`rank-R.safetensors`: whole
//! tensors, or boxes out of tensors that are divided), `state.json`, and
//! `manifest.json` last, with the size and hash of every other file. In a
//! directory all is written under a temporary name, synced and renamed; on S3
//! the manifest is the last object that is put.
//!
//! Training stands still for the copy into staging memory only.
//!
//! Invariant: a step without a valid manifest does not exist.

pub mod directory;
pub mod manifest;
pub mod part;
pub mod reports;
mod restore;
pub mod retention;
pub mod s3;
pub mod saver;
pub mod shard;
pub mod staging;
pub mod storage;
pub mod store;

pub use manifest::Manifest;
pub use saver::Saver;
pub use storage::Storage;
pub use store::CheckpointStore;
