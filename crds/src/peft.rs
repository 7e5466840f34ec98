//! `spec.peft`: trains small adapters beside frozen weights, under the names and
//! defaults of PEFT's `LoraConfig`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Adapters instead of all weights. A new classification head is trained whole besides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Peft {
    /// Kind of adapter.
    #[serde(rename = "type")]
    pub type_: PeftType,
    /// Rank of the adapters.
    #[schemars(range(min = 1, max = 4096))]
    pub r: i32,
    /// The adapters' output is scaled by `loraAlpha / r`.
    #[schemars(range(min = 1, max = 65536))]
    pub lora_alpha: i32,
    /// Share of the adapters' inputs that is dropped in training.
    #[schemars(range(min = 0.0, max = 0.99))]
    pub lora_dropout: f64,
    /// Layers that get an adapter, by the last part of their name, such as
    /// `q_proj`; every linear layer of the blocks where left out (PEFT's `all-linear`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 256)))]
    pub target_modules: Vec<String>,
    /// Scale by `loraAlpha / sqrt(r)` (Kalajdzievski 2023).
    pub use_rslora: bool,
    /// Adapt direction and magnitude apart (DoRA, Liu et al. 2024).
    pub use_dora: bool,
    /// Number format in which the frozen weights are held (QLoRA).
    pub base_quantization: BaseQuantization,
    /// Export one model with the adapters added in; false exports the adapters alone,
    /// as PEFT saves them.
    pub merge_on_export: bool,
}

impl Default for Peft {
    fn default() -> Self {
        Self {
            type_: PeftType::LoRA,
            r: 8,
            lora_alpha: 8,
            lora_dropout: 0.0,
            target_modules: Vec::new(),
            use_rslora: false,
            use_dora: false,
            base_quantization: BaseQuantization::None,
            merge_on_export: true,
        }
    }
}

/// Kind of adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PeftType {
    /// Products of two low-rank matrices (Hu et al. 2021).
    LoRA,
}

/// Number format of frozen weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BaseQuantization {
    /// As they are computed with.
    None,
    /// 8-bit integers, with a scale for each output.
    INT8,
    /// 4-bit integers, with a scale for each 128 inputs of an output.
    INT4,
}
