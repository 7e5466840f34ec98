//! Raw rows → clean, split, described ones.
//!
//! ```text
//! source: files -> batches of rows    join: what joins rows    rows: a batch -> cleaned rows, and keys    text: what a text is cleaned of
//! stage: what is kept on the way      shape: what rows become in the end         table, augment: how
//! card: what is told of the result    run: all of it
//! ```
//!
//! Invariants:
//! 1. The result's bytes follow from the sources' content and the settings alone: not from the
//!    number of threads, nor from how often a run was killed and went on.
//! 2. Memory does not grow with the sources but by some bytes a row.
//! 3. A result is there whole, under its name, or not at all.

pub mod augment;
mod bad_rows;
mod card;
mod error;
mod files;
mod identity;
pub mod import;
mod join;
mod manifest;
mod parallel;
pub mod picture;
mod progress;
mod rows;
mod run;
mod shape;
mod source;
mod stage;
pub mod table;
pub mod text;

pub use card::markdown;
pub use error::PrepareError;
pub use files::Lock;
pub use manifest::{FORMAT_VERSION, FileEntry, MANIFEST, Manifest};
pub use progress::{Progress, Silent, Stage, Update};
pub use run::{Prepared, Settings, run, run_with};
