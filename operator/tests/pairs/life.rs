//! The life of an object whose spec is A, then B, then A again, and what must hold of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::admission::Admission;
use crate::cluster::{Gateway, play};
use crate::common::World;
use crate::surroundings::world;

/// Rounds in which everybody acts once, within which all must be at rest.
const ROUNDS: usize = 40;
/// Seconds between the last rounds, in which nothing may be written: results are waited for for 90,
/// old revisions drain within a day.
const REST: [i64; 2] = [200, 90_000];

/// A kind of object under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    TrainingJob,
    Sweep,
    ModelDeployment,
}

impl Kind {
    /// Its name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TrainingJob => "TrainingJob",
            Self::Sweep => "HyperparamSweep",
            Self::ModelDeployment => "ModelDeployment",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::TrainingJob => "trainingjobs",
            Self::Sweep => "hyperparamsweeps",
            Self::ModelDeployment => "modeldeployments",
        }
    }
}

/// What judges and surrounds the objects.
pub(crate) struct Stage {
    pub(crate) kind: Kind,
    pub(crate) admission: Admission,
    pub(crate) gateway: Gateway,
    pub(crate) planted: Option<Planted>,
}

/// A bug, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// The operator does not see the field at this place.
    Ignores(&'static str),
    /// Something of B is not removed.
    Leaves,
}

/// How far a pair came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// A is refused at admission.
    RefusedA,
    /// B is.
    RefusedB,
    /// Both are stored; the operator does not accept one of them, and says so.
    Told,
    /// Both are carried out.
    CarriedOut,
}

/// An object and its children at rest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rest {
    /// As they are, without what any write changes.
    pub(crate) children: BTreeMap<String, Value>,
    /// The same of the status.
    pub(crate) status: Value,
    /// Whether the operator accepts the spec.
    pub(crate) accepted: bool,
    /// Whether all that the spec asks for is there.
    pub(crate) complete: bool,
}

/// An object at rest that was never any other.
pub(crate) async fn alone(stage: &Stage, spec: &Value) -> Result<Rest, String> {
    Box::pin(settle(stage, &world(stage.kind), spec, "alone")).await
}

/// Goes from A to B and back to A.
pub(crate) async fn live(stage: &Stage, a: &Value, b: &Value) -> Result<Way, String> {
    let Ok(a) = stage.admission.judge(a, None) else { return Ok(Way::RefusedA) };
    let world = world(stage.kind);
    if is_deleted(&a) {
        return Ok(Way::CarriedOut);
    }
    let first = Box::pin(settle(stage, &world, &a, "A")).await?;
    if first.status["state"] == "Stopped" {
        return Ok(Way::CarriedOut); // a job that has ended is left alone
    }
    let Ok(b) = stage.admission.judge(b, Some(&a)) else { return Ok(Way::RefusedB) };
    if is_deleted(&b) {
        return Ok(Way::CarriedOut);
    }
    let second = Box::pin(settle(stage, &world, &b, "B")).await?;
    if !second.accepted {
        same("what B leaves alone", &first.children, &second.children)?;
    }
    if b["stop"].is_object() && stage.kind == Kind::TrainingJob {
        return stopped(stage, &a, &b, &second);
    }
    if second.accepted && second.complete {
        let anew = Box::pin(alone(stage, &b)).await?;
        independent(stage.kind, &anew, &second)?;
    }
    if stage.planted == Some(Planted::Leaves) {
        world.put(
            "configmaps",
            json!({"metadata": {"name": "it-left",
            "ownerReferences": [{"apiVersion": "hearth.dev/v1alpha1", "kind": stage.kind.name(),
                                 "name": "it", "uid": "u-it", "controller": true}]}}),
        );
    }
    let back = stage.admission.judge(&a, Some(&b));
    let back = back.map_err(|why| format!("A is refused after B: {why}"))?;
    let third = Box::pin(settle(stage, &world, &back, "A again")).await?;
    returned(stage.kind, &first, &second, &third)?;
    let carried_out = first.accepted && second.accepted;
    Ok(if carried_out { Way::CarriedOut } else { Way::Told })
}

/// A stopped job with a time to live is deleted when that is over.
fn is_deleted(spec: &Value) -> bool {
    spec["stop"].is_object() && spec["ttlSecondsAfterFinished"].is_i64()
}

/// A stop is for good.
fn stopped(stage: &Stage, a: &Value, b: &Value, rest: &Rest) -> Result<Way, String> {
    let for_good = a["stop"].is_object() || stage.admission.judge(a, Some(b)).is_err();
    if for_good && (!rest.accepted || rest.status["state"] == "Stopped") {
        return Ok(Way::CarriedOut);
    }
    Err(format!("a stop is not for good: {}", rest.status))
}

