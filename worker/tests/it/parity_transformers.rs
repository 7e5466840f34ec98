//! Hearth against transformers, tokenizers and scikit-learn.
//!
//! What they answer is in tests/parity/fixtures; tests/parity/fixtures.py made
//! it, and `make parity` checks that it still does.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_crds::preparation::Cleaning;
use hearth_worker::data::{TextEncoder, collate};
use hearth_worker::event::{RankEvent, StepReport};
use hearth_worker::model::{self, Dropout, embedder};
use hearth_worker::objective::confusion::Confusion;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Tensor};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn fixtures() -> PathBuf {
    repository().join("tests/parity/fixtures")
}

fn fixture<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_json::from_slice(&fs::read(fixtures().join(name)).unwrap()).unwrap()
}

/// The MiniLM directory in the cache.
fn minilm() -> PathBuf {
    let done = Command::new(repository().join("tests/setup/data.sh")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Path::new(String::from_utf8(done.stdout).unwrap().trim()).join("minilm")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    max_length: usize,
    rows: Vec<TokenRow>,
}

#[derive(Deserialize)]
struct TokenRow {
    text: String,
    ids: Vec<u32>,
}

#[test]
fn token_ids_are_those_of_transformers() {
    let want: Tokens = fixture("minilm-tokens.json");
    let encoder = TextEncoder::load(&minilm(), Cleaning::default(), want.max_length).unwrap();
    for row in &want.rows {
        assert_eq!(encoder.encode(&row.text).unwrap(), row.ids, "{:?}", row.text);
    }
}

#[derive(Deserialize)]
struct Logits {
    rows: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
}

#[test]
fn logits_are_those_of_transformers_within_1e_4() {
    let want: Logits = fixture("minilm-logits.json");
    let home = tempfile::tempdir().unwrap();
    write_minilm_with_head(home.path(), want.logits[0].len());
    let classifier = model::load(home.path(), Device::Cpu).unwrap();
    let rows: Vec<&[u32]> = want.rows.iter().map(Vec::as_slice).collect();

    let together = collate(&rows, 0, Device::Cpu).unwrap();
    let mut got = rows_of(&tch::no_grad(|| classifier.logits(&together, Dropout::Off)).unwrap());
    assert_close(&got, &want.logits, "in one padded batch");

    got.clear();
    for row in rows {
        let alone = collate(&[row], 0, Device::Cpu).unwrap();
        got.extend(rows_of(&tch::no_grad(|| classifier.logits(&alone, Dropout::Off)).unwrap()));
    }
    assert_close(&got, &want.logits, "row by row");
}

#[derive(Deserialize)]
struct Embeddings {
    rows: Vec<EmbeddingRow>,
}

#[derive(Deserialize)]
struct EmbeddingRow {
    text: String,
    tokens: usize,
    vector: Vec<f32>,
}

#[test]
fn embeddings_are_those_of_transformers_within_1e_4() {
    let want: Embeddings = fixture("minilm-embeddings.json");
    let (model, home) = (embedder::load(&minilm(), Device::Cpu).unwrap(), minilm());
    let encoder = TextEncoder::load(&home, Cleaning::default(), model.max_tokens).unwrap();
    let rows: Vec<Vec<u32>> =
        want.rows.iter().map(|row| encoder.encode(&row.text).unwrap()).collect();
    let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
    assert_eq!(lengths, want.rows.iter().map(|row| row.tokens).collect::<Vec<_>>());
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let batch = collate(&rows, encoder.pad(), Device::Cpu).unwrap();
    let got = rows_of(&tch::no_grad(|| model.embed(&batch)).unwrap());
    let want: Vec<Vec<f32>> = want.rows.into_iter().map(|row| row.vector).collect();
    assert_close(&got, &want, "in one padded batch");
    for (row, want) in rows.iter().zip(want) {
        let alone = collate(&[row], encoder.pad(), Device::Cpu).unwrap();
        assert_close(&rows_of(&tch::no_grad(|| model.embed(&alone)).unwrap()), &[want], "alone");
    }
}

fn rows_of(logits: &Tensor) -> Vec<Vec<f32>> {
    Vec::try_from(logits).unwrap()
}

fn assert_close(got: &[Vec<f32>], want: &[Vec<f32>], how: &str) {
    assert_eq!(got.len(), want.len());
    for (row, (got, want)) in got.iter().zip(want).enumerate() {
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() <= 1e-4, "{how}, row {row}: {got} is not {want}");
        }
    }
}

