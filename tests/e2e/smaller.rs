//! A deployment that prunes its model, trains on, and compresses what is left; then one whose model
//! teaches a smaller one.

use hearth_tests::cluster::{Namespace, Way, condition, told};
use hearth_tests::{http, jobs, tiny};
use serde_json::{Value, json};

use crate::support::{PATIENCE, succeeded};

const ASK: &str = r#"{"inputs": ["free money winner click now", "thanks for the meeting notes"]}"#;

fn deployment(name: &str, compression: &Value) -> String {
    let mut compression = compression.clone();
    let trained = json!({
        "task": "SequenceClassification",
        "data": {"train": {"source": "pvc://data/rows.jsonl"}},
        "training": {"maxSteps": 200, "learningRate": 1e-3, "perDeviceTrainBatchSize": 8, "maxLength": 32},
        "workers": {"resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "50m"}}}
    });
    for (field, value) in trained.as_object().unwrap() {
        compression["training"][field] = value.clone();
    }
    compression["gate"] =
        json!({"data": {"source": "pvc://data/rows.jsonl"}, "metric": "accuracy", "maxDrop": 0.1});
    json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name},
        "spec": {
            "model": {"fromTrainingJob": "whole"},
            "compression": compression,
            "serving": {"replicas": 1,
                        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "50m"}}}
        }
    })
    .to_string()
}

/// The deployment once it serves, and the job that it made.
fn served(namespace: &Namespace, name: &str) -> (Value, Value) {
    let over = |d: &Value| condition(d, "Ready") == "True" || condition(d, "Degraded") == "True";
    let deployment = namespace.wait("modeldeployment", name, PATIENCE, over).unwrap();
    assert_eq!(condition(&deployment, "Ready"), "True", "{}", told(&deployment, "Degraded"));
    let way = Way::open(namespace, name, 80).unwrap();
    let answer = http::post(&way.address, "/v1/classify", ASK).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let selector = format!("hearth.dev/kind=modeldeployment,hearth.dev/name={name}");
    let mut made = namespace.list("trainingjobs", &selector).unwrap();
    assert_eq!(made.len(), 1, "{made:?}");
    (deployment, made.remove(0))
}

#[test]
fn a_model_is_pruned_trained_on_and_taught_to_a_smaller_one_before_it_serves() {
    let namespace = Namespace::create("e2e-smaller").unwrap();
    jobs::fill(&namespace).unwrap();
    namespace.apply(&jobs::training_job("whole", 1, 200, |_| {})).unwrap();
    succeeded(&namespace, "whole");
    let models = namespace.volume("models");
    tiny::write_model(&models.join("student"), 7).unwrap();

    let pruned = json!({
        "pruning": {"type": "Unstructured", "sparsity": 0.5}, "quantization": "INT8",
        "training": {"distillation": {"alpha": 0.5}}
    });
    let taught = json!({
        "quantization": "FP32",
        "training": {"distillation": {"student": {"source": "pvc://models/student"}, "alpha": 0.9}}
    });
    namespace.apply(&deployment("pruned", &pruned)).unwrap();
    namespace.apply(&deployment("taught", &taught)).unwrap();

    let (deployment, job) = served(&namespace, "pruned");
    let report = &deployment["status"]["stable"]["compression"];
    let sparsity = report["sparsity"].as_f64().unwrap();
    assert!((sparsity - 0.5).abs() < 0.01, "{report}");
    assert_eq!(job["spec"]["model"], job["spec"]["distillation"]["teacher"]);
    assert_eq!(job["spec"]["pruning"]["sparsity"], 0.5);

    let (_, job) = served(&namespace, "taught");
    assert_eq!(job["spec"]["model"]["source"], "pvc://models/student");
    let teacher = job["spec"]["distillation"]["teacher"]["source"].as_str().unwrap();
    assert!(teacher.ends_with("whole/model"), "{teacher}");
}
