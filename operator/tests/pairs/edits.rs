//! Specs and edits of them, from `edits/*.yaml`, and how pairs are drawn from them.

use std::fmt;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::life::Kind;

/// What is drawn from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edits {
    /// Specs that can be carried out.
    pub(crate) bases: Vec<Value>,
    /// Edits of what may change at any time.
    pub(crate) live: Vec<Value>,
    /// Other edits that the schema lets in.
    pub(crate) other: Vec<Value>,
    /// Edits that are refused, mostly at admission.
    pub(crate) faults: Vec<Value>,
}

impl Edits {
    /// Those of a kind.
    pub(crate) fn of(kind: Kind) -> Self {
        let read = |text: &str| -> Self { serde_yaml_ng::from_str(text).unwrap() };
        let jobs = read(include_str!("edits/training_job.yaml"));
        match kind {
            Kind::TrainingJob => jobs,
            Kind::ModelDeployment => {
                let mut deployments = read(include_str!("edits/model_deployment.yaml"));
                let below =
                    |edits: Vec<Value>| edits.into_iter().filter_map(|edit| of_training(&edit));
                deployments.other.extend(below(jobs.live).chain(below(jobs.other)));
                deployments.faults.extend(below(jobs.faults));
                deployments
            }
            Kind::Sweep => {
                let mut sweeps = read(include_str!("edits/sweep.yaml"));
                let below = |edits: Vec<Value>| edits.into_iter().map(|edit| json!({"job": edit}));
                sweeps.other.extend(below(jobs.live).chain(below(jobs.other)));
                sweeps.faults.extend(below(jobs.faults));
                sweeps
            }
        }
    }
}

/// The same edit of what a deployment trains; `None` of a field that its job does not have.
fn of_training(edit: &Value) -> Option<Value> {
    const FIELDS: [&str; 8] = [
        "task",
        "data",
        "objective",
        "training",
        "parallelism",
        "workers",
        "restartPolicy",
        "activeDeadlineSeconds",
    ];
    let mut edit = edit.clone();
    let fields = edit.as_object_mut()?;
    fields.retain(|_, value| !value.is_null());
    if let Some(pruning) = fields.get("pruning") {
        return Some(json!({"compression": {"pruning": pruning}}));
    }
    let has = |name: &String| FIELDS.contains(&name.as_str());
    fields.keys().all(has).then(|| json!({"compression": {"training": edit}}))
}

/// Two specs.
#[derive(Clone, PartialEq)]
pub(crate) struct Pair {
    pub(crate) a: Value,
    pub(crate) b: Value,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\nA: {}\nB: {}", self.a, self.b)
    }
}

/// Pairs: a base with some edits, and some more edits of that, or of another base.
pub(crate) fn pairs(edits: &Edits) -> impl Strategy<Value = Pair> + use<> {
    let edits = edits.clone();
    let bases = 0..edits.bases.len();
    let drawn = |live: u32, other: u32, fault: u32| {
        prop_oneof![
            live => proptest::sample::select(edits.live.clone()),
            other => proptest::sample::select(edits.other.clone()),
            fault => proptest::sample::select(edits.faults.clone()),
        ]
    };
    let first = proptest::collection::vec(drawn(40, 56, 4), 0..5);
    let then = proptest::collection::vec(drawn(84, 12, 4), 1..4);
    let other = proptest::option::weighted(0.05, bases.clone());
    (bases, first, other, then).prop_map(move |(base, first, other, then)| {
        let a = edited(&edits.bases[base], &first);
        let from = other.map_or(&a, |other| &edits.bases[other]);
        Pair { b: edited(from, &then), a }
    })
}

/// The spec after these edits.
pub(crate) fn edited(spec: &Value, edits: &[Value]) -> Value {
    let mut spec = spec.clone();
    for edit in edits {
        // What a deployment trains is edited where it trains at all.
        let training = |of: &Value| of["compression"]["training"].is_object();
        if !training(edit) || training(&spec) {
            merge(&mut spec, edit);
        }
    }
    spec
}

/// RFC 7386.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return into.clone_from(patch) };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}
