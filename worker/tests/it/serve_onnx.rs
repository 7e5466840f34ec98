//! A classifier in ONNX Runtime, beside the same one in libtorch.

use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_worker::data::{TextEncoder, collate};
use hearth_worker::model::{self, Dropout};
use hearth_worker::serve::engine::TextClassifier;
use hearth_worker::serve::onnx::{OnnxClassifier, Place, Provider};
use serde_json::{Value, json};
use tch::Device;

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::serve_http::Server;
use crate::{tabular, trained};

const TEXTS: [&str; 4] = ["win cash now", "the meeting is for you", "free offer", ""];

/// The library in the cache.
pub(crate) fn library() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/setup/onnxruntime.sh");
    let done = Command::new(script).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().into()
}

/// A classifier with the fixture's weights and this activation.
fn classifier(fixture: &Fixture, activation: &str) -> (TextClassifier, TextEncoder) {
    let directory = trained::model(fixture, 4);
    let path = directory.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["hidden_act"] = activation.into();
    fixture.write("job/model/config.json", &config.to_string());
    let encoder = TextEncoder::from_export(&directory).unwrap();
    let classifier = model::load(&directory, Device::Cpu).unwrap();
    (TextClassifier { classifier, pad: encoder.pad(), device: Device::Cpu }, encoder)
}

fn logits_agree(activation: &str) {
    let fixture = Fixture::new(0.0);
    let (own, encoder) = classifier(&fixture, activation);
    let place = Place { library: library(), threads: 1, provider: Provider::Cpu };
    let rows = TEXTS.map(|text| encoder.encode(text).unwrap());
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let mut onnx = OnnxClassifier::new(&own, &place, &rows[..1]).unwrap();
    for rows in [&rows[..], &rows[1..2]] {
        let batch = collate(rows, own.pad, Device::Cpu).unwrap();
        let want = tch::no_grad(|| own.classifier.logits(&batch, Dropout::Off)).unwrap();
        let got = onnx.logits(rows).unwrap();
        assert_eq!(got.size(), want.size());
        let apart = (got - want).abs().max().double_value(&[]);
        assert!(apart < 1e-4, "{activation}: {apart}");
    }
}

// One runtime a process: a test each.
#[test]
fn onnx_runtime_gives_libtorchs_logits() {
    logits_agree("gelu");
}

#[test]
fn onnx_runtime_gives_libtorchs_logits_with_gelus_approximation() {
    logits_agree("gelu_new");
}

#[test]
fn onnx_runtime_gives_libtorchs_logits_with_silu() {
    logits_agree("silu");
}

#[test]
fn onnx_runtime_gives_libtorchs_logits_with_relu6() {
    logits_agree("relu6");
}

#[test]
fn a_server_of_onnx_runtime_answers_as_one_of_libtorch() {
    let start = |runtime: &str| {
        let fixture = Fixture::new(0.0);
        let model = trained::model(&fixture, 40);
        Server::of(fixture, model, |config| config["runtime"] = runtime.into())
    };
    let (torch, onnx) = (start("Libtorch"), start("OnnxRuntime"));
    assert_eq!(onnx.get("/v2/models/tiny").json()["platform"], "hearth_onnxruntime");
    let tensor = json!({"name": "text", "shape": [4], "datatype": "BYTES", "data": TEXTS});
    let body = json!({ "inputs": [tensor] }).to_string();
    let [want, got] =
        [&torch, &onnx].map(|server| server.post("/v2/models/tiny/infer", &body).json());
    assert_eq!(got["outputs"][0], want["outputs"][0]);
    let scores = |answer: &Value| -> Vec<f64> {
        serde_json::from_value(answer["outputs"][2]["data"].clone()).unwrap()
    };
    assert_eq!(scores(&got).len(), 8);
    for (got, want) in scores(&got).iter().zip(scores(&want)) {
        assert!((got - want).abs() < 1e-4, "{got} is not {want}");
    }
}

