//! The data path of a ModelDeployment.
//!
//! One way through: a connection is [accepted and guarded](server), a request
//! is [checked, routed and forwarded](proxy), an answer streams back. Where
//! requests go is a [routing table](table) that a [source] keeps up to date;
//! when the source is gone or writes nonsense, the last good table stands.
//!
//! Requests are repeated after a broken connection (see [retry]), since the
//! servers behind this gateway compute answers and change nothing. Do not put
//! it in front of a service for which that is not so.

pub mod admin;
pub mod args;
mod body;
pub mod entrance;
mod headers;
mod idle;
mod in_flight;
pub mod keys;
mod load;
pub mod meter;
pub mod metrics;
mod outcomes;
pub mod proxy;
mod reply;
pub mod retry;
#[cfg(not(test))]
pub mod run;
pub mod server;
mod shadow;
mod socket;
pub mod source;
pub mod state;
pub mod table;
pub mod tls;
pub mod tokens;
mod turns;
mod upstream;
mod wire;
