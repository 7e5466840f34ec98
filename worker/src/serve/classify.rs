//! `POST /v1/classify`.
//!
//! ```text
//! {"inputs": "text" | ["text", …], "top_k": 1}     (pictures are base64)
//! {"model": "spam", "revision": "…",
//!  "outputs": [[{"label": "spam", "score": 0.98}, {"label": "ham", "score": 0.02}]]}
//! ```
//! One list an input, the likeliest class first; scores are probabilities. Where the model has a
//! threshold, the answer tells it, and the class that follows from it comes first:
//!
//! ```text
//! {…, "threshold": {"label": "defective", "score": 0.02}}
//! ```

use serde::{Deserialize, Serialize};

use crate::export::decision;

/// A request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What to classify.
    pub inputs: Inputs,
    /// Classes to tell of each input; all by default.
    #[serde(default)]
    pub top_k: Option<usize>,
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "inputs must be a text or a list of texts")]
pub enum Inputs {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Inputs {
    /// As a list.
    pub fn into_texts(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

/// An answer.
#[derive(Debug, Serialize)]
pub struct Response {
    /// Name of the model.
    pub model: String,
    /// Its revision.
    pub revision: String,
    /// One list of classes an input.
    pub outputs: Vec<Vec<Class>>,
    /// The model's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
}

/// From which probability on the second of two labels is the answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// That label.
    pub label: String,
    /// That probability.
    pub score: f64,
}

/// A class with its probability.
#[derive(Debug, PartialEq, Serialize)]
pub struct Class {
    /// Name.
    pub label: String,
    /// Probability.
    pub score: f32,
}

/// The class that is the answer: the likeliest, or what the threshold says.
pub fn decided(scores: &[f32], threshold: Option<&Threshold>) -> usize {
    decision::decided(scores, threshold.map(|threshold| threshold.score))
}

/// `top_k` classes: the answer, then the likeliest.
pub fn ranked(
    labels: &[String],
    scores: &[f32],
    threshold: Option<&Threshold>,
    top_k: Option<usize>,
) -> Vec<Class> {
    let answer = decided(scores, threshold);
    let mut classes: Vec<(usize, f32)> = scores.iter().copied().enumerate().collect();
    classes.sort_by(|(one, first), (other, second)| {
        (*other == answer).cmp(&(*one == answer)).then(second.total_cmp(first))
    });
    classes.truncate(top_k.unwrap_or(usize::MAX));
    let class =
        |(class, score): (usize, f32)| Some(Class { label: labels.get(class)?.clone(), score });
    classes.into_iter().filter_map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_one_text_or_several() {
        let texts = |json: &str| -> Result<Vec<String>, String> {
            let request: Result<Request, _> = serde_json::from_str(json);
            request.map(|request| request.inputs.into_texts()).map_err(|error| error.to_string())
        };
        assert_eq!(texts(r#"{"inputs": "a"}"#).unwrap(), ["a"]);
        assert_eq!(texts(r#"{"inputs": ["a", "b"]}"#).unwrap(), ["a", "b"]);
        assert!(texts(r#"{"inputs": 7}"#).unwrap_err().contains("a text or a list of texts"));
        assert!(texts(r#"{"input": "a"}"#).unwrap_err().contains("unknown field `input`"));
    }

    #[test]
    fn classes_come_likeliest_first() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let scores = vec![0.2, 0.5, 0.3];
        let names = |top_k| -> Vec<String> {
            ranked(&labels, &scores, None, top_k).into_iter().map(|class| class.label).collect()
        };
        assert_eq!(names(None), ["b", "c", "a"]);
        assert_eq!(names(Some(1)), ["b"]);
        assert_eq!(names(Some(9)), ["b", "c", "a"]);
    }

    #[test]
    fn a_threshold_decides_what_comes_first() {
        let labels = ["accepted", "defective"].map(str::to_owned);
        let threshold = Threshold { label: labels[1].clone(), score: 0.25 };
        for (score, first) in [(0.125, "accepted"), (0.25, "defective"), (0.75, "defective")] {
            let scores = [1.0 - score, score];
            let classes = ranked(&labels, &scores, Some(&threshold), Some(1));
            assert_eq!(classes.len(), 1);
            assert_eq!(classes[0].label, first, "{score}");
        }
    }
}
