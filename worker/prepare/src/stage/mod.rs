//! What is done between the sources and the result, in files that a run which is killed finds
//! again.
//!
//! ```text
//! clean: a source's parts -> the same, cleaned      decide: all rows -> a fate each
//!   parts: how they are kept                          compare, near, alike: equal rows    split: evaluation
//! write: parts and fates -> shards                  sort: more records than fit into memory
//!   shards: which rows go where                     read: rows with a fate, once more
//! ```

mod alike;
mod clean;
mod compare;
mod copies;
mod decide;
mod fate;
mod near;
mod parts;
mod read;
mod shards;
mod sort;
mod split;
mod write;

pub(crate) use clean::{Cleaned, Cleaning};
pub(crate) use compare::Rows;
pub(crate) use copies::Copies;
pub(crate) use decide::decide;
pub(crate) use fate::{Fate, Fates};
pub(crate) use read::Reading;
pub(crate) use shards::Side;
pub(crate) use write::{Block, SAMPLES, Sample, Shape, ShapeReport, Shaped, Writing, Written};