/// MiniLM with the classifier of fixtures.py (`head`), as a directory.
fn write_minilm_with_head(home: &Path, classes: usize) {
    let source = minilm();
    let mut config: Value =
        serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    let width = usize::try_from(config["hidden_size"].as_u64().unwrap()).unwrap();
    config["id2label"] = (0..classes).map(|id| (id.to_string(), json!(format!("c{id}")))).collect();
    fs::write(home.join("config.json"), config.to_string()).unwrap();

    let (weight, bias) = head(classes, width);
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let encoder = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<(String, TensorView<'_>)> = encoder.tensors();
    let view = |shape, data| TensorView::new(Dtype::F32, shape, data).unwrap();
    tensors.push(("classifier.weight".into(), view(vec![classes, width], &weight)));
    tensors.push(("classifier.bias".into(), view(vec![classes], &bias)));
    safetensors::serialize_to_file(tensors, None, &home.join("model.safetensors")).unwrap();
}

/// Little-endian f32: weight `0.05 sin(1 + flat index)`, bias `0.1 (1 + class)`.
#[expect(clippy::cast_possible_truncation, reason = "rounded to f32, as the fixture's script does")]
fn head(classes: usize, width: usize) -> (Vec<u8>, Vec<u8>) {
    let weight = (1..=classes * width).map(|index| ((index as f64).sin() * 0.05) as f32);
    let bias = (1..=classes).map(|class| (0.1 * class as f64) as f32);
    (weight.flat_map(f32::to_le_bytes).collect(), bias.flat_map(f32::to_le_bytes).collect())
}

#[derive(Deserialize)]
struct Metrics {
    cases: Vec<MetricCase>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricCase {
    classes: usize,
    truths: Vec<usize>,
    answers: Vec<usize>,
    accuracy: f64,
    f1_by_class: Vec<f64>,
    f1_macro: f64,
    f1: f64,
}

#[test]
fn accuracy_and_f1_are_those_of_scikit_learn() {
    let want: Metrics = fixture("metrics.json");
    for case in &want.cases {
        let mut confusion = Confusion::new(case.classes);
        for (truth, answer) in case.truths.iter().zip(&case.answers) {
            confusion.add(*truth, *answer);
        }
        let mut pairs = vec![
            ("accuracy", confusion.accuracy(), case.accuracy),
            ("macro F1", confusion.f1_macro(), case.f1_macro),
            ("F1", confusion.f1_headline(), case.f1),
        ];
        let by_class = case.f1_by_class.iter().enumerate();
        pairs.extend(by_class.map(|(class, want)| ("F1 of a class", confusion.f1(class), *want)));
        for (name, got, want) in pairs {
            assert!((got - want).abs() < 1e-12, "{name} of {:?}: {got}, not {want}", case.truths);
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Curve {
    training: serde_json::Map<String, Value>,
    losses: Vec<f64>,
    learning_rates: Vec<f64>,
    grad_norms: Vec<f64>,
}

/// Data → tokens → loss → gradient → clip → AdamW → schedule, 50 times. One
/// batch is all of the data, so the order of rows changes rounding only, which
/// gradients late in training amplify (4e-4 was seen).
#[test]
fn losses_rates_and_gradient_norms_of_50_steps_are_those_of_transformers() {
    let want: Curve = fixture("tiny-curve.json");
    for batch in [32, 8] {
        let steps = train_tiny(&want.training, batch);
        assert_eq!(steps.len(), want.losses.len());
        for (index, step) in steps.iter().enumerate() {
            for (name, got, want, tolerance) in [
                ("loss", step.loss, want.losses[index], 1e-5),
                ("learning rate", step.learning_rate, want.learning_rates[index], 1e-12),
                ("gradient norm", step.grad_norm, want.grad_norms[index], 1e-3),
            ] {
                assert!(
                    (got - want).abs() <= tolerance * want.abs().max(1.0),
                    "batches of {batch}, step {}: {name} {got} is not {want}",
                    index + 1
                );
            }
        }
    }
}

/// Reports of the steps of `hearth-worker train` on the tiny model, with the
/// 32 rows in one forward pass or accumulated over several.
fn train_tiny(training: &serde_json::Map<String, Value>, batch: u64) -> Vec<StepReport> {
    let home = tempfile::tempdir().unwrap();
    let tiny = fixtures().join("tiny-bert");
    let mut training = training.clone();
    training.insert("perDeviceTrainBatchSize".into(), batch.into());
    training.insert("gradientAccumulationSteps".into(), (32 / batch).into());
    let rows = tiny.join("train.jsonl");
    let config = json!({
        "version": hearth_crds::worker_config::CONFIG_VERSION,
        "job": {"namespace": "local", "name": "tiny", "uid": ""},
        "task": "SequenceClassification",
        "accelerator": "CPU",
        "model": tiny,
        "data": {
            "train": {"path": rows, "uri": rows, "text": "text", "label": "label"},
            "eval": null, "evalSplit": null, "clean": [], "maxBadRows": 0,
        },
        "training": training,
        "parallelism": {"sharding": "None", "tensor": 1, "pipeline": 1},
        "replicas": 1, "processesPerWorker": 1,
        "output": home.path().join("out"), "outputUri": "file:///out",
        "keepCheckpoints": 1, "maxRestarts": 0,
        "coordinatorHost": "127.0.0.1", "coordinatorPort": 0,
    });
    let path = home.path().join("config.json");
    fs::write(&path, config.to_string()).unwrap();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_hearth-worker"));
    let alone: HashMap<&str, &str> = HashMap::from([("RANK", "0"), ("WORLD_SIZE", "1")]);
    let done = worker.args(["train", "--config"]).arg(&path).envs(alone).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    said.lines()
        .filter_map(|line| match serde_json::from_str(line).unwrap() {
            RankEvent::Step(report) => Some(report),
            _ => None,
        })
        .collect()
}
