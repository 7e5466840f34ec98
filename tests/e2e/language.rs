//! A language model behind the gateway, asked as OpenAI's clients ask.

use std::path::PathBuf;
use std::process::Command;

use hearth_tests::cluster::{Namespace, Way, condition, root};
use hearth_tests::http;
use serde_json::{Value, json};

use crate::support::PATIENCE;

fn chat(more: &Value) -> String {
    let mut body = json!({
        "model": "chat", "temperature": 0, "max_tokens": 20,
        "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

/// Puts SmolLM2 into the claim, as a Hugging Face directory.
fn import(namespace: &Namespace) {
    let found = Command::new(root().join("tests/setup/smollm2.sh")).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let folder = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let worker = PathBuf::from(std::env::var_os("HEARTH_BIN").unwrap()).join("hearth-worker");
    let imported = Command::new(worker)
        .arg("import")
        .arg("--gguf")
        .arg(folder.join("model.gguf"))
        .arg("--output")
        .arg(namespace.volume("models").join("smollm2"))
        .args(["--dtype", "bf16"])
        .output()
        .unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
}

#[test]
fn a_language_model_answers_through_the_gateway_piece_by_piece() {
    let namespace = Namespace::create("e2e-language").unwrap();
    import(&namespace);
    let deployment = json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "chat"},
        "spec": {
            "model": {"source": "pvc://models/smollm2"},
            "serving": {"maxBatchSize": 4,
                        "resources": {"limits": {"memory": "2Gi"}, "requests": {"cpu": "50m"}}},
        },
    });
    namespace.apply(&deployment.to_string()).unwrap();
    let ready = |d: &Value| condition(d, "Ready") == "True";
    namespace.wait("modeldeployment", "chat", PATIENCE, ready).unwrap();
    let way = Way::open(&namespace, "chat", 80).unwrap();
    let ask = |more: &Value| http::post(&way.address, "/v1/chat/completions", &chat(more)).unwrap();

    let answer = ask(&json!({}));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.body.contains("Paris"), "{}", answer.body);
    let stream = ask(&json!({"stream": true}));
    assert!(stream.head.contains("text/event-stream"), "{}", stream.head);
    assert!(stream.body.matches("data: {").count() > 5, "{}", stream.body);
    assert!(stream.body.contains("data: [DONE]"), "{}", stream.body);
    let refused = ask(&json!({"model": "other"}));
    assert_eq!(refused.status, 404, "{}", refused.body);
}