/// A gang that was let in goes on, also where the larger one that is asked for would wait, were it new.
fn keeps_its_place(anew: &Rest, after: &Rest) -> bool {
    let waits = |rest: &Rest| {
        rest.children.get("jobs/it-train").is_some_and(|job| job["spec"]["suspend"] == true)
    };
    waits(anew) && !waits(after) && condition(after, "Admitted")["status"] == "True"
}

fn has_data(rest: &Rest) -> bool {
    !rest.status["data"].is_null()
}

/// After B nothing is as it is for having been A.
fn independent(kind: Kind, anew: &Rest, after: &Rest) -> Result<(), String> {
    if kind == Kind::Sweep {
        return Ok(()); // the trials that A ran stay
    }
    if kind == Kind::TrainingJob && keeps_its_place(anew, after) {
        return Ok(());
    }
    // Rows that were prepared stay so.
    if kind == Kind::TrainingJob && has_data(after) && !has_data(anew) {
        return Ok(());
    }
    // A compression that has ended is not made anew to run elsewhere.
    let places = |rest: &Rest| {
        let mut children = rest.children.clone();
        let ended = |key: &str| kind == Kind::ModelDeployment && key.starts_with("jobs/");
        let jobs = children.iter_mut().filter(|(key, _)| ended(key));
        jobs.for_each(|(_, job)| drop(job.as_object_mut().unwrap().remove("spec")));
        // Agents begin with the number that the job began with, and are told of another.
        if kind == Kind::TrainingJob
            && let Some(config) = children.get_mut("configmaps/it-train")
        {
            let text = config["data"]["config.json"].as_str().unwrap();
            let mut begun: Value = serde_json::from_str(text).unwrap();
            begun.as_object_mut().unwrap().remove("replicas").unwrap();
            config["data"]["config.json"] = begun.to_string().into();
        }
        children
    };
    same("children of B after A, and of B alone", &places(anew), &places(after))?;
    let conditions = |rest: &Rest| rest.status["conditions"].clone();
    same("conditions of B after A, and of B alone", &conditions(anew), &conditions(after))
}

/// A after B is as A before B.
fn returned(kind: Kind, first: &Rest, second: &Rest, third: &Rest) -> Result<(), String> {
    if !first.accepted {
        // B may have started something, which goes on.
        same("children, after A that is not accepted", &second.children, &third.children)?;
        let told = |rest: &Rest| (rest.accepted, rest.status["state"].clone());
        return same("what is told of A", &told(first), &told(third));
    }
    match kind {
        // No trial is taken back, and an ended one counts.
        Kind::Sweep if first.children != second.children => {
            let kept = third.children.iter().filter(|(name, _)| first.children.contains_key(*name));
            let kept = kept.map(|(name, child)| (name.clone(), child.clone())).collect();
            same("trials of A", &first.children, &kept)
        }
        // What B served goes on until A can be served (Invariant 15).
        Kind::ModelDeployment if !first.complete => {
            let told = |rest: &Rest| (condition(rest, "Progressing"), condition(rest, "Degraded"));
            same("what is told of A", &told(first), &told(third))
        }
        Kind::TrainingJob if keeps_its_place(first, third) => Ok(()),
        // Rows that B prepared stay so, and what it began with them, though A would not have begun.
        Kind::TrainingJob if has_data(third) && !has_data(first) => Ok(()),
        _ => {
            same("children of A", &first.children, &third.children)?;
            same("status of A", &first.status, &third.status)
        }
    }
}

fn same<T: PartialEq + Into<Compared> + Clone>(what: &str, a: &T, b: &T) -> Result<(), String> {
    if a == b {
        return Ok(());
    }
    let mut found = Vec::new();
    differences(&a.clone().into().0, &b.clone().into().0, "", &mut found);
    Err(format!("{what} differ:\n  {}", found.join("\n  ")))
}

/// Anything that is compared, as JSON.
struct Compared(Value);

impl<T: serde::Serialize> From<T> for Compared {
    fn from(value: T) -> Self {
        Self(serde_json::to_value(value).unwrap())
    }
}

fn differences(a: &Value, b: &Value, path: &str, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for name in x.keys().chain(y.keys().filter(|name| !x.contains_key(*name))) {
                differences(&a[name], &b[name], &format!("{path}.{name}"), found);
            }
        }
        (a, b) if a != b => {
            let short = |value: &Value| value.to_string().chars().take(300).collect::<String>();
            found.push(format!("{path}: {} | {}", short(a), short(b)));
        }
        _ => {}
    }
}

