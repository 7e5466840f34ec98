//! What the end-to-end tests share: a tiny model and its data, and a hand on a
//! cluster by the same commands that a person types.

pub mod cluster;
pub mod http;
pub mod jobs;
pub mod processes;
pub mod tiny;
