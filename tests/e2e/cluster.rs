//! End-to-end tests on the cluster in `KUBECONFIG`, with the chart installed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

mod bad_input;
mod canary;
mod clocks;
mod entrance;
mod factory;
mod faults;
mod gang;
mod http_route;
mod language;
mod many;
mod medical;
mod node_cache;
mod prepare;
mod resize;
mod rollout;
mod smaller;
mod support;
mod sweep;
mod tables;
mod upgrade;
