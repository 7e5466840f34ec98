//! The Open Inference Protocol, version 2: one input `text` or `image` of type BYTES, and
//! the outputs `label` (BYTES), `label_id` (INT64) and `scores` (FP32).
//!
//! Of the extensions there is `binary_tensor_data`: tensors as bytes behind the JSON ([`binary`]).

use hearth_crds::model_deployment::ServingRuntime;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::binary;
use super::classify::{Threshold, decided};
use super::common::Common;
use super::engine::Answer;
use super::reads::Reads;

/// What of the protocol's extensions there is.
pub const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];

/// Parameters that would change the answer, and that nothing here does.
const UNKNOWN: [&str; 3] = ["classification", "shared_memory_region", "sequence_id"];

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
    /// Of all tensors.
    #[serde(default)]
    pub parameters: Parameters,
}

/// A tensor of a request.
#[derive(Debug, Deserialize)]
pub struct InputTensor {
    /// Must be [`Reads::INPUT`].
    pub name: String,
    /// `[N]` or `[N, 1]`.
    pub shape: Vec<usize>,
    /// Must be `BYTES`.
    pub datatype: String,
    /// Texts, or pictures in base64, where they are no bytes behind the JSON; lists of them are read
    /// as one.
    #[serde(default)]
    pub data: Option<Vec<Value>>,
    /// Of this tensor.
    #[serde(default)]
    pub parameters: Parameters,
}

/// An output that is wanted.
#[derive(Debug, Deserialize)]
pub struct OutputName {
    /// Its name.
    pub name: String,
    /// Of this tensor.
    #[serde(default)]
    pub parameters: Parameters,
}

/// How tensors travel.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Parameters {
    /// Bytes of an input behind the JSON.
    pub binary_data_size: Option<usize>,
    /// Whether an output is wanted as bytes.
    pub binary_data: Option<bool>,
    /// Whether outputs that do not say so are.
    pub binary_data_output: Option<bool>,
    /// All others.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

/// The JSON of an answer to [`Request`].
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

/// Tensors of an answer: what its JSON tells, and what comes behind it.
#[derive(Debug, PartialEq)]
pub struct Outputs {
    /// One entry a tensor.
    pub tensors: Vec<Value>,
    /// Bytes of those that were wanted so, in their order.
    pub binary: Vec<u8>,
}

impl Request {
    /// The inputs, or what is wrong with the request. `behind` is what comes after its JSON.
    pub fn inputs<R: Reads>(&self, behind: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        self.parameters.check()?;
        for wanted in self.outputs.iter().flatten() {
            if !["label", "label_id", "scores"].contains(&wanted.name.as_str()) {
                return Err(format!(
                    "there is no output {:?}; there are label, label_id and scores",
                    wanted.name
                ));
            }
            wanted.parameters.check()?;
        }
        let [input] = self.inputs.as_slice() else {
            let count = self.inputs.len();
            return Err(format!("{count} inputs, and the model has one: {:?}", R::INPUT));
        };
        let elements = input.elements::<R>(behind)?;
        if input.shape[0] != elements.len() {
            return Err(format!(
                "shape {:?} asks for {} elements, and data holds {}",
                input.shape,
                input.shape[0],
                elements.len()
            ));
        }
        Ok(elements)
    }

    /// The tensors that were asked for.
    pub fn outputs(
        &self,
        labels: &[String],
        threshold: Option<&Threshold>,
        scores: &[Answer],
    ) -> Outputs {
        let best: Vec<usize> = scores.iter().map(|scores| decided(scores, threshold)).collect();
        let names: Vec<&str> =
            best.iter().map(|id| labels.get(*id).map_or("", String::as_str)).collect();
        let flat: Vec<f32> = scores.iter().flat_map(|scores| scores.iter().copied()).collect();
        let (rows, table) = (vec![scores.len()], vec![scores.len(), labels.len()]);
        let mut outputs = Outputs { tensors: Vec::new(), binary: Vec::new() };
        self.add(&mut outputs, ("label", "BYTES", &rows), &names, || binary::texts(&names));
        self.add(&mut outputs, ("label_id", "INT64", &rows), &best, || binary::int64(&best));
        self.add(&mut outputs, ("scores", "FP32", &table), &flat, || binary::fp32(&flat));
        outputs
    }

