//! The API server's judgement of an object, by its CustomResourceDefinition: unknown fields are
//! pruned, defaults are set, then the schema is checked, then the CEL rules.

use hearth_crds::all_crds;
use kube::core::cel::{CompiledSchema, Validator, apply_defaults, compile_schema};
use serde_json::{Value, json};

/// What judges objects of one kind.
pub(crate) struct Admission {
    schema: Value,
    rules: CompiledSchema,
    validator: Validator,
}

impl Admission {
    /// Of the objects of this kind.
    pub(crate) fn of(kind: &str) -> Self {
        let crd = all_crds().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
        let crd = serde_json::to_value(crd).unwrap();
        let schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let rules = compile_schema(&schema);
        Self { schema, rules, validator: Validator::new() }
    }

    /// The schema of the spec.
    pub(crate) fn spec(&self) -> &Value {
        &self.schema["properties"]["spec"]
    }

    /// The spec as it would be stored, or why it is refused; `old` is what is stored now.
    pub(crate) fn judge(&self, spec: &Value, old: Option<&Value>) -> Result<Value, String> {
        let mut spec = spec.clone();
        prune(self.spec(), &mut spec);
        let object = apply_defaults(&self.schema, &json!({"spec": spec}));
        let mut faults = Vec::new();
        check(&self.schema["properties"]["spec"], &object["spec"], "spec", &mut faults);
        if !faults.is_empty() {
            return Err(faults.join("; "));
        }
        let old = old.map(|old| json!({"spec": old}));
        let mut object = object;
        widen(&self.schema["properties"]["spec"], &mut object["spec"]);
        match self.validator.validate_compiled(&self.rules, &object, old.as_ref()) {
            Ok(()) => Ok(object["spec"].take()),
            Err(broken) => Err(broken.to_string()),
        }
    }
}

/// The schema of a property or of an element.
fn below<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let named = schema["properties"].get(name);
    named.or_else(|| Some(&schema["additionalProperties"]).filter(|any| any.is_object()))
}

fn prune(schema: &Value, value: &mut Value) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| below(schema, name).is_some() && !value.is_null());
            for (name, value) in fields {
                prune(below(schema, name).unwrap(), value);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                prune(&schema["items"], element);
            }
        }
        _ => {}
    }
}

/// A whole number where the schema says `number` is a double to CEL.
fn widen(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(schema) = below(schema, name) {
                    widen(schema, value);
                }
            }
        }
        Value::Array(elements) => {
            for element in elements {
                widen(&schema["items"], element);
            }
        }
        Value::Number(number) if schema["type"] == "number" => *value = json!(number.as_f64()),
        _ => {}
    }
}

fn check(schema: &Value, value: &Value, path: &str, faults: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    let mut fault = |what: String| faults.push(format!("{path}: {what}"));
    let any = schema["x-kubernetes-int-or-string"] == true;
    let fits = match value {
        Value::Object(_) => schema["type"] == "object",
        Value::Array(_) => schema["type"] == "array",
        Value::String(_) => any || schema["type"] == "string",
        Value::Bool(_) => schema["type"] == "boolean",
        Value::Number(number) => {
            let whole = number.as_f64().is_some_and(|number| number.fract() == 0.0);
            schema["type"] == "number" || whole && (any || schema["type"] == "integer")
        }
        Value::Null => false,
    };
    if !fits {
        return fault(format!("is not of the type {}", schema["type"]));
    }
    let allowed = schema["enum"].as_array();
    if allowed.is_some_and(|allowed| !allowed.contains(value)) {
        fault(format!("{value} is not supported"));
    }
    let size = match value {
        Value::Object(fields) => Some((fields.len(), "Properties")),
        Value::Array(elements) => Some((elements.len(), "Items")),
        Value::String(text) => Some((text.chars().count(), "Length")),
        _ => None,
    };
    let limit = |side: &str, of: &str| schema[format!("{side}{of}")].as_u64();
    if let Some((size, of)) = size {
        let size = u64::try_from(size).unwrap();
        if limit("min", of).is_some_and(|least| size < least) {
            fault(format!("has less than {} {of}", limit("min", of).unwrap()));
        }
        if limit("max", of).is_some_and(|most| size > most) {
            fault(format!("has more than {} {of}", limit("max", of).unwrap()));
        }
    }
    if let Some(number) = value.as_f64() {
        if schema["minimum"].as_f64().is_some_and(|least| number < least) {
            fault(format!("{number} is below {}", schema["minimum"]));
        }
        if schema["maximum"].as_f64().is_some_and(|most| number > most) {
            fault(format!("{number} is above {}", schema["maximum"]));
        }
    }
    let has_all = |schema: &Value| {
        let required = schema["required"].as_array().into_iter().flatten();
        required.filter_map(Value::as_str).all(|name| value.get(name).is_some())
    };
    if !has_all(schema) {
        fault(format!("lacks one of {}", schema["required"]));
    }
    if let Some(ways) = schema["oneOf"].as_array()
        && ways.iter().filter(|way| has_all(way)).count() != 1
    {
        fault("must match exactly one schema of oneOf".to_owned());
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                check(below(schema, name).unwrap(), value, &format!("{path}.{name}"), faults);
            }
        }
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                check(&schema["items"], element, &format!("{path}[{index}]"), faults);
            }
        }
        _ => {}
    }
}
