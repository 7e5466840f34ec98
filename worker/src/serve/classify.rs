//! `POST /v1/classify`.
//!
//! ```text
//! {"inputs": "text" | ["text", …], "top_k": 1}     (pictures are base64)
//! {"model": "spam", "revision": "…",
//!  "outputs": [[{"label": "spam", "score": 0.98}, {"label": "ham", "score": 0.02}]]}
//! ```
//! One list an input, the likeliest class first; scores are probabilities.

use serde::{Deserialize, Serialize};

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
}

/// A class with its probability.
#[derive(Debug, PartialEq, Serialize)]
pub struct Class {
    /// Name.
    pub label: String,
    /// Probability.
    pub score: f32,
}

/// The likeliest `top_k` classes, likeliest first.
pub fn ranked(labels: &[String], scores: &[f32], top_k: Option<usize>) -> Vec<Class> {
    let mut classes: Vec<Class> = labels
        .iter()
        .zip(scores)
        .map(|(label, score)| Class { label: label.clone(), score: *score })
        .collect();
    classes.sort_by(|one, other| other.score.total_cmp(&one.score));
    classes.truncate(top_k.unwrap_or(usize::MAX));
    classes
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
            ranked(&labels, &scores, top_k).into_iter().map(|class| class.label).collect()
        };
        assert_eq!(names(None), ["b", "c", "a"]);
        assert_eq!(names(Some(1)), ["b"]);
        assert_eq!(names(Some(9)), ["b", "c", "a"]);
    }
}
