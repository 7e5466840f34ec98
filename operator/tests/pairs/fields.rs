//! Every field of every spec is drawn, and none is ignored.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::runtime::Runtime;

use crate::edits::{Edits, edited};
use crate::life::{Kind, Planted, Rest, Stage, alone};
use crate::stage;

/// What a field is called here: `workers.tolerations[].key`; a map is one field.
type Name = String;

const SECOND: &str = "acts when a second revision comes";
const REFUSED: &str = "each value is refused alike";
const TYPE: &str = "each value goes with fields that the others do not have";

/// Fields that no spec may set, where they come with those of another kind.
const NEVER: [(Kind, &str); 2] =
    [(Kind::Sweep, "job.stop.reason"), (Kind::Sweep, "job.stop.message")];

/// Fields that change nothing in the specs that are tried, and why that is right; `.*` stands for all
/// fields below.
const AT_REST: [(Kind, &str, &str); 26] = [
    (Kind::ModelDeployment, "compression.training.data.preparation.augment.table.*", REFUSED),
    (Kind::ModelDeployment, "compression.training.data.preparation.join*", REFUSED),
    (Kind::TrainingJob, "pruning.type", TYPE),
    (Kind::Sweep, "job.pruning.type", TYPE),
    (Kind::ModelDeployment, "compression.pruning.type", TYPE),
    (Kind::TrainingJob, "ttlSecondsAfterFinished", "acts once the job has ended"),
    (Kind::Sweep, "earlyStopping.minTrials", "acts on what running trials tell"),
    (Kind::Sweep, "earlyStopping.startStep", "acts on what running trials tell"),
    (Kind::Sweep, "job.stop.reason", "any stop of all trials is refused"),
    (Kind::Sweep, "job.stop.message", "any stop of all trials is refused"),
    (Kind::ModelDeployment, "routing", "each value is one with httpRoute, or without"),
    (
        Kind::ModelDeployment,
        "serving.autoscaling.targetTokensInFlight",
        "acts on what servers tell",
    ),
    (Kind::ModelDeployment, "serving.drift.maxPsi", "acts on what servers tell"),
    (Kind::ModelDeployment, "rollout.strategy", SECOND),
    (Kind::ModelDeployment, "rollout.steps[].weight", SECOND),
    (Kind::ModelDeployment, "rollout.steps[].holdSeconds", SECOND),
    (Kind::ModelDeployment, "rollout.steps[].shadowPercent", SECOND),
    (Kind::ModelDeployment, "rollout.analysis.maxErrorRate", SECOND),
    (Kind::ModelDeployment, "rollout.analysis.maxP95Milliseconds", SECOND),
    (Kind::ModelDeployment, "rollout.analysis.minRequests", SECOND),
    (Kind::ModelDeployment, "rollout.analysis.intervalSeconds", SECOND),
    (Kind::ModelDeployment, "rollout.experiment.weight", SECOND),
    (Kind::ModelDeployment, "rollout.experiment.userHeader", SECOND),
    (Kind::ModelDeployment, "rollout.experiment.minOutcomes", SECOND),
    (Kind::ModelDeployment, "rollout.experiment.confidence", SECOND),
    (Kind::ModelDeployment, "rollout.experiment.onVerdict", SECOND),
];

/// The fields below a schema, and the values of those that have few.
fn fields(schema: &Value, name: &str, found: &mut BTreeMap<Name, BTreeSet<String>>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (part, schema) in properties {
            let below = if name.is_empty() { part.clone() } else { format!("{name}.{part}") };
            fields(schema, &below, found);
        }
    } else if schema["items"]["properties"].is_object() {
        fields(&schema["items"], &format!("{name}[]"), found);
    } else {
        let values = schema["enum"].as_array().or_else(|| schema["items"]["enum"].as_array());
        let values = values.into_iter().flatten().map(Value::to_string);
        found.insert(name.to_owned(), values.collect());
    }
}

/// The fields that a spec sets: name, place, value.
fn set(
    schema: &Value,
    value: &Value,
    name: &str,
    place: &str,
    found: &mut Vec<(Name, String, Value)>,
) {
    match value {
        Value::Object(parts) if schema["properties"].is_object() => {
            for (part, value) in parts {
                let below = if name.is_empty() { part.clone() } else { format!("{name}.{part}") };
                let schema = &schema["properties"][part];
                if !schema.is_null() {
                    set(schema, value, &below, &format!("{place}/{part}"), found);
                }
            }
        }
        Value::Array(elements) if schema["items"]["properties"].is_object() => {
            for (index, element) in elements.iter().enumerate() {
                let below = format!("{place}/{index}");
                set(&schema["items"], element, &format!("{name}[]"), &below, found);
            }
        }
        value => found.push((name.to_owned(), place.to_owned(), value.clone())),
    }
}

fn set_by(stage: &Stage, spec: &Value) -> Vec<(Name, String, Value)> {
    let mut found = Vec::new();
    set(stage.admission.spec(), spec, "", "", &mut found);
    found
}

/// Every spec that one edit makes of a base and that is let in, and the base.
fn specs<'a>(stage: &'a Stage, edits: &'a Edits) -> impl Iterator<Item = (&'a Value, Value)> {
    let kept = [Value::Object(serde_json::Map::new())];
    let tried = kept.into_iter().chain(edits.live.iter().chain(&edits.other).cloned());
    let tried: Vec<_> = tried.collect();
    let both = edits.bases.iter().flat_map(move |base| {
        tried.clone().into_iter().map(move |edit| (base, edited(base, &[edit])))
    });
    both.filter(|(_, spec)| stage.admission.judge(spec, None).is_ok())
}

