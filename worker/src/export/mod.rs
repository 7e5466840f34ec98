//! A trained model as a Hugging Face directory.

pub mod card;
pub mod decision;
pub mod directory;
pub mod drift;
pub mod gguf;
pub mod merge;
pub mod onnx;

pub use card::ModelCard;
pub use decision::Decision;
pub use directory::{Beside, Exported, export, export_adapters, publish};
pub use drift::DriftReference;
