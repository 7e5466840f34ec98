//! Against a real server, which each test starts for itself: `redis-server` of Debian's packages, and once
//! more Valkey.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod faults;
mod history;
mod load;
mod lookup;
mod server;
mod tables;
mod timing;
mod tls;
mod valkey;
