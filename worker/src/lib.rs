//! `hearth-worker`: what runs in a Hearth pod.
//!
//! One way: config → data → onnx → model → parallel → train → checkpoint → export. A file
//! imports only from earlier stages. `agent` supervises ranks (processes of
//! `train`), `quantize`, `node_cache` and `serve` start from an export. `prepare` makes rows of
//! what `fetch` brings from buckets; `s3` is how buckets are reached.

pub mod agent;
pub mod backlog;
pub mod checkpoint;
pub mod config;
pub mod cores;
pub mod data;
pub mod diagnosis;
pub mod error;
pub mod event;
pub mod export;
pub mod fetch;
pub mod files;
pub mod generate;
pub mod import;
pub mod load_features;
pub mod model;
pub mod monitor;
pub mod node_cache;
pub mod objective;
pub mod onnx;
pub mod parallel;
pub mod peft;
pub mod prepare;
pub mod prune;
pub mod quantize;
pub mod s3;
pub mod serve;
pub mod simulate;
pub mod tabular;
pub mod termination;
pub mod train;
mod wait;
