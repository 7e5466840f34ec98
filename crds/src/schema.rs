//! Schema fragments that schemars cannot derive.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

/// What a TrainingJob's results follow from.
const FIXED: [&str; 11] = [
    "task",
    "model",
    "data",
    "training",
    "parallelism",
    "output",
    "objective",
    "distillation",
    "pruning",
    "peft",
    "tabular",
];
const CANNOT_CHANGE: &str = "cannot change after creation: create another TrainingJob";

/// Rules that the [`FIXED`] fields of a TrainingJob do not change.
///
/// One on each value, and one on each object that says which of its optional fields are there: the
/// API server evaluates such rules at each write of a status, too, and what costs it most is to
/// compare objects, since it lists all fields of an object for each of them.
pub(crate) fn fixed_once_created(spec: &mut Schema) {
    let Some(spec) = spec.as_object_mut() else { return };
    let optional: Vec<_> =
        optional_fields(spec).filter(|field| FIXED.contains(&field.as_str())).collect();
    if let Some(Value::Object(fields)) = spec.get_mut("properties") {
        for name in FIXED {
            fields.get_mut(name).and_then(Value::as_object_mut).into_iter().for_each(fix);
        }
    }
    fix_presence(spec, &optional);
}

fn fix(schema: &mut Map<String, Value>) {
    if !schema.contains_key("properties") {
        return add_rule(schema, "self == oldSelf");
    }
    let optional: Vec<_> = optional_fields(schema).collect();
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        fields.values_mut().filter_map(Value::as_object_mut).for_each(fix);
    }
    fix_presence(schema, &optional);
}

/// Fields that an object may lack.
fn optional_fields(schema: &Map<String, Value>) -> impl Iterator<Item = String> {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required =
        move |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    fields
        .filter(move |(name, field)| !is_required(name) && field.get("default").is_none())
        .map(|(name, _)| name.clone())
}

fn fix_presence(schema: &mut Map<String, Value>, optional: &[String]) {
    let rules: Vec<_> =
        optional.iter().map(|name| format!("has(self.{name}) == has(oldSelf.{name})")).collect();
    if !rules.is_empty() {
        add_rule(schema, &rules.join(" && "));
    }
}

fn add_rule(schema: &mut Map<String, Value>, rule: &str) {
    let rule = json!({"rule": rule, "message": CANNOT_CHANGE});
    match schema.get_mut("x-kubernetes-validations") {
        Some(Value::Array(rules)) => rules.push(rule),
        _ => drop(schema.insert("x-kubernetes-validations".to_owned(), json!([rule]))),
    }
}

/// A map of resource quantities: `1` or `"500m"`.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
        },
    })
}

/// A list of conditions, merged by type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "description": "Observations of the object's state.",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {"type": "string", "maxLength": 316},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                "message": {"type": "string", "maxLength": 32768},
            },
        },
    })
}

/// A point in time, as Kubernetes writes it.
pub(crate) fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// Any scalar: the value of a hyperparameter.
pub(crate) fn any_scalar(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}
