//! Parameter-efficient fine-tuning: small trainable parts beside frozen weights, under the names
//! and formulas of PEFT.

pub mod lora;

pub use lora::{LoraConfig, adapt, merge};
