//! Tests of the whole preparation, by what it writes.

mod fixture;
mod formats;
mod memory;
mod pipeline;
mod refusals;
mod resume;
mod splits;
