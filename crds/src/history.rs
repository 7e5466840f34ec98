//! A run's curves: what agent 0 answers on `GET /history`, and the lines of
//! `metrics.jsonl` that say the same on disk.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What agent 0 answers on `GET /history`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Oldest first. Thinned evenly as it grows, so that its size is bounded.
    pub points: Vec<HistoryPoint>,
}

/// One point of the curves: of a training step, or of an evaluation after it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryPoint {
    /// Optimizer step.
    pub step: i64,
    /// Passes over the data done.
    pub epoch: f64,
    /// RFC 3339; empty where the time is not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub time: String,
    /// Training loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// Learning rate of the step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Gradient norm before clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    /// Tokens a second, of all ranks together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Samples a second, of all ranks together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Share of the step's time that the rank waited for data, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_wait_ratio: Option<f64>,
    /// Loss of an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Accuracy of an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// F1 of an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
    /// Macro F1 of an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f1_macro: Option<f64>,
    /// Area under the ROC curve of an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roc_auc: Option<f64>,
    /// Average precision of an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_precision: Option<f64>,
    /// Coefficient of determination of an evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r2: Option<f64>,
}

impl HistoryPoint {
    /// The point that a line of `metrics.jsonl` tells; `None` where the line
    /// is not one (the last may be torn).
    pub fn of_line(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        let number = |object: &Value, name: &str| object.get(name)?.as_f64();
        let (step, epoch) = (line.get("step")?.as_i64()?, number(&line, "epoch").unwrap_or(0.0));
        let point = Self { step, epoch, ..Self::default() };
        Some(match line.get("eval") {
            Some(eval) => Self {
                eval_loss: number(eval, "loss"),
                accuracy: number(eval, "accuracy"),
                f1: number(eval, "f1"),
                f1_macro: number(eval, "f1Macro"),
                roc_auc: number(eval, "rocAuc"),
                average_precision: number(eval, "averagePrecision"),
                r2: number(eval, "r2"),
                ..point
            },
            None => Self {
                loss: number(&line, "loss"),
                learning_rate: number(&line, "learningRate"),
                grad_norm: number(&line, "gradNorm"),
                tokens_per_second: number(&line, "tokensPerSecond"),
                samples_per_second: number(&line, "samplesPerSecond"),
                data_wait_ratio: number(&line, "dataWaitRatio"),
                ..point
            },
        })
    }

    /// Whether it is of an evaluation.
    pub fn is_evaluation(&self) -> bool {
        self.eval_loss.is_some() || self.accuracy.is_some() || self.f1.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_journal_are_points() {
        let train = r#"{"epoch":0.5,"gradNorm":2.0,"learningRate":1e-4,"loss":0.75,"step":10,"tokensPerSecond":800.0}"#;
        let point = HistoryPoint::of_line(train).unwrap();
        assert_eq!((point.step, point.epoch, point.loss), (10, 0.5, Some(0.75)));
        assert_eq!((point.grad_norm, point.samples_per_second), (Some(2.0), None));
        assert!(!point.is_evaluation());
        let eval = r#"{"epoch":0.5,"eval":{"loss":0.5,"f1":0.9,"f1Macro":0.8},"step":10}"#;
        let point = HistoryPoint::of_line(eval).unwrap();
        assert_eq!((point.loss, point.eval_loss, point.f1), (None, Some(0.5), Some(0.9)));
        assert_eq!(point.f1_macro, Some(0.8));
        assert!(point.is_evaluation());
        for torn in ["", "{\"step\": 1", "{}", "[1]", "{\"step\": 1.5}"] {
            assert_eq!(HistoryPoint::of_line(torn), None, "{torn}");
        }
    }

    #[test]
    fn an_answer_reads_back() {
        let point = HistoryPoint { step: 3, loss: Some(0.5), ..HistoryPoint::default() };
        let text = serde_json::to_string(&History { points: vec![point.clone()] }).unwrap();
        assert_eq!(text, r#"{"points":[{"step":3,"epoch":0.0,"loss":0.5}]}"#);
        assert_eq!(serde_json::from_str::<History>(&text).unwrap().points, [point]);
    }
}