/// A model of tables answers as without ONNX Runtime, whatever it is asked, and explains.
fn tables_agree(change: impl FnOnce(&mut Value)) {
    let fixture = Fixture::new(0.0);
    tabular::transfers(&fixture);
    let job = tabular::job(&fixture, "job", |config| {
        config["tabular"].as_object_mut().unwrap().remove("threshold");
        change(config);
    });
    let _ = Gang::run(&job, 1).succeeded();
    let file = fixture.path("table.onnx");
    let mut export = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
    export.arg("export").arg("--model").arg(fixture.path("job/model")).arg("--onnx").arg(&file);
    assert!(export.status().unwrap().success());
    assert!(std::fs::metadata(file).unwrap().len() > 1000);

    let (model, other) = (fixture.path("job/model"), Fixture::new(0.0));
    let torch = Server::of(other, model.clone(), |_| {});
    let onnx = Server::of(fixture, model, |config| config["runtime"] = "OnnxRuntime".into());
    assert_eq!(onnx.get("/v2/models/tiny").json()["platform"], "hearth_onnxruntime");
    let rows = json!({"explain": 2, "rows": [
        {"amount": 30.5, "channel": "card", "hour": 14, "weekday": 2},
        {"amount": 9400, "channel": "cash", "hour": 3, "weekday": 2},
        {"amount": 12, "channel": "never seen", "hour": 23, "weekday": 6},
        {"amount": 5e9, "channel": "card", "hour": 0, "weekday": 0},
        {"amount": 0, "channel": "cash", "hour": 12, "weekday": 3}
    ]});
    let [want, got] =
        [&torch, &onnx].map(|server| server.post("/v1/predict", &rows.to_string()).json());
    for row in 0..5 {
        let score =
            |answer: &Value| answer["outputs"][row]["probabilities"]["true"].as_f64().unwrap();
        assert!((score(&got) - score(&want)).abs() < 1e-4, "{row}: {got}\n{want}");
        let explained = |answer: &Value| {
            answer["outputs"][row]["explanation"]["contributions"].as_array().unwrap().len()
        };
        assert_eq!(explained(&got), 2, "{got}");
    }
}

fn networks_agree(architecture: Value) {
    tables_agree(|config| {
        tabular::network(config);
        config["training"]["numTrainEpochs"] = 1.0.into();
        config["tabular"]["neural"] = architecture;
    });
}

#[test]
fn onnx_runtime_computes_tables_as_libtorch_by_a_transformer() {
    networks_agree(json!({
        "architecture": "FTTransformer", "blocks": 2, "dToken": 16, "attentionHeads": 2
    }));
}

#[test]
fn onnx_runtime_computes_tables_as_libtorch_by_an_mlp() {
    networks_agree(json!({"architecture": "MLP", "layers": 2, "width": 32}));
}

/// The exit code of a server that does not start, and what it said.
fn refusal(fixture: &Fixture, model: &Path, runtime: &str) -> (Option<i32>, String) {
    let config = json!({
        "version": "hearth.dev/worker/v1", "job": {"namespace": "local", "name": "tiny", "uid": ""},
        "revision": "r1", "model": model, "accelerator": "CPU", "runtime": runtime,
        "maxBatchSize": 8, "maxBatchDelayMilliseconds": 5, "maxQueueDepth": 64,
        "maxBodyBytes": 65536, "port": 0
    });
    let path = fixture.write("serve.json", &config.to_string());
    let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
    command
        .arg("serve")
        .arg("--config")
        .arg(path)
        .env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so");
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_onnx_runtime_cannot_serve_is_refused_with_a_sentence() {
    let fixture = Fixture::new(0.0);
    let model = trained::model(&fixture, 1);
    let (code, said) = refusal(&fixture, &model, "OnnxRuntime");
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("/nowhere/libonnxruntime.so") && said.contains("ORT_DYLIB_PATH"),
        "{said}"
    );
    let (code, said) = refusal(&fixture, &model, "TensorRT");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("needs a GPU"), "{said}");
    // The encoder that it was trained from embeds.
    let (code, said) = refusal(&fixture, &fixture.path("model"), "OnnxRuntime");
    assert_eq!(code, Some(64), "{said}");
    assert!(said.contains("choose Libtorch"), "{said}");
}

#[test]
fn onnx_runtime_computes_trees_as_lightgbm() {
    tables_agree(|_| ());
}
