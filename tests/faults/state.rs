//! The state of a namespace, without what differs from play to play.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use crate::cluster::Cluster;

/// All that the operator makes, and what comes of it.
const KINDS: [&str; 13] = [
    "trainingjobs",
    "hyperparamsweeps",
    "modeldeployments",
    "jobs",
    "deployments",
    "configmaps",
    "services",
    "serviceaccounts",
    "networkpolicies",
    "poddisruptionbudgets",
    "roles",
    "rolebindings",
    "pods",
];
/// What servers and controllers give, or count.
const VOLATILE: [&str; 18] = [
    "creationTimestamp",
    "managedFields",
    "resourceVersion",
    "uid",
    "generation",
    "clusterIP",
    "clusterIPs",
    "deployment.kubernetes.io/revision",
    "startTime",
    "lastTransitionTime",
    "completionTime",
    "finishedAt",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
    "lastProbeTime",
    "lastUpdateTime",
    "hearth.dev/applied-hash",
    "hearth.dev/routed-at",
];

/// Objects by `PLURAL/NAME`.
pub(crate) type State = BTreeMap<String, Value>;

/// The state as it is now.
pub(crate) async fn read(cluster: &Cluster) -> Result<State> {
    let mut state = State::new();
    let mut drawn = Vec::new();
    for plural in KINDS {
        for object in cluster.list(plural).await? {
            let given = object["metadata"]["name"].as_str().unwrap_or_default();
            // Every namespace has these two.
            if given == "kube-root-ca.crt" || (plural, given) == ("serviceaccounts", "default") {
                continue;
            }
            let (name, object) =
                if plural == "pods" { pod(&object) } else { (given.to_owned(), object.clone()) };
            // Two pods in one place are one too many: the second has a name of its own.
            let mut key = format!("{plural}/{name}");
            while state.contains_key(&key) {
                key.push_str(" again");
            }
            drawn.extend(object["metadata"]["uid"].as_str().map(str::to_owned));
            drawn.extend((plural == "pods").then(|| given.to_owned()));
            state.insert(key, object);
        }
    }
    let names: Vec<_> = drawn.iter().chain([&cluster.namespace]).map(String::as_str).collect();
    Ok(state.into_iter().map(|(key, object)| (key, plain(without_hash(object), &names))).collect())
}

/// A pod by the place that it has, and of it what counts.
fn pod(pod: &Value) -> (String, Value) {
    let labels = &pod["metadata"]["labels"];
    let place = [
        "batch.kubernetes.io/job-name",
        "batch.kubernetes.io/job-completion-index",
        "hearth.dev/component",
        "hearth.dev/revision",
    ]
    .map(|label| labels[label].as_str().unwrap_or("-"));
    (
        place.join(" "),
        serde_json::json!({"phase": pod["status"]["phase"], "gone": pod["metadata"]["deletionTimestamp"]}),
    )
}

/// A Deployment's conditions name a ReplicaSet by a hash of what names the namespace.
fn without_hash(mut object: Value) -> Value {
    for condition in object["status"]["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(message) =
            condition["message"].as_str().filter(|m| m.starts_with("ReplicaSet "))
        {
            condition["message"] = message.split('"').next_back().into();
        }
    }
    object
}

/// Without what is volatile. `names` are those that every play has anew.
fn plain(value: Value, names: &[&str]) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| !VOLATILE.contains(&name.as_str()))
            .map(|(name, value)| (name, plain(value, names)))
            .collect(),
        Value::Array(items) => items.into_iter().map(|item| plain(item, names)).collect(),
        Value::String(text) => {
            let found = names.iter().filter(|name| text.contains(**name));
            found.fold(text.clone(), |text, name| text.replace(*name, "NAMED")).into()
        }
        other => other,
    }
}

/// What differs, in lines; nothing where nothing does.
pub(crate) fn difference(want: &State, found: &State) -> String {
    let mut lines = Vec::new();
    for key in want.keys().filter(|key| !found.contains_key(*key)) {
        lines.push(format!("missing: {key}"));
    }
    for (key, value) in found {
        match want.get(key) {
            None => lines.push(format!("one too many: {key}")),
            Some(wanted) => fields(key, wanted, value, &mut lines),
        }
    }
    lines.join("\n")
}

fn fields(path: &str, want: &Value, found: &Value, lines: &mut Vec<String>) {
    match (want, found) {
        (Value::Object(left), Value::Object(right)) => {
            let names: std::collections::BTreeSet<_> = left.keys().chain(right.keys()).collect();
            for name in names {
                fields(&format!("{path}.{name}"), &want[name], &found[name], lines);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (place, (left, right)) in left.iter().zip(right).enumerate() {
                fields(&format!("{path}[{place}]"), left, right, lines);
            }
        }
        _ if want != found => lines.push(format!("{path}: {found}, wanted {want}")),
        _ => {}
    }
}
