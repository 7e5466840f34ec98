//! Reads a YAML document as strictly as an API server does: unknown fields,
//! ranges and lengths from the CRD's schema, then its CEL rules. For local
//! runs, where no API server looks at the document first.

use hearth_crds::TrainingJob;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::fault::{Fault, SpecFaults};

/// The TrainingJob in `text`, or everything that is wrong with it.
pub fn training_job(text: &str) -> Result<TrainingJob, SpecFaults> {
    let value: Value = serde_yaml_ng::from_str(text).map_err(|error| {
        Fault::invalid("document", format!("is not YAML: {error}"), "correct the syntax")
    })?;
    let api_version = format!("{}/{}", hearth_crds::GROUP, hearth_crds::VERSION);
    for (field, want) in [("apiVersion", api_version.as_str()), ("kind", "TrainingJob")] {
        if value[field] != want {
            let problem = format!("is {}", value[field]);
            return Err(Fault::invalid(field, problem, format!("write {want}")).into());
        }
    }
    let mut faults = Vec::new();
    inspect(&value["spec"], &spec_schema(), "spec", &mut faults);
    SpecFaults::unless_empty(faults, ())?;
    let job: TrainingJob = serde_json::from_value(value).map_err(|error| {
        Fault::invalid("spec", error.to_string(), "see `kubectl explain trainingjob.spec`")
    })?;
    match job.validate_cel() {
        Ok(()) => Ok(job),
        Err(broken) => {
            Err(Fault::invalid("spec", broken.to_string(), "correct the fields named").into())
        }
    }
}

/// Schema of `spec`, as the API server gets it.
fn spec_schema() -> Value {
    let crd = serde_json::to_value(TrainingJob::crd()).unwrap_or_default();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Compares a value with the part of JSON Schema that our CRDs use.
fn inspect(value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_i64() || value.is_string()) {
            faults.push(wrong(path, value, "a whole number or a string"));
        }
        return;
    }
    match value {
        Value::Object(fields) if schema["type"] == "object" => {
            inspect_fields(fields, schema, path, faults);
        }
        Value::Array(items) if schema["type"] == "array" => {
            bounded(path, items.len() as f64, schema, ("minItems", "maxItems"), faults);
            for (index, item) in items.iter().enumerate() {
                inspect(item, &schema["items"], &format!("{path}[{index}]"), faults);
            }
        }
        Value::String(text) if schema["type"] == "string" => {
            let length = text.chars().count() as f64;
            bounded(path, length, schema, ("minLength", "maxLength"), faults);
            if let Some(known) = schema["enum"].as_array()
                && !known.contains(value)
            {
                let names: Vec<_> = known.iter().filter_map(Value::as_str).collect();
                faults.push(wrong(path, value, &format!("one of {}", names.join(", "))));
            }
        }
        Value::Number(number) if schema["type"] == "number" || schema["type"] == "integer" => {
            if schema["type"] == "integer" && !number.is_i64() {
                faults.push(wrong(path, value, "a whole number"));
            }
            let number = number.as_f64().unwrap_or_default();
            bounded(path, number, schema, ("minimum", "maximum"), faults);
        }
        Value::Bool(_) if schema["type"] == "boolean" => {}
        Value::Null if schema["nullable"] == true => {}
        _ => faults.push(wrong(path, value, schema["type"].as_str().unwrap_or("another type"))),
    }
}

fn inspect_fields(
    fields: &serde_json::Map<String, Value>,
    schema: &Value,
    path: &str,
    faults: &mut Vec<Fault>,
) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            faults.push(Fault::invalid(format!("{path}.{name}"), "is missing", "add it"));
        }
    }
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        let known = schema["properties"]
            .get(name)
            .or_else(|| schema.get("additionalProperties").filter(|schema| schema.is_object()));
        match known {
            Some(schema) => inspect(value, schema, &path, faults),
            None => faults.push(Fault::invalid(
                path,
                "is no field of a TrainingJob",
                "remove it or correct its name",
            )),
        }
    }
}

fn wrong(path: &str, value: &Value, want: &str) -> Fault {
    Fault::invalid(path, format!("is {value}"), format!("write {want}"))
}

fn bounded(
    path: &str,
    figure: f64,
    schema: &Value,
    (least, most): (&str, &str),
    faults: &mut Vec<Fault>,
) {
    let what = match least {
        "minItems" => "entries",
        "minLength" => "characters",
        _ => "",
    };
    if let Some(bound) = schema[least].as_f64()
        && figure < bound
    {
        faults.push(Fault::invalid(
            path,
            format!("is {figure} {what}").trim_end(),
            format!("the least is {bound}"),
        ));
    }
    if let Some(bound) = schema[most].as_f64()
        && figure > bound
    {
        faults.push(Fault::invalid(
            path,
            format!("is {figure} {what}").trim_end(),
            format!("the most is {bound}"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = r"
apiVersion: hearth.dev/v1alpha1
kind: TrainingJob
metadata: {name: spam}
spec:
  task: SequenceClassification
  model: {source: file:///m}
  data: {train: {source: file:///d.jsonl}}
  training: {learningRate: 5e-5, warmupSteps: 0.1}
  workers: {replicas: 2, resources: {limits: {nvidia.com/gpu: 1, memory: 4Gi}}}
  output: {destination: file:///o}
";

    #[test]
    fn a_good_document_is_read() {
        let job = training_job(JOB).unwrap();
        assert_eq!(job.spec.workers.replicas, 2);
    }

    #[test]
    fn bad_documents_name_the_field() {
        for (old, new, want) in [
            ("kind: TrainingJob", "kind: Job", "kind: is \"Job\"; write TrainingJob"),
            ("learningRate: 5e-5", "learninRate: 5e-5", "spec.training.learninRate: is no field"),
            ("replicas: 2", "replicas: 0", "spec.workers.replicas: is 0; the least is 1"),
            ("replicas: 2", "replicas: two", "spec.workers.replicas: is \"two\"; write integer"),
            ("replicas: 2", "replicas: 1.5", "write a whole number"),
            ("SequenceClassification", "Chat", "write one of CausalLM"),
            ("  output: {destination: file:///o}", "", "spec.output: is missing"),
            ("warmupSteps: 0.1", "evalStrategy: Steps", "needs data to evaluate on"),
            ("metadata", "\t: metadata", "is not YAML"),
        ] {
            let said = training_job(&JOB.replace(old, new)).unwrap_err().to_string();
            assert!(said.contains(want), "{new}: {said}");
        }
    }
}
