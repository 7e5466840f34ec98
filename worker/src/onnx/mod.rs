//! ONNX: a network as one file that other programs compute.
//!
//! [`proto`] is the needed part of the format, [`graph`] puts graphs together. Which operators a
//! family is made of, it says itself ([`crate::model::network::Network::onnx`]).

pub mod graph;
pub mod proto;

pub use graph::{Graph, Value};
