//! Tests of the whole preparation, by what it writes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy allows them in functions marked as tests alone"
)]

mod augment;
mod bombs;
mod dicom;
mod fixture;
mod folders;
mod formats;
mod join;
mod memory;
mod pictures;
mod pipeline;
mod refusals;
mod resume;
mod splits;
mod table;
