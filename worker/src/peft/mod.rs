//! Parameter-efficient fine-tuning: small trainable parts beside frozen weights, under the names
//! and formulas of PEFT.

pub mod lora;
pub mod quantized;
pub mod saved;
pub mod served;

pub use lora::{Adapters, LoraConfig, adapt, merge};
pub use quantized::quantized;
