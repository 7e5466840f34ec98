//! The operator against an API server in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod admission;
mod argocd;
mod common;
mod deployment;
mod kept;
mod lease;
mod plans;
mod preparation;
mod resize;
mod sweep;
mod training_job;
