//! `spec.objective` and `spec.distillation`: the loss that training brings down.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tabular::Threshold;
use crate::training_job::{ModelSource, Task};

/// The loss, and how rows become samples of it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.type == 'SFT' || !self.assistantOnlyLoss").message("objective.assistantOnlyLoss needs objective.type SFT: set it to false").field_path(".assistantOnlyLoss"),
    validation = Rule::new("self.type == 'SFT' || self.type == 'Pretraining' || !self.packing").message("objective.packing needs objective.type Pretraining or SFT: set it to false").field_path(".packing"),
    validation = Rule::new("self.type == 'DPO' || !has(self.beta)").message("objective.beta needs objective.type DPO: remove it").field_path(".beta"),
    validation = Rule::new("self.type == 'Classification' || self.classWeights == 'None'").message("objective.classWeights needs objective.type Classification: set it to None").field_path(".classWeights"),
    validation = Rule::new("self.type == 'Classification' || !has(self.threshold)").message("objective.threshold needs objective.type Classification: remove it").field_path(".threshold"),
)]
#[serde(rename_all = "camelCase")]
pub struct Objective {
    /// What is optimised. `Pretraining`, `SFT` and `DPO` are for CausalLM,
    /// `Classification` is for the classification tasks.
    #[serde(rename = "type")]
    pub type_: ObjectiveType,
    /// With SFT of `messages`: only the assistant's tokens count
    /// (TRL's `assistant_only_loss`).
    #[serde(default)]
    pub assistant_only_loss: bool,
    /// With Pretraining and SFT: several rows share one sequence of `maxLength`
    /// tokens, and none attends to another (TRL's `packing`).
    #[serde(default)]
    pub packing: bool,
    /// With DPO: how strongly the model is held near the one it started from; 0.1
    /// where left out (TRL's `beta`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub beta: Option<f64>,
    /// With Classification: how much a row of each class counts.
    #[serde(default)]
    pub class_weights: ClassWeights,
    /// Texts and pictures of two labels: from which probability on the second one, in the order of
    /// their names, is the answer; where left out, the likelier one is. Half of the rows for evaluation
    /// choose it, and the other half tell what it costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
}

impl Objective {
    /// The objective of this type, nothing else set.
    pub fn new(type_: ObjectiveType) -> Self {
        Self {
            type_,
            assistant_only_loss: false,
            packing: false,
            beta: None,
            class_weights: ClassWeights::None,
            threshold: None,
        }
    }

    /// What a task optimises where its spec does not say; `None` for the tasks
    /// that have no choice.
    pub fn of_task(task: Task) -> Option<Self> {
        match task {
            Task::CausalLM => Some(Self::new(ObjectiveType::SFT)),
            Task::SequenceClassification
            | Task::ImageClassification
            | Task::TabularClassification => Some(Self::new(ObjectiveType::Classification)),
            Task::TabularRegression => None,
        }
    }

    /// `beta` in force.
    pub fn beta(&self) -> f64 {
        self.beta.unwrap_or(0.1)
    }
}

/// What is optimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ObjectiveType {
    /// The next token of plain text.
    Pretraining,
    /// The next token of answers (supervised fine-tuning).
    SFT,
    /// Chosen answers over rejected ones (Rafailov et al. 2023), sigmoid loss.
    DPO,
    /// The right label.
    Classification,
}

/// How much a row of each class counts in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClassWeights {
    /// Each row the same.
    #[default]
    None,
    /// Rows over classes times rows of the class (scikit-learn's `balanced`).
    Balanced,
}

/// A second, fixed model whose predictions are learned besides the labels
/// (Hinton et al. 2015): `alpha` times the KL divergence of both at `temperature`,
/// scaled by its square, plus `1 - alpha` times the objective's own loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Distillation {
    /// The model to learn from; its size may differ, its vocabulary or labels may not.
    pub teacher: ModelSource,
    /// Divides the logits of both models.
    #[serde(default = "default_temperature")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub temperature: f64,
    /// Share of the teacher's part in the loss.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
}

pub(crate) fn default_temperature() -> f64 {
    2.0
}

pub(crate) fn default_alpha() -> f64 {
    0.5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_out_fields_have_trls_values() {
        let dpo: Objective = serde_json::from_str(r#"{"type": "DPO"}"#).unwrap();
        assert_eq!(dpo, Objective::new(ObjectiveType::DPO));
        assert!((dpo.beta() - 0.1).abs() < f64::EPSILON);
        let distillation: Distillation =
            serde_json::from_str(r#"{"teacher": {"source": "pvc://models/large"}}"#).unwrap();
        assert_eq!((distillation.temperature, distillation.alpha), (2.0, 0.5));
    }

    #[test]
    fn each_task_has_its_own_default() {
        for (task, want) in [
            (Task::CausalLM, Some(ObjectiveType::SFT)),
            (Task::ImageClassification, Some(ObjectiveType::Classification)),
            (Task::TabularRegression, None),
        ] {
            assert_eq!(Objective::of_task(task).map(|objective| objective.type_), want, "{task:?}");
        }
    }
}