/// Every field is set in a spec that is let in, to each of its values where they are few.
fn all_are_drawn(kind: Kind, address: &'static str) {
    let (_runtime, stage) = stage(kind, address);
    let mut left = BTreeMap::new();
    fields(stage.admission.spec(), "", &mut left);
    assert!(left.len() > 20, "the schema has no fields: {left:?}");
    let mut drawn = BTreeSet::new();
    for (_, spec) in specs(&stage, &Edits::of(kind)) {
        for (name, _, value) in set_by(&stage, &spec) {
            let values = left.get_mut(&name).unwrap();
            let elements = value.as_array().cloned().unwrap_or_else(|| vec![value]);
            let elements: Vec<_> = elements.iter().map(Value::to_string).collect();
            values.retain(|value| !elements.contains(value));
            drawn.insert(name);
        }
    }
    left.retain(|name, values| {
        (!drawn.contains(name) || !values.is_empty()) && !NEVER.contains(&(kind, name.as_str()))
    });
    assert!(
        left.is_empty(),
        "{} has fields, or values of them, that no edit in operator/tests/pairs/edits sets: {left:?}",
        kind.name()
    );
}

/// Changes every field alone, or takes it away: the objects, or what is told, must change.
fn none_is_ignored(kind: Kind, address: &'static str) {
    let (runtime, stage) = stage(kind, address);
    let left = ignored(&runtime, &stage);
    let known = AT_REST.into_iter().filter(|(of, ..)| *of == kind).map(|(_, name, _)| name);
    let known: BTreeSet<&str> = known.collect();
    let covers = |known: &str, name: &str| match known.strip_suffix('*') {
        Some(above) => name.starts_with(above),
        None => name == known,
    };
    let left: BTreeSet<&str> = left
        .iter()
        .map(|name| known.iter().find(|known| covers(known, name)).map_or(name.as_str(), |of| *of))
        .collect();
    assert_eq!(left, known, "of {}: fields that do nothing", kind.name());
}

fn ignored(runtime: &Runtime, stage: &Stage) -> BTreeSet<Name> {
    let rest = |spec: &Value| said(&runtime.block_on(alone(stage, spec)).unwrap());
    let mut all = BTreeMap::new();
    fields(stage.admission.spec(), "", &mut all);
    // Where there is but one value, there is no change.
    let several = all.into_iter().filter(|(_, values)| values.len() != 1);
    let mut left: BTreeSet<_> = several.map(|(name, _)| name).collect();
    let edits = Edits::of(stage.kind);
    let mut values: BTreeMap<Name, Vec<Value>> = BTreeMap::new();
    for (_, spec) in specs(stage, &edits) {
        for (name, _, value) in set_by(stage, &spec) {
            let others = values.entry(name).or_default();
            if !others.contains(&value) {
                others.push(value);
            }
        }
    }
    for (_, spec) in specs(stage, &edits) {
        let whole = stage.admission.judge(&spec, None).unwrap();
        let mut as_it_is = None;
        for (name, place, _) in set_by(stage, &spec) {
            let others = values[&name].iter().map(Some);
            for other in std::iter::once(None).chain(others).take(4) {
                if !left.contains(&name) {
                    break;
                }
                let mut changed = spec.clone();
                put(&mut changed, &place, other);
                let Ok(changed) = stage.admission.judge(&changed, None) else { continue };
                let as_it_is = as_it_is.get_or_insert_with(|| rest(&whole));
                if changed != whole && *as_it_is != rest(&changed) {
                    left.remove(&name);
                }
            }
        }
    }
    left
}

/// Sets what is at this place, or takes it away.
fn put(spec: &mut Value, place: &str, value: Option<&Value>) {
    let (parent, part) = place.rsplit_once('/').unwrap();
    match (spec.pointer_mut(parent).unwrap(), value) {
        (Value::Object(parts), Some(value)) => drop(parts.insert(part.to_owned(), value.clone())),
        (Value::Object(parts), None) => drop(parts.remove(part)),
        _ => panic!("{place} is no field of an object"),
    }
}

/// Objects and status as text, without hashes: a hash of a field is no effect of it.
fn said(rest: &Rest) -> Vec<String> {
    let children = rest.children.values().chain([&rest.status]).map(Value::to_string);
    let mut said: Vec<_> = children.map(|text| without_hashes(&text)).collect();
    said.sort();
    said
}

fn without_hashes(text: &str) -> String {
    let hash = |word: &str| word.len() == 10 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    words
        .map(|word| match word.char_indices().next_back() {
            Some((at, end)) if hash(&word[..at]) => format!("#{end}"),
            _ => word.to_owned(),
        })
        .collect()
}

#[test]
fn every_field_is_drawn() {
    all_are_drawn(Kind::TrainingJob, "127.90.92.1");
    all_are_drawn(Kind::Sweep, "127.90.92.2");
    all_are_drawn(Kind::ModelDeployment, "127.90.92.3");
}

#[test]
fn no_field_of_a_training_job_is_ignored() {
    none_is_ignored(Kind::TrainingJob, "127.90.92.4");
}

#[test]
fn no_field_of_a_sweep_is_ignored() {
    none_is_ignored(Kind::Sweep, "127.90.92.5");
}

#[test]
fn no_field_of_a_deployment_is_ignored() {
    none_is_ignored(Kind::ModelDeployment, "127.90.92.6");
}

/// That the test can fail.
#[test]
fn a_field_that_the_operator_never_sees_is_found() {
    let (runtime, mut stage) = stage(Kind::ModelDeployment, "127.90.92.7");
    assert!(!ignored(&runtime, &stage).contains("serving.maxQueueDepth"));
    stage.planted = Some(Planted::Ignores("/serving/maxQueueDepth"));
    assert!(ignored(&runtime, &stage).contains("serving.maxQueueDepth"));
}
