//! Argo CD's health checks, in a Lua VM of the version that Argo CD runs.

use hearth_crds::condition::{model_deployment, sweep, training_job};
use mlua::{Lua, LuaSerdeExt as _, Table};
use serde_json::{Value, json};

/// Health of an object whose conditions are `(type, status, reason)`.
fn health(kind: &str, conditions: &[(&str, &str, &str)], seen: i64) -> String {
    let text = std::fs::read_to_string("../manifests/argocd/argocd-cm.yaml").unwrap();
    let map: Value = serde_yaml_ng::from_str(&text).unwrap();
    let script = map["data"][format!("resource.customizations.health.hearth.dev_{kind}")].as_str();
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(type_, status, reason)| {
            json!({"type": type_, "status": status, "reason": reason, "message": format!("{type_} told")})
        })
        .collect();
    let status = match seen {
        0 => json!({}),
        seen => json!({"observedGeneration": seen, "conditions": conditions}),
    };
    let object = json!({"kind": kind, "metadata": {"generation": 2}, "status": status});
    let lua = Lua::new();
    lua.globals().set("obj", lua.to_value(&object).unwrap()).unwrap();
    let told: Table = lua.load(script.unwrap()).eval().unwrap();
    let message: String = told.get("message").unwrap();
    assert!(!message.is_empty(), "{kind} {conditions:?}: no message");
    told.get("status").unwrap()
}

#[test]
fn argo_cd_tells_the_health_of_a_training_job() {
    use training_job::{ACCEPTED, ADMITTED, FAILED, RUNNING, STOPPED, SUCCEEDED};
    let valid = (ACCEPTED, "True", "Valid");
    let admitted = (ADMITTED, "True", "Admitted");
    for (want, conditions, seen) in [
        ("Progressing", vec![], 0),
        ("Degraded", vec![(ACCEPTED, "False", "Invalid")], 2),
        ("Progressing", vec![(ACCEPTED, "False", "Invalid")], 1),
        ("Suspended", vec![valid, (ADMITTED, "False", "Suspended")], 2),
        ("Progressing", vec![valid, (ADMITTED, "False", "Queued")], 2),
        ("Degraded", vec![valid, (ADMITTED, "False", "Rejected")], 2),
        ("Progressing", vec![valid, admitted, (RUNNING, "False", "Starting")], 2),
        ("Progressing", vec![valid, admitted, (RUNNING, "True", "Training")], 2),
        (
            "Healthy",
            vec![
                valid,
                admitted,
                (RUNNING, "False", "Completed"),
                (SUCCEEDED, "True", "Completed"),
            ],
            2,
        ),
        (
            "Degraded",
            vec![valid, admitted, (RUNNING, "False", "Failed"), (FAILED, "True", "BadData")],
            2,
        ),
        (
            "Healthy",
            vec![valid, (RUNNING, "False", "Stopped"), (STOPPED, "True", "EarlyStopped")],
            2,
        ),
        // What has ended has ended, whatever is edited later.
        ("Healthy", vec![valid, (SUCCEEDED, "True", "Completed")], 1),
    ] {
        assert_eq!(health("TrainingJob", &conditions, seen), want, "{conditions:?}");
    }
}

#[test]
fn argo_cd_tells_the_health_of_a_sweep() {
    use sweep::{ACCEPTED, FAILED, RUNNING, SUCCEEDED};
    let valid = (ACCEPTED, "True", "Valid");
    let ended = (RUNNING, "False", "Ended");
    for (want, conditions, seen) in [
        ("Progressing", vec![], 0),
        ("Degraded", vec![(ACCEPTED, "False", "Invalid")], 2),
        ("Progressing", vec![valid, (RUNNING, "True", "Searching")], 2),
        ("Degraded", vec![valid, (RUNNING, "False", "Rejected")], 2),
        ("Healthy", vec![valid, ended, (SUCCEEDED, "True", "Completed")], 2),
        ("Progressing", vec![valid, ended, (SUCCEEDED, "True", "Completed")], 1),
        ("Degraded", vec![valid, ended, (FAILED, "True", "TooManyFailed")], 2),
    ] {
        assert_eq!(health("HyperparamSweep", &conditions, seen), want, "{conditions:?}");
    }
}

#[test]
fn argo_cd_tells_the_health_of_a_deployment() {
    use model_deployment::{DEGRADED, PROGRESSING, READY};
    let (ready, well) = ((READY, "True", "Serving"), (DEGRADED, "False", "AsExpected"));
    let moving = (PROGRESSING, "True", "Compressing");
    let still = (PROGRESSING, "False", "Complete");
    for (want, conditions, seen) in [
        ("Progressing", vec![], 0),
        ("Progressing", vec![(READY, "False", "NothingServed"), moving, well], 2),
        ("Progressing", vec![ready, moving, well], 2),
        ("Progressing", vec![ready, (PROGRESSING, "True", "Measuring"), well], 2),
        ("Suspended", vec![ready, (PROGRESSING, "True", "WaitingForPromotion"), well], 2),
        ("Suspended", vec![ready, (PROGRESSING, "True", "Paused"), well], 2),
        ("Healthy", vec![ready, still, well], 2),
        ("Progressing", vec![ready, still, well], 1),
        ("Progressing", vec![(READY, "False", "GatewayNotReady"), still, well], 2),
        ("Degraded", vec![ready, still, (DEGRADED, "True", "GateFailed")], 2),
    ] {
        assert_eq!(health("ModelDeployment", &conditions, seen), want, "{conditions:?}");
    }
}
