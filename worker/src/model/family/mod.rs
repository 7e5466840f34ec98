//! Model families, a file each: `config.json` → network.

pub mod bert;
pub mod deepseek;
pub mod deepseek_v2;
pub mod deepseek_v3;
mod latent;
pub mod llama;
pub mod mobilenet_v2;
pub mod qwen2;
pub mod qwen3;
pub mod resnet;
pub mod vit;
