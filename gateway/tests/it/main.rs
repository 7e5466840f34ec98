//! The gateway over real sockets. One program, since each would compile all of hyper
//! and kube's watcher anew.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod abuse;
mod comparison;
mod config_map;
mod guarded;
mod overhead;
mod rollout;
mod support;
mod tokens;
mod traffic;
