//! `spec.pruning` of a TrainingJob and `spec.compression.pruning` of a ModelDeployment: takes away
//! the weights of a model's blocks that are smallest.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What goes. Embeddings, norms and heads stay whole.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(self.type == 'Unstructured') == has(self.sparsity)").message("pruning.type Unstructured needs pruning.sparsity, and no other type takes it"),
    validation = Rule::new("(self.type == 'Structured') == (has(self.heads) || has(self.neurons))").message("pruning.type Structured needs pruning.heads, pruning.neurons or both, and no other type takes them"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pruning {
    /// Which weights go together.
    #[serde(rename = "type")]
    pub type_: PruningType,
    /// Unstructured: share of each layer's weights that become 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.99))]
    pub sparsity: Option<f64>,
    /// Structured, of decoders: share of each layer's attention heads that go. Heads that share keys
    /// and values go together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.99))]
    pub heads: Option<f64>,
    /// Structured: share of the neurons between the two products of each feed-forward layer that go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.99))]
    pub neurons: Option<f64>,
}

/// Which weights go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PruningType {
    /// Any: the smallest of each layer become 0 (`torch.nn.utils.prune.l1_unstructured`). The model
    /// keeps its size.
    Unstructured,
    /// The two smaller of each four neighbours in a row become 0 (2:4), as NVIDIA's sparse tensor
    /// cores want it. The model keeps its size.
    SemiStructured,
    /// Whole heads and neurons: the model gets smaller and faster everywhere.
    Structured,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_no_one_knows_are_refused() {
        let told = serde_json::from_str::<Pruning>(r#"{"type": "SemiStructured", "ratio": 0.5}"#);
        assert!(told.unwrap_err().to_string().contains("ratio"));
    }
}