    fn add(
        &self,
        outputs: &mut Outputs,
        (name, datatype, shape): (&str, &str, &[usize]),
        data: &impl Serialize,
        bytes: impl FnOnce() -> Vec<u8>,
    ) {
        let mut as_bytes = self.parameters.binary_data_output;
        if let Some(wanted) = &self.outputs {
            let Some(wanted) = wanted.iter().find(|wanted| wanted.name == name) else { return };
            as_bytes = wanted.parameters.binary_data.or(as_bytes);
        }
        let mut tensor = json!({"name": name, "shape": shape, "datatype": datatype});
        if as_bytes == Some(true) {
            let bytes = bytes();
            tensor["parameters"] = json!({"binary_data_size": bytes.len()});
            outputs.binary.extend(bytes);
        } else {
            tensor["data"] = json!(data);
        }
        outputs.tensors.push(tensor);
    }
}

impl InputTensor {
    fn elements<R: Reads>(&self, behind: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let own = R::INPUT;
        if self.name != own {
            return Err(format!("there is no input {:?}; the model's is {own:?}", self.name));
        }
        if self.datatype != "BYTES" {
            return Err(format!("input {own:?} is of type BYTES, not {:?}", self.datatype));
        }
        if !matches!(self.shape.as_slice(), [_] | [_, 1]) {
            return Err(format!("input {own:?} has shape [N] or [N, 1], not {:?}", self.shape));
        }
        self.parameters.check()?;
        match (&self.data, self.parameters.binary_data_size) {
            (Some(_), Some(_)) => {
                Err(format!("input {own:?} has data and binary_data_size; give one"))
            }
            (None, None) => Err(format!(
                "input {own:?} has no data, and no binary_data_size of bytes behind the JSON"
            )),
            (None, Some(size)) if size != behind.len() => Err(format!(
                "binary_data_size of input {own:?} is {size}, and {} bytes are behind the JSON",
                behind.len()
            )),
            (None, Some(_)) => binary::read_elements(behind),
            (Some(_), None) if !behind.is_empty() => Err(format!(
                "{} bytes behind the JSON belong to no input: none has binary_data_size",
                behind.len()
            )),
            (Some(data), None) => {
                let mut elements = Vec::new();
                for value in data {
                    match value {
                        Value::Array(row) => {
                            row.iter().try_for_each(|value| push::<R>(value, &mut elements))?;
                        }
                        value => push::<R>(value, &mut elements)?,
                    }
                }
                Ok(elements)
            }
        }
    }
}

fn push<R: Reads>(value: &Value, elements: &mut Vec<Vec<u8>>) -> Result<(), String> {
    let text = value.as_str().ok_or_else(|| format!("data holds {value}, which is no text"))?;
    let index = elements.len();
    let bytes = R::bytes_of(text.to_owned());
    elements.push(bytes.map_err(|why| format!("{} {index} {why}", R::INPUT))?);
    Ok(())
}

impl Parameters {
    fn check(&self) -> Result<(), String> {
        match UNKNOWN.iter().find(|name| self.others.contains_key(**name)) {
            Some(name) => Err(format!(
                "parameter {name:?} is of an extension that this server does not have; it has {}",
                EXTENSIONS.join(", ")
            )),
            None => Ok(()),
        }
    }
}

/// The protocol's name of what computes a model.
pub fn platform(runtime: ServingRuntime) -> &'static str {
    match runtime {
        ServingRuntime::Libtorch => "hearth_libtorch",
        ServingRuntime::OnnxRuntime => "hearth_onnxruntime",
        ServingRuntime::TensorRT => "hearth_tensorrt",
    }
}

