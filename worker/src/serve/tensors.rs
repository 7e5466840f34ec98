//! Tensors of the Open Inference Protocol, version 2, of a model of tables: one input of each column,
//! and the outputs `label` and `scores`, or `value`.

use hearth_tabular::{Features, Prediction, Task, ValueType};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::tables::Row;

/// `POST /v2/models/NAME/infer`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back in the response.
    #[serde(default)]
    pub id: Option<String>,
    /// A tensor of each column.
    inputs: Vec<Input>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    name: String,
    /// `[N]` or `[N, 1]`; of a column of lists `[N, length]`.
    shape: Vec<usize>,
    datatype: String,
    data: Vec<Value>,
}

impl Request {
    /// The rows, or what is wrong with the request.
    pub fn rows(&self) -> Result<Vec<Row>, String> {
        let count = match self.inputs.first() {
            Some(input) => input.data.len() / input.width()?,
            None => 0,
        };
        let mut rows = vec![Map::new(); count];
        for input in &self.inputs {
            let width = input.width()?;
            input.check(width, count)?;
            for (row, values) in rows.iter_mut().zip(input.data.chunks(width)) {
                let mut read = values.iter().map(|value| input.value(value));
                let value = match (width, read.next()) {
                    (1, Some(alone)) => alone?,
                    (_, first) => {
                        first.into_iter().chain(read).collect::<Result<Vec<_>, _>>()?.into()
                    }
                };
                if row.insert(input.name.clone(), value).is_some() {
                    return Err(format!("input {:?} is there twice", input.name));
                }
            }
        }
        Ok(rows)
    }
}

impl Input {
    /// Values of a row.
    fn width(&self) -> Result<usize, String> {
        match self.shape.as_slice() {
            [_] => Ok(1),
            [_, width] if *width > 0 => Ok(*width),
            other => Err(format!(
                "input {:?} has shape {other:?}; send [N] or [N, 1], or of lists [N, length]",
                self.name
            )),
        }
    }

    fn check(&self, width: usize, rows: usize) -> Result<(), String> {
        let whole = rows.checked_mul(width) == Some(self.data.len());
        if whole && self.shape.first() == Some(&rows) {
            return Ok(());
        }
        Err(format!(
            "input {:?} has shape {:?} and {} values, and the first input has {rows} row(s)",
            self.name,
            self.shape,
            self.data.len()
        ))
    }

    /// A value, of the kind that the tensor's type says; `null` is a missing one.
    fn value(&self, value: &Value) -> Result<Value, String> {
        let fits = match self.datatype.as_str() {
            "BYTES" => value.is_string(),
            "BOOL" => value.is_boolean(),
            "FP32" | "FP64" => value.is_number(),
            "INT8" | "INT16" | "INT32" | "INT64" | "UINT8" | "UINT16" | "UINT32" | "UINT64" => {
                value.is_i64() || value.is_u64()
            }
            other => {
                let known = "BYTES, BOOL, FP32, FP64 and whole numbers";
                return Err(format!("input {:?} is of {other:?}; there are {known}", self.name));
            }
        };
        if fits || value.is_null() {
            return Ok(value.clone());
        }
        Err(format!("input {:?} holds {value}, which is no {}", self.name, self.datatype))
    }
}

/// The tensors of an answer.
pub fn outputs(predictions: &[Prediction]) -> Vec<Value> {
    let tensor = |name: &str, datatype: &str, shape: Vec<usize>, data: Vec<Value>| json!({"name": name, "datatype": datatype, "shape": shape, "data": data});
    let rows = predictions.len();
    let (mut labels, mut scores, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for prediction in predictions {
        match prediction {
            Prediction::Label(told) => {
                labels.push(Value::from(told.label.as_str()));
                scores.extend(told.probabilities.values().map(|score| Value::from(*score)));
            }
            Prediction::Number(told) => values.push(Value::from(told.value)),
        }
    }
    if labels.is_empty() {
        return vec![tensor("value", "FP64", vec![rows], values)];
    }
    let width = scores.len() / rows.max(1);
    vec![
        tensor("label", "BYTES", vec![rows], labels),
        tensor("scores", "FP64", vec![rows, width], scores),
    ]
}

/// The inputs that a model takes.
pub fn inputs(features: &Features) -> Vec<Value> {
    let datatype = |type_| match type_ {
        ValueType::Text => "BYTES",
        ValueType::Boolean => "BOOL",
        ValueType::Integer => "INT64",
        ValueType::Number => "FP64",
        ValueType::Float32 => "FP32",
    };
    let told = features.columns().into_iter().map(|(name, type_, length)| {
        let shape = length.map_or_else(|| json!([-1]), |length| json!([-1, length]));
        json!({"name": name, "datatype": datatype(type_), "shape": shape})
    });
    told.collect()
}

/// The outputs that a model gives.
pub fn kinds(features: &Features) -> Vec<Value> {
    match features.task {
        Task::TabularRegression => {
            vec![json!({"name": "value", "datatype": "FP64", "shape": [-1]})]
        }
        Task::TabularClassification => vec![
            json!({"name": "label", "datatype": "BYTES", "shape": [-1]}),
            json!({"name": "scores", "datatype": "FP64", "shape": [-1, features.labels.len()]}),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(request: Value) -> Result<Vec<Row>, String> {
        serde_json::from_value::<Request>(request).map_err(|error| error.to_string())?.rows()
    }

    #[test]
    fn columns_become_rows() {
        let read = rows(json!({"inputs": [
            {"name": "amount", "shape": [2], "datatype": "FP64", "data": [1.5, null]},
            {"name": "channel", "shape": [2, 1], "datatype": "BYTES", "data": ["card", "wire"]},
        ]}));
        let want = json!([{"amount": 1.5, "channel": "card"}, {"amount": null, "channel": "wire"}]);
        assert_eq!(json!(read.unwrap()), want);
    }

    #[test]
    fn a_column_of_lists_has_a_list_in_each_row() {
        let read = rows(json!({"inputs": [
            {"name": "load", "shape": [2, 3], "datatype": "FP64", "data": [1, 2, null, 4, 5, 6]},
            {"name": "hour", "shape": [2], "datatype": "INT64", "data": [7, 8]},
        ]}));
        let want = json!([{"load": [1, 2, null], "hour": 7}, {"load": [4, 5, 6], "hour": 8}]);
        assert_eq!(json!(read.unwrap()), want);
    }

    #[test]
    fn columns_that_do_not_fit_are_refused_by_name() {
        for (input, told) in [
            (
                json!({"name": "b", "shape": [2], "datatype": "FP64", "data": [1]}),
                "\"b\" has shape [2]",
            ),
            (json!({"name": "b", "shape": [1, 2], "datatype": "FP64", "data": [1]}), "1 values"),
            (json!({"name": "b", "shape": [1, 0], "datatype": "FP64", "data": []}), "send [N]"),
            (json!({"name": "b", "shape": [1, 1, 1], "datatype": "FP64", "data": [1]}), "send [N]"),
            (json!({"name": "b", "shape": [1], "datatype": "INT64", "data": [1.5]}), "no INT64"),
            (json!({"name": "b", "shape": [1], "datatype": "FP8", "data": [1]}), "\"FP8\""),
            (json!({"name": "a", "shape": [1], "datatype": "FP64", "data": [1]}), "twice"),
        ] {
            let first = json!({"name": "a", "shape": [1], "datatype": "BYTES", "data": ["x"]});
            let error = rows(json!({"inputs": [first, input]})).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
