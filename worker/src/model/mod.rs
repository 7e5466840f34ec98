//! Hugging Face directory → classifier.
//!
//! Single-device maths that matches `transformers` (5.x, eager in float32).
//! Parallelism and optimizers are applied from outside.

pub mod bert;
pub mod classifier;
pub mod config;
pub mod linear;
pub mod weights;

use std::path::PathBuf;

pub use classifier::{Classifier, Parameter, load, load_with};
pub use config::ModelConfig;
pub use linear::{Linear, LinearOp};
pub use weights::Weights;

/// Whether a forward pass drops activations at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropout {
    /// Training.
    On,
    /// Evaluation and serving.
    Off,
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is not there.
    #[error("{} does not exist; {hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A model that Hearth has no code for.
    #[error("{}: {detail}", path.display())]
    Unsupported {
        /// The file that says so.
        path: PathBuf,
        /// What is not supported, and what is.
        detail: String,
    },
    /// A file that contradicts itself or another.
    #[error("{}: {detail}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// libtorch refused an operation.
    #[error("libtorch failed in the model")]
    Torch(#[from] tch::TchError),
    /// An operator of ours failed.
    #[error("an operator failed in the model")]
    Operator(#[from] nccl_rs::Error),
}
