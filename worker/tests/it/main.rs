//! The worker as its agent and its users run it: real processes of the built binary,
//! real Gloo between them, tiny models that the tests make themselves, and the answers
//! of transformers. One program, since each would compile the same crates anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise"
)]

mod adapters;
mod agent_recovery;
mod bad_input;
mod chat_templates;
mod checkpoint_crash;
mod checkpoint_faults;
mod checkpoint_s3;
mod checkpoint_slices;
mod checkpoint_state;
mod corruption;
mod crew;
mod data_sequences;
mod decoder_classifies;
mod distillation;
mod drift;
mod export;
mod exposition;
mod faulty_disk;
mod fetch;
mod fixture;
mod gang;
mod image_classification;
mod knobs;
mod language_model;
mod node_cache;
mod onnx_trees;
mod parallel;
mod parallel_checkpoints;
mod parallel_losses;
mod parallel_memory;
mod parity_families;
mod parity_images;
mod parity_learned;
mod parity_smollm2;
mod parity_transformers;
mod preferences;
mod prepare;
mod pruning;
mod quantize;
mod resize;
mod resume;
mod s3_server;
mod serve_http;
mod serve_language;
mod serve_onnx;
mod serve_pictures;
mod serve_scans;
mod straggler;
mod tabular;
mod tensorboard;
mod terminate;
mod threshold;
mod trained;
mod ways;
mod world_size;
