//! What is in the cluster before the object under test.

use serde_json::json;

use crate::common::World;
use crate::life::Kind;

/// A cluster with claims, and with nodes for jobs, or models for deployments.
pub(crate) fn world(kind: Kind) -> World {
    let world = World::with_claims();
    match kind {
        Kind::TrainingJob => add_nodes(&world),
        Kind::Sweep => {}
        Kind::ModelDeployment => add_models(&world),
    }
    world
}

fn add_nodes(world: &World) {
    for node in 0..4 {
        world.put(
            "nodes",
            json!({"metadata": {"name": format!("node-{node}")}, "spec": {}, "status": {
                "allocatable": {"nvidia.com/gpu": "8"},
                "conditions": [{"type": "Ready", "status": "True"}]}}),
        );
    }
}

fn add_models(world: &World) {
    world.gateway_api(true);
    let ended = |type_: &str| {
        json!([{"type": type_, "status": "True", "reason": "Completed",
        "message": "it ended", "lastTransitionTime": world.now()}])
    };
    for (name, conditions) in [
        ("spam", ended("Succeeded")),
        ("other", ended("Succeeded")),
        ("failed", ended("Failed")),
        ("open", json!([])),
    ] {
        let mut status = json!({"restarts": 0, "conditions": conditions});
        if conditions[0]["type"] == "Succeeded" {
            status["model"] = json!({"uri": format!("pvc://models/{name}/model"),
                                     "digest": format!("blake3:{name}")});
        }
        world.put("trainingjobs", json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": name, "uid": format!("u-{name}")},
            "spec": {"task": "SequenceClassification", "model": {"source": "pvc://models/minilm"},
                     "data": {"train": {"source": "pvc://data/train.jsonl"}},
                     "output": {"destination": format!("pvc://models/{name}")}},
            "status": status,
        }));
    }
    let sweep = json!({
        "objective": {"metric": "f1", "goal": "Maximize"}, "trials": {"max": 1},
        "parameters": [{"path": "training.learningRate", "values": [1e-4]}],
        "job": world.get("trainingjobs/spam")["spec"]});
    for (name, conditions) in [("search", ended("Succeeded")), ("failed", ended("Failed"))] {
        world.put(
            "hyperparamsweeps",
            json!({
                "apiVersion": "hearth.dev/v1alpha1", "kind": "HyperparamSweep",
                "metadata": {"name": name, "uid": format!("s-{name}")}, "spec": sweep,
                "status": {"conditions": conditions, "best": {"job": "other", "value": 0.9}},
            }),
        );
    }
}
