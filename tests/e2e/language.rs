//! A language model behind the gateway, asked as OpenAI's clients ask.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_tests::cluster::{Namespace, Way, condition, root};
use hearth_tests::{http, tiny};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
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

/// Adapters of SmolLM2's last block, as PEFT saves them: random, and far from nothing.
fn adapt(directory: &Path) {
    let module = "base_model.model.model.layers.29.mlp.down_proj";
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let tensors: Vec<_> = [("lora_A", vec![4, 1536]), ("lora_B", vec![576, 4])]
        .into_iter()
        .map(|(part, shape)| {
            let count: usize = shape.iter().product();
            let values = (0..count).flat_map(|_| random.random_range(-0.5_f32..0.5).to_le_bytes());
            (format!("{module}.{part}.weight"), shape, values.collect())
        })
        .collect();
    std::fs::create_dir_all(directory).unwrap();
    tiny::write_tensors(&directory.join("adapter_model.safetensors"), &tensors).unwrap();
    let config = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16,
                        "target_modules": [module.trim_start_matches("base_model.model.")]});
    let text = config.to_string();
    tiny::write_file(&directory.join("adapter_config.json"), text.as_bytes()).unwrap();
}

#[test]
fn a_language_model_answers_through_the_gateway_piece_by_piece() {
    let namespace = Namespace::create("e2e-language").unwrap();
    import(&namespace);
    adapt(&namespace.volume("models").join("mails"));
    let mut deployment = json!({
        "apiVersion": "hearth.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "chat"},
        "spec": {
            "model": {"source": "pvc://models/smollm2"},
            "serving": {"maxBatchSize": 4,
                        "adapters": [{"name": "mails", "source": "pvc://models/mails"}],
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
    let adapted = ask(&json!({"model": "mails"}));
    assert_eq!(adapted.status, 200, "{}", adapted.body);
    let said = |answer: &http::Answer| {
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        (answer["model"].clone(), answer["choices"][0]["message"]["content"].clone())
    };
    let ((model, text), (adapted, other)) = (said(&answer), said(&adapted));
    assert_eq!((model, adapted), (json!("chat"), json!("mails")));
    assert_ne!(text, other, "the adapters change nothing");
    let models = http::get(&way.address, "/v1/models").unwrap();
    let models: Value = serde_json::from_str(&models.body).unwrap();
    let names: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(names, ["chat", "mails"]);
    let refused = ask(&json!({"model": "other"}));
    assert_eq!(refused.status, 404, "{}", refused.body);

    deployment["spec"]["serving"]["autoscaling"] = json!({"maxReplicas": 2, "scaleDownDelaySeconds": 10,
        "targetRequestsInFlight": 1000, "targetTokensInFlight": 100});
    namespace.apply(&deployment.to_string()).unwrap();
    servers_follow_tokens(&namespace, &way.address);
}

/// Three texts at a time have more than 100 tokens in flight, and far fewer than 1,000 requests.
fn servers_follow_tokens(namespace: &Namespace, address: &str) {
    let is_over = AtomicBool::new(false);
    let replicas = |wanted: i64| {
        let has = move |d: &Value| d["status"]["stable"]["replicas"] == wanted;
        namespace.wait("modeldeployment", "chat", PATIENCE, has)
    };
    let (grown, answered) = std::thread::scope(|scope| {
        let ask = || {
            let mut answered = 0;
            while !is_over.load(Ordering::Relaxed) {
                let body = chat(&json!({"max_tokens": 100, "temperature": 1}));
                let answer = http::post(address, "/v1/chat/completions", &body).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.body);
                answered += 1;
            }
            answered
        };
        let clients = [(); 3].map(|()| scope.spawn(ask));
        let grown = replicas(2);
        is_over.store(true, Ordering::Relaxed);
        (grown, clients.map(|client| client.join().unwrap()))
    });
    grown.unwrap();
    assert!(answered.iter().all(|answers| *answers > 0), "{answered:?}");
    replicas(1).unwrap();
}