/// Stores the spec, and lets all act until nothing is written any more.
async fn settle(stage: &Stage, world: &World, spec: &Value, when: &str) -> Result<Rest, String> {
    let kind = stage.kind;
    let key = format!("{}/it", kind.plural());
    let mut object = world.get(&key);
    if object.is_null() {
        object = json!({"apiVersion": "hearth.dev/v1alpha1", "kind": kind.name(),
            "metadata": {"name": "it", "uid": "u-it", "generation": 0}});
    }
    let mut spec = spec.clone();
    if let Some(Planted::Ignores(place)) = stage.planted {
        let (parent, part) = place.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).and_then(Value::as_object_mut);
        parent.and_then(|parent| parent.remove(part));
    }
    if object["spec"] != spec {
        let generation = object["metadata"]["generation"].as_i64().unwrap();
        object["metadata"]["generation"] = json!(generation + 1);
        object["spec"] = spec;
        world.put(kind.plural(), object);
    }
    let mut quiet = 0;
    let mut last = Vec::new();
    for _ in 0..ROUNDS {
        world.writes();
        let done = match kind {
            Kind::TrainingJob => {
                world.admit();
                world.train("it").await
            }
            Kind::Sweep => world.search("it").await,
            Kind::ModelDeployment => world.deploy("it").await,
        };
        done.map_err(|error| format!("{when}: the reconcile failed: {error}"))?;
        let writes = world.writes();
        if play(world, &stage.gateway) || !writes.is_empty() {
            (quiet, last) = (0, writes);
            world.pass(1);
        } else if quiet == REST.len() {
            return rest(kind, &world.get(&key), world).map_err(|why| format!("{when}: {why}"));
        } else {
            world.pass(REST[quiet]);
            quiet += 1;
        }
    }
    Err(format!("{when}: not at rest after {ROUNDS} rounds; the last wrote {last:?}"))
}

/// What is there, if its user is told how it stands.
fn rest(kind: Kind, object: &Value, world: &World) -> Result<Rest, String> {
    let ours = |child: &Value| {
        let owners = child["metadata"]["ownerReferences"].as_array();
        owners.into_iter().flatten().any(|owner| owner["uid"] == "u-it")
    };
    let mut children: BTreeMap<_, _> = world.look(|objects| {
        let found = objects.iter().filter(|(_, child)| ours(child));
        found.map(|(key, child)| (key.clone(), child.clone())).collect()
    });
    children.values_mut().for_each(plain);
    let mut status = object["status"].clone();
    let generation = &object["metadata"]["generation"];
    if status["observedGeneration"] != *generation {
        return Err(format!("nothing is said of generation {generation}: {status}"));
    }
    status["observedGeneration"].take();
    // What was found of an earlier revision stays.
    for history in ["experiment", "rejected"] {
        status[history].take();
    }
    let conditions = status["conditions"].as_array_mut().ok_or("there are no conditions")?;
    if !conditions.iter().any(|condition| condition["observedGeneration"] == *generation) {
        return Err(format!("no condition is of generation {generation}: {conditions:?}"));
    }
    for condition in conditions.iter_mut() {
        condition["observedGeneration"].take();
        condition["lastTransitionTime"].take();
    }
    // A map by type: their order says nothing.
    conditions.sort_by_key(|condition| condition["type"].to_string());
    let holds = |type_: &str| -> Option<(bool, String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let found = conditions.iter().find(|condition| condition["type"] == type_)?;
        Some((found["status"] == "True", text(&found["reason"]), text(&found["message"])))
    };
    if holds("Succeeded").is_some_and(|c| c.0) && holds("Failed").is_some_and(|c| c.0) {
        return Err(format!("it has both succeeded and failed: {conditions:?}"));
    }
    let (accepted, complete, message) = match kind {
        Kind::TrainingJob | Kind::Sweep => {
            let (accepted, _, message) =
                holds("Accepted").ok_or("there is no condition Accepted")?;
            (accepted, true, message)
        }
        Kind::ModelDeployment => {
            let (degraded, reason, message) =
                holds("Degraded").ok_or("there is no condition Degraded")?;
            let refused = ["Invalid", "Unsupported", "Unreadable"].contains(&reason.as_str());
            let complete = holds("Progressing").is_some_and(|c| c.1 == "Complete");
            let ready = holds("Ready").is_some_and(|c| c.0);
            (!(degraded && refused), ready && complete, message)
        }
    };
    let said = message.contains("spec") || message.contains("cannot change");
    if !accepted && !said {
        return Err(format!("it is not said what is wrong: {message:?}"));
    }
    Ok(Rest { children, status, accepted, complete })
}

/// Takes away what every write, and every other controller, changes.
fn plain(child: &mut Value) {
    let metadata = child["metadata"].as_object_mut().unwrap();
    metadata.retain(|name, _| !["uid", "resourceVersion", "generation"].contains(&name.as_str()));
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| {
            !["hearth.dev/applied-hash", "hearth.dev/routed-at"].contains(&name.as_str())
        });
    }
    child.as_object_mut().unwrap().remove("status");
}

fn condition(rest: &Rest, type_: &str) -> Value {
    let conditions = rest.status["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == type_).cloned().unwrap_or_default()
}
