//! Hearth's operator: YAML, valid type, pure plan, apply, status.
//!
//! Thought is pure and sits in the middle: [`training_job::validate`],
//! [`training_job::policy`] and [`training_job::plan`] know no client and no
//! clock. I/O is at both ends: `gather` reads, [`apply`] is the only writer.
//! The command line uses the pure part for local runs.

pub mod admission;
pub mod agent_client;
pub mod apply;
pub mod args;
pub mod cache;
pub mod children;
#[cfg(not(test))]
pub mod cli;
pub mod context;
pub mod crd_files;
pub mod deployment;
pub mod document;
pub mod error;
pub mod fault;
pub mod http;
pub mod kept;
pub mod lease;
pub mod lost_pods;
pub mod metrics;
pub mod network;
pub mod observed;
pub mod plan_check;
pub mod planted;
pub mod pod_index;
pub mod pods;
// Holds kube's watches and controllers: most of what compiles, and nothing for unit tests.
#[cfg(not(test))]
pub mod run;
pub mod seen;
pub mod settings;
pub mod source_rules;
pub mod sweep;
pub mod telemetry;
pub mod training_job;
pub mod watch;
#[cfg(not(test))]
pub mod watches;
