//! The training engine as its agent runs it: real processes of the built
//! binary, real Gloo between them, a tiny BERT that the tests make themselves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod bad_input;
mod corruption;
mod export;
mod fixture;
mod gang;
mod resume;
mod terminate;
mod world_size;
