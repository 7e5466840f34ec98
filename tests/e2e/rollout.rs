//! Deployments: the gate, and a new revision under load.

use std::time::Duration;

use hearth_tests::cluster::{Namespace, Way, await_value, condition, told};
use hearth_tests::{http, jobs, processes, tiny};
use serde_json::{Value, json};

use crate::support::{PATIENCE, succeeded, under_load};

const ASK: &str = r#"{"inputs": ["free money winner click now", "thanks for the meeting notes"]}"#;

fn deployment(model: &Value) -> String {
    json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "shop"},
        "spec": {
            "model": model,
            "compression": {"quantization": "INT8",
                "gate": {"data": {"source": "pvc://data/rows.jsonl"}, "metric": "accuracy", "maxDrop": 0.1}},
            // An old revision is kept for as long as a request may take.
            "gateway": {"requestTimeoutSeconds": 10},
            "serving": {"replicas": 1, "maxBatchSize": 8,
                        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "50m"}}}
        }
    })
    .to_string()
}

fn ready_with(namespace: &Namespace, not_revision: &str) -> Value {
    let ready = |d: &Value| {
        condition(d, "Ready") == "True"
            && condition(d, "Progressing") == "False"
            && d["status"]["stable"]["revision"].as_str().is_some_and(|r| r != not_revision)
    };
    namespace.wait("modeldeployment", "shop", PATIENCE, ready).unwrap()
}

#[test]
fn a_new_revision_replaces_the_old_one_without_a_failed_request() {
    let namespace = Namespace::create("e2e-rollout").unwrap();
    jobs::fill(&namespace).unwrap();
    for (name, steps) in [("one", 200), ("two", 300)] {
        namespace.apply(&jobs::training_job(name, 1, steps, |_| {})).unwrap();
    }
    succeeded(&namespace, "one");
    succeeded(&namespace, "two");
    namespace.apply(&deployment(&json!({"fromTrainingJob": "one"}))).unwrap();
    let first = ready_with(&namespace, "");
    let first_revision = first["status"]["stable"]["revision"].as_str().unwrap().to_owned();
    let way = Way::open(&namespace, "shop", 80).unwrap();
    let answer = http::post(&way.address, "/v1/classify", ASK).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("spam") && answer.body.contains("ham"), "{}", answer.body);

    let (second, load) = under_load(
        || http::post(&way.address, "/v1/classify", ASK),
        || {
            namespace.apply(&deployment(&json!({"fromTrainingJob": "two"}))).unwrap();
            ready_with(&namespace, &first_revision)
        },
    );
    load.all_served();
    assert_eq!(load.revisions.len(), 2, "answers came from {:?}", load.revisions);
    let stable = second["status"]["stable"]["revision"].as_str().unwrap();
    let old_gone = |deployments: &Vec<Value>| deployments.len() == 1;
    let kept = await_value(
        Duration::from_mins(1),
        || namespace.list("deployments", "hearth.dev/name=shop,app.kubernetes.io/component=server"),
        &old_gone,
    )
    .unwrap();
    assert_eq!(kept[0]["metadata"]["labels"]["hearth.dev/revision"], stable);

    refuses_a_model_below_its_gate(&namespace, stable);
    notices_a_gateway_that_breaks_off(&namespace, &way.address);
}

/// The planted bug: what the load above calls a failure is one.
fn notices_a_gateway_that_breaks_off(namespace: &Namespace, address: &str) {
    let gateways = "hearth.dev/name=shop,app.kubernetes.io/component=gateway";
    for pod in namespace.list("pods", gateways).unwrap() {
        for id in processes::of_pod(&pod, "hearth-gateway").unwrap() {
            processes::signal(id, "KILL").unwrap();
        }
    }
    let answered = || {
        let answer = http::post(address, "/v1/classify", ASK);
        Ok(answer.is_ok_and(|answer| answer.status == 200))
    };
    await_value(Duration::from_secs(10), answered, &|answered| !answered).unwrap();
}

/// A model that INT8 cannot hold; what served before goes on serving.
fn refuses_a_model_below_its_gate(namespace: &Namespace, stable: &str) {
    let models = namespace.volume("models");
    tiny::write_damaged_for_int8(&models.join("one/model"), &models.join("damaged")).unwrap();
    let damaged = json!({"source": "pvc://models/damaged"});
    namespace.apply(&deployment(&damaged)).unwrap();
    let judged = namespace
        .wait("modeldeployment", "shop", PATIENCE, |d| condition(d, "Degraded") == "True")
        .unwrap();
    assert!(told(&judged, "Degraded").starts_with("GateFailed"), "{}", told(&judged, "Degraded"));
    assert_eq!(judged["status"]["stable"]["revision"], stable);
    assert_eq!(condition(&judged, "Ready"), "True");
}
