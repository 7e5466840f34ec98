//! The Open Inference Protocol, version 2: one input `text` of type BYTES, and
//! the outputs `label` (BYTES), `label_id` (INT64) and `scores` (FP32).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::engine::Scores;

/// Name of the input tensor.
pub const INPUT: &str = "text";

/// `POST /v2/models/NAME/infer`.
#[derive(Debug, Deserialize)]
pub struct Request {
    /// Comes back in the response.
    #[serde(default)]
    pub id: Option<String>,
    /// Tensors.
    pub inputs: Vec<InputTensor>,
    /// Outputs that are wanted; all by default.
    #[serde(default)]
    pub outputs: Option<Vec<OutputName>>,
}

/// A tensor of a request.
#[derive(Debug, Deserialize)]
pub struct InputTensor {
    /// Must be [`INPUT`].
    pub name: String,
    /// `[N]` or `[N, 1]`.
    pub shape: Vec<usize>,
    /// Must be `BYTES`.
    pub datatype: String,
    /// Texts.
    pub data: Vec<Value>,
}

/// An output that is wanted.
#[derive(Debug, Deserialize)]
pub struct OutputName {
    /// Its name.
    pub name: String,
}

/// Answer to [`Request`].
#[derive(Debug, Serialize)]
pub struct Response {
    /// The model.
    pub model_name: String,
    /// Its revision.
    pub model_version: String,
    /// The request's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Tensors.
    pub outputs: Vec<Value>,
}

impl Request {
    /// The texts, or what is wrong with the request.
    pub fn texts(&self) -> Result<Vec<String>, String> {
        for wanted in self.outputs.iter().flatten() {
            if !["label", "label_id", "scores"].contains(&wanted.name.as_str()) {
                return Err(format!(
                    "there is no output {:?}; there are label, label_id and scores",
                    wanted.name
                ));
            }
        }
        let [input] = self.inputs.as_slice() else {
            return Err(format!("{} inputs, and the model has one: {INPUT:?}", self.inputs.len()));
        };
        if input.name != INPUT {
            return Err(format!("there is no input {:?}; the model's is {INPUT:?}", input.name));
        }
        if input.datatype != "BYTES" {
            return Err(format!("input {INPUT:?} is of type BYTES, not {:?}", input.datatype));
        }
        if !matches!(input.shape.as_slice(), [_] | [_, 1]) {
            return Err(format!("input {INPUT:?} has shape [N] or [N, 1], not {:?}", input.shape));
        }
        if input.shape[0] != input.data.len() {
            return Err(format!(
                "shape {:?} asks for {} texts, and data holds {}",
                input.shape,
                input.shape[0],
                input.data.len()
            ));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        input
            .data
            .iter()
            .map(|value| text(value).ok_or_else(|| format!("data holds {value}, which is no text")))
            .collect()
    }

    /// The tensors that were asked for.
    pub fn outputs(&self, labels: &[String], scores: &[Scores]) -> Vec<Value> {
        let best: Vec<usize> = scores.iter().map(|scores| likeliest(scores)).collect();
        let names: Vec<&str> =
            best.iter().map(|id| labels.get(*id).map_or("", String::as_str)).collect();
        let count = scores.len();
        let all = [
            json!({"name": "label", "shape": [count], "datatype": "BYTES", "data": names}),
            json!({"name": "label_id", "shape": [count], "datatype": "INT64", "data": best}),
            json!({
                "name": "scores",
                "shape": [count, labels.len()],
                "datatype": "FP32",
                "data": scores.iter().flat_map(|scores| scores.iter()).collect::<Vec<_>>(),
            }),
        ];
        let wanted = |tensor: &Value| match &self.outputs {
            Some(names) => names.iter().any(|wanted| tensor["name"] == wanted.name),
            None => true,
        };
        all.into_iter().filter(wanted).collect()
    }
}

/// `GET /v2/models/NAME`.
pub fn metadata(name: &str, revision: &str, labels: &[String]) -> Value {
    json!({
        "name": name,
        "versions": [revision],
        "platform": "hearth_libtorch",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "label_id", "datatype": "INT64", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, labels.len()]},
        ],
        "parameters": {"labels": labels},
    })
}

fn likeliest(scores: &[f32]) -> usize {
    let best = scores.iter().enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other));
    best.map_or(0, |(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(input: &Value) -> Result<Vec<String>, String> {
        let request: Request = serde_json::from_value(json!({ "inputs": [input] })).unwrap();
        request.texts()
    }

    fn tensor() -> Value {
        json!({"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]})
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused_with_what_does() {
        assert_eq!(request(&tensor()).unwrap(), ["a", "b"]);
        for (field, value, want) in [
            ("name", json!("tokens"), "the model's is \"text\""),
            ("datatype", json!("FP32"), "of type BYTES"),
            ("shape", json!([3]), "asks for 3 texts, and data holds 2"),
            ("shape", json!([1, 2]), "[N] or [N, 1]"),
            ("data", json!(["a", 7]), "7, which is no text"),
        ] {
            let mut changed = tensor();
            changed[field] = value;
            let refused = request(&changed).unwrap_err();
            assert!(refused.contains(want), "{field}: {refused}");
        }
    }

    #[test]
    fn outputs_are_those_asked_for() {
        let labels = ["ham", "spam"].map(str::to_owned);
        let scores = [[0.25, 0.75], [0.5, 0.5]].map(Scores::from);
        let mut request: Request = serde_json::from_value(json!({ "inputs": [tensor()] })).unwrap();
        let outputs = request.outputs(&labels, &scores);
        assert_eq!(outputs[0]["data"], json!(["spam", "spam"]));
        assert_eq!(outputs[2]["shape"], json!([2, 2]));
        assert_eq!(outputs[2]["data"], json!([0.25, 0.75, 0.5, 0.5]));
        request.outputs = Some(vec![OutputName { name: "label_id".to_owned() }]);
        assert_eq!(request.outputs(&labels, &scores).len(), 1);
        request.outputs = Some(vec![OutputName { name: "x".to_owned() }]);
        assert!(request.texts().unwrap_err().contains("no output \"x\""));
    }
}
