//! What several families share.

pub mod activation;
pub mod attention;
pub mod batch_norm;
pub mod conv_layer;
pub mod convolution;
pub mod dropout;
pub mod embedding;
pub mod experts;
pub mod held;
pub mod linear;
pub mod mla;
pub mod mlp;
pub mod norm;
pub mod onnx;
pub mod output;
pub mod rope;
pub mod router;
