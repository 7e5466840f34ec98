//! `hearth-worker`: what runs in a Hearth pod.
//!
//! One way: config → data → model → train → checkpoint → export. A file
//! imports only from earlier stages. `agent` supervises ranks (processes of
//! `train`), `quantize` and `serve` start from an export.

pub mod agent;
pub mod event;
pub mod quantize;
pub mod serve;