/// `GET /v2/models/NAME`.
pub fn metadata<R: Reads>(
    common: &Common,
    runtime: ServingRuntime,
    (labels, threshold): (&[String], Option<&Threshold>),
) -> Value {
    let mut parameters = json!({ "labels": labels });
    if let Some(threshold) = threshold {
        parameters["threshold"] = json!(threshold);
    }
    json!({
        "name": common.name,
        "versions": [common.revision],
        "platform": platform(runtime),
        "inputs": [{"name": R::INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "label_id", "datatype": "INT64", "shape": [-1]},
            {"name": "scores", "datatype": "FP32", "shape": [-1, labels.len()]},
        ],
        "parameters": parameters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::TextEncoder;

    fn request(input: &Value, behind: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        let request: Request = serde_json::from_value(json!({ "inputs": [input] })).unwrap();
        request.inputs::<TextEncoder>(behind)
    }

    fn tensor() -> Value {
        json!({"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a", "b"]})
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused_with_what_does() {
        assert_eq!(request(&tensor(), b"").unwrap(), [b"a", b"b"]);
        for (field, value, want) in [
            ("name", json!("tokens"), "the model's is \"text\""),
            ("datatype", json!("FP32"), "of type BYTES"),
            ("shape", json!([3]), "asks for 3 elements, and data holds 2"),
            ("shape", json!([1, 2]), "[N] or [N, 1]"),
            ("data", json!(["a", 7]), "7, which is no text"),
            ("data", Value::Null, "no data"),
            ("parameters", json!({"binary_data_size": 4}), "give one"),
            ("parameters", json!({"shared_memory_region": "r"}), "does not have"),
        ] {
            let mut changed = tensor();
            changed[field] = value;
            let refused = request(&changed, b"").unwrap_err();
            assert!(refused.contains(want), "{field}: {refused}");
        }
        assert!(request(&tensor(), b"x").unwrap_err().contains("belong to no input"));
    }

    #[test]
    fn texts_come_flat_in_rows_or_as_bytes() {
        let mut input = tensor();
        input["shape"] = json!([2, 1]);
        input["data"] = json!([["a"], ["b"]]);
        assert_eq!(request(&input, b"").unwrap(), [b"a", b"b"]);
        input["data"].take();
        input["parameters"] = json!({"binary_data_size": 10});
        let bytes = b"\x01\0\0\0a\x01\0\0\0b";
        assert_eq!(request(&input, bytes).unwrap(), [b"a", b"b"]);
        assert!(request(&input, &bytes[..9]).unwrap_err().contains("is 10, and 9 bytes"));
    }

    fn outputs(request: &Value) -> Outputs {
        let labels = ["ham", "spam"].map(str::to_owned);
        let scores = [[0.25, 0.75], [0.375, 0.625]].map(Answer::from);
        let request: Request = serde_json::from_value(request.clone()).unwrap();
        request.inputs::<TextEncoder>(b"").unwrap();
        request.outputs(&labels, None, &scores)
    }

    #[test]
    fn outputs_are_those_asked_for() {
        let Outputs { tensors, binary } = outputs(&json!({ "inputs": [tensor()] }));
        assert_eq!(tensors[0]["data"], json!(["spam", "spam"]));
        assert_eq!(tensors[2]["shape"], json!([2, 2]));
        assert_eq!(tensors[2]["data"], json!([0.25, 0.75, 0.375, 0.625]));
        assert!(binary.is_empty());
        let mut request = json!({ "inputs": [tensor()], "outputs": [{"name": "label_id"}] });
        assert_eq!(outputs(&request).tensors.len(), 1);
        request["outputs"][0]["name"] = json!("x");
        let request: Request = serde_json::from_value(request).unwrap();
        assert!(request.inputs::<TextEncoder>(b"").unwrap_err().contains("no output \"x\""));
    }

    #[test]
    fn outputs_are_bytes_where_that_is_asked_for() {
        let all = json!({ "inputs": [tensor()], "parameters": {"binary_data_output": true} });
        let Outputs { tensors, binary } = outputs(&all);
        let sizes = tensors.iter().map(|tensor| &tensor["parameters"]["binary_data_size"]);
        assert_eq!(sizes.collect::<Vec<_>>(), [&json!(16), &json!(16), &json!(16)]);
        assert_eq!(binary.len(), 48);
        assert_eq!(binary[..8], *b"\x04\0\0\0spam");
        assert_eq!(binary[16..24], 1u64.to_le_bytes());
        assert_eq!(binary[32..36], 0.25f32.to_le_bytes());

        let mixed = json!({ "inputs": [tensor()], "outputs": [
            {"name": "label", "parameters": {"binary_data": false}},
            {"name": "scores", "parameters": {"binary_data": true}},
        ], "parameters": {"binary_data_output": true} });
        let Outputs { tensors, binary } = outputs(&mixed);
        assert_eq!(tensors[0]["data"], json!(["spam", "spam"]));
        assert_eq!((tensors[1].get("data"), binary.len()), (None, 16));
    }
}
