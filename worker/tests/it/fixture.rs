//! A tiny model, a tiny data set, and a configuration for them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use hearth_worker::checkpoint::shard;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 32;
const WIDE: i64 = 64;
const LAYERS: usize = 2;
const POSITIONS: i64 = 64;

/// Words of one class, of the other, and of both.
const SPAM: [&str; 6] = ["win", "cash", "prize", "free", "click", "offer"];
const HAM: [&str; 6] = ["meeting", "report", "lunch", "patch", "thanks", "review"];
const COMMON: [&str; 8] = ["the", "a", "to", "you", "we", "for", "now", "is"];

/// A temporary directory with everything that a run needs.
pub(crate) struct Fixture {
    root: tempfile::TempDir,
}

impl Fixture {
    /// A model with the given dropout and 96 rows of data.
    pub(crate) fn new(dropout: f64) -> Self {
        let fixture = Self { root: tempfile::tempdir().unwrap() };
        write_model(&fixture.path("model"), dropout);
        fixture.write("train.jsonl", &rows(96));
        fixture
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file into the directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        write(&path, text.as_bytes());
        path
    }

    /// Steps of `output` with a complete checkpoint, newest first.
    pub(crate) fn checkpoints(&self, output: &str) -> Vec<i64> {
        let mut steps: Vec<i64> = fs::read_dir(self.path(output).join("checkpoints"))
            .unwrap()
            .filter_map(|entry| {
                entry.unwrap().file_name().to_str()?.strip_prefix("step-")?.parse().ok()
            })
            .collect();
        steps.sort_unstable_by_key(|step| -step);
        steps
    }

    /// A configuration for `output`, with `change` applied.
    pub(crate) fn config(&self, output: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let mut config = json!({
            "version": "hearth.dev/worker/v1",
            "job": {"namespace": "local", "name": "tiny", "uid": ""},
            "task": "SequenceClassification",
            "accelerator": "CPU",
            "model": self.path("model"),
            "data": {
                "train": {
                    "path": self.path("train.jsonl"), "uri": "file:///train.jsonl",
                    "text": "text", "label": "label"
                },
                "eval": null, "evalSplit": null, "clean": ["CollapseWhitespace"], "maxBadRows": 0
            },
            "training": {
                "perDeviceTrainBatchSize": 4, "gradientAccumulationSteps": 2,
                "learningRate": 2e-3, "weightDecay": 0.01, "warmupSteps": 0.1,
                "numTrainEpochs": 3.0, "saveSteps": 5, "loggingSteps": 2, "seed": 7, "maxLength": 16
            },
            "parallelism": {"sharding": "None", "tensor": 1, "pipeline": 1},
            "replicas": 1, "processesPerWorker": 1,
            "output": self.path(output), "outputUri": "file:///output",
            "keepCheckpoints": 3, "maxRestarts": 1,
            "coordinatorHost": "127.0.0.1", "coordinatorPort": 8470
        });
        change(&mut config);
        self.write(&format!("{output}.json"), &config.to_string())
    }
}

/// Rows of text whose class shows in its words, of 3 to 14 words.
pub(crate) fn rows(count: u32) -> String {
    let mut text = String::new();
    for row in 0..count {
        let spam = row % 3 == 0;
        let words: Vec<&str> = (0..3 + row * 7 % 12)
            .map(|word| {
                let pick = (row * 31 + word * 17) as usize;
                match (pick % 3, spam) {
                    (0, true) => SPAM[pick % SPAM.len()],
                    (0, false) => HAM[pick % HAM.len()],
                    _ => COMMON[pick % COMMON.len()],
                }
            })
            .collect();
        let label = if spam { "spam" } else { "ham" };
        writeln!(text, "{}", json!({"text": words.join(" "), "label": label})).unwrap();
    }
    text
}

fn write_model(directory: &Path, dropout: f64) {
    fs::create_dir_all(directory).unwrap();
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].iter().chain(&SPAM).chain(&HAM).chain(&COMMON);
    let vocabulary: serde_json::Map<String, Value> =
        words.enumerate().map(|(id, word)| ((*word).to_owned(), json!(id))).collect();
    let size = i64::try_from(vocabulary.len()).unwrap();
    let special = |id: u32, token: &str| {
        json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0",
        // Settings that training must override: it asks for 16 tokens, no padding.
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary}
    });
    write(&directory.join("tokenizer.json"), tokenizer.to_string().as_bytes());
    let config = json!({
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": size,
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "intermediate_size": WIDE, "max_position_embeddings": POSITIONS, "type_vocab_size": 2,
        "hidden_act": "gelu", "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout, "layer_norm_eps": 1e-12,
        "initializer_range": 0.02, "pad_token_id": 0
    });
    write(&directory.join("config.json"), config.to_string().as_bytes());
    shard::write(&directory.join("model.safetensors"), &weights(size), &[]).unwrap();
}

/// Random weights of a bare encoder (without `bert.` in the names).
fn weights(vocabulary: i64) -> Vec<(String, Tensor)> {
    let mut seed = 0;
    let mut found = Vec::new();
    let mut random = |name: &str, shape: &[i64]| {
        seed += 1;
        // Values of a fixed sequence: the global generator belongs to no test.
        let count: i64 = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|index| {
                let phase = f64::from(seed) * 0.7 + f64::from(i32::try_from(index).unwrap()) * 1.3;
                #[expect(clippy::cast_possible_truncation, reason = "small values")]
                let value = ((phase.sin() * 43_758.545_3).fract() * 0.2) as f32;
                value
            })
            .collect();
        found.push((name.to_owned(), Tensor::from_slice(&values).reshape(shape)));
    };
    random("embeddings.word_embeddings.weight", &[vocabulary, WIDTH]);
    random("embeddings.position_embeddings.weight", &[POSITIONS, WIDTH]);
    random("embeddings.token_type_embeddings.weight", &[2, WIDTH]);
    for layer in 0..LAYERS {
        let at = |part: &str| format!("encoder.layer.{layer}.{part}");
        for (part, outputs, inputs) in [
            ("attention.self.query", WIDTH, WIDTH),
            ("attention.self.key", WIDTH, WIDTH),
            ("attention.self.value", WIDTH, WIDTH),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", WIDE, WIDTH),
            ("output.dense", WIDTH, WIDE),
        ] {
            random(&at(&format!("{part}.weight")), &[outputs, inputs]);
            random(&at(&format!("{part}.bias")), &[outputs]);
        }
    }
    random("pooler.dense.weight", &[WIDTH, WIDTH]);
    random("pooler.dense.bias", &[WIDTH]);
    let ones = || Tensor::ones([WIDTH], (Kind::Float, Device::Cpu));
    let zeros = || Tensor::zeros([WIDTH], (Kind::Float, Device::Cpu));
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in 0..LAYERS {
        norms.push(format!("encoder.layer.{layer}.attention.output.LayerNorm"));
        norms.push(format!("encoder.layer.{layer}.output.LayerNorm"));
    }
    for norm in norms {
        found.push((format!("{norm}.weight"), ones()));
        found.push((format!("{norm}.bias"), zeros()));
    }
    found
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    hearth_worker::files::write_synced(path, |out| std::io::Write::write_all(out, bytes)).unwrap();
}
