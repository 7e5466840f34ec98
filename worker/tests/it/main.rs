//! The worker as its agent and its users run it: real processes of the built binary,
//! real Gloo between them, tiny models that the tests make themselves, and the answers
//! of transformers. One program, since each would compile the same crates anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise"
)]

mod agent_recovery;
mod bad_input;
mod chat_templates;
mod corruption;
mod crew;
mod data_sequences;
mod export;
mod fixture;
mod gang;
mod parity_transformers;
mod quantize_int8;
mod resume;
mod serve_http;
mod terminate;
mod trained;
mod world_size;
