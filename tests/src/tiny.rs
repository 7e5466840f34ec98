//! A BERT of a few kilobytes with a word tokenizer, and labelled sentences for
//! it: enough for a real run of the worker, in seconds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;

const HIDDEN: usize = 32;
const LAYERS: usize = 2;
const INTERMEDIATE: usize = 64;
const POSITIONS: usize = 64;
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const GOOD: [&str; 12] = [
    "meeting", "tomorrow", "report", "thanks", "project", "lunch", "review", "draft", "notes",
    "family", "weekend", "question",
];
const BAD: [&str; 12] = [
    "free",
    "winner",
    "money",
    "offer",
    "click",
    "cash",
    "prize",
    "cheap",
    "urgent",
    "loan",
    "guarantee",
    "pills",
];
const NEUTRAL: [&str; 12] =
    ["the", "a", "and", "you", "we", "for", "to", "with", "please", "now", "today", "this"];

/// Writes a Hugging Face directory with random weights (seeded) into `directory`.
pub fn write_model(directory: &Path, seed: u64) -> Result<()> {
    fs::create_dir_all(directory)?;
    let words: Vec<&str> =
        SPECIAL.iter().chain(&GOOD).chain(&BAD).chain(&NEUTRAL).copied().collect();
    write_json(&directory.join("config.json"), &config(words.len()))?;
    write_json(&directory.join("tokenizer.json"), &tokenizer(&words))?;
    write_weights(&directory.join("model.safetensors"), words.len(), seed)
}

/// Writes `rows` labelled sentences as JSONL; `ham` and `spam` in turn.
pub fn write_rows(file: &Path, rows: usize, seed: u64) -> Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut out = std::io::BufWriter::new(fs::File::create(file)?);
    for row in 0..rows {
        let (label, telling) = if row % 2 == 0 { ("ham", GOOD) } else { ("spam", BAD) };
        let words: Vec<&str> = (0..random.random_range(4..16))
            .filter_map(|_| {
                let from = if random.random_bool(0.4) { &telling } else { &NEUTRAL };
                from.choose(&mut random).copied()
            })
            .collect();
        writeln!(out, "{}", json!({"text": words.join(" "), "label": label}))?;
    }
    out.flush().with_context(|| format!("cannot write {}", file.display()))
}

/// Copies a trained export to `damaged`, changed so that 8-bit weights cannot hold
/// it: one hidden dimension is silenced at the entry of each layer, and the weights
/// that read it are made huge. In float they multiply zero; in INT8 they take all
/// of their rows' range, and attention is lost.
pub fn write_damaged_for_int8(export: &Path, damaged: &Path) -> Result<()> {
    fs::create_dir_all(damaged)?;
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(export.join(file), damaged.join(file))
            .with_context(|| format!("cannot copy {file}"))?;
    }
    let bytes = fs::read(export.join("model.safetensors"))?;
    let mut changed = Vec::new();
    for (name, view) in SafeTensors::deserialize(&bytes)?.tensors() {
        let mut values: Vec<f32> = view
            .data()
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect();
        let entry = name.ends_with("embeddings.LayerNorm.weight")
            || name.ends_with("embeddings.LayerNorm.bias")
            || name.contains(".0.output.LayerNorm.");
        if entry {
            values[0] = 0.0;
        }
        if name.contains("attention.self") && name.ends_with("weight") {
            values.iter_mut().step_by(HIDDEN).for_each(|first| *first = 10_000.0);
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        changed.push((name, view.shape().to_vec(), bytes));
    }
    write_tensors(&damaged.join("model.safetensors"), &changed)
}

fn config(vocabulary: usize) -> serde_json::Value {
    json!({
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu",
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "intermediate_size": INTERMEDIATE, "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2, "vocab_size": vocabulary, "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02, "pad_token_id": 0
    })
}

fn tokenizer(words: &[&str]) -> serde_json::Value {
    let vocabulary: BTreeMap<&str, usize> =
        words.iter().enumerate().map(|(id, word)| (*word, id)).collect();
    let special = |id: usize| {
        json!({"id": id, "content": words[id], "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let token = |name: &str, id: usize| {
        (name.to_owned(), json!({"id": name, "ids": [id], "tokens": [name]}))
    };
    let frame = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": (0..SPECIAL.len()).map(special).collect::<Vec<_>>(),
        "normalizer": {"type": "BertNormalizer", "clean_text": true,
                       "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [frame("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, frame("[SEP]")],
            "pair": [frame("[CLS]"), {"Sequence": {"id": "A", "type_id": 0}}, frame("[SEP]"),
                     {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": serde_json::Map::from_iter([token("[CLS]", 2), token("[SEP]", 3)])
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary}
    })
}

/// Names and shapes of `transformers.BertModel`'s parameters, without the pooler.
fn shapes(vocabulary: usize) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![vocabulary, HIDDEN]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![POSITIONS, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, HIDDEN]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![HIDDEN]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut linear = |name: &str, out: usize, into: usize| {
            all.push((format!("encoder.layer.{layer}.{name}.weight"), vec![out, into]));
            all.push((format!("encoder.layer.{layer}.{name}.bias"), vec![out]));
        };
        for name in [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
        ] {
            linear(name, HIDDEN, HIDDEN);
        }
        linear("intermediate.dense", INTERMEDIATE, HIDDEN);
        linear("output.dense", HIDDEN, INTERMEDIATE);
        for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
            all.push((format!("encoder.layer.{layer}.{name}.weight"), vec![HIDDEN]));
            all.push((format!("encoder.layer.{layer}.{name}.bias"), vec![HIDDEN]));
        }
    }
    all
}

fn write_weights(file: &Path, vocabulary: usize, seed: u64) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors = Vec::new();
    for (name, shape) in shapes(vocabulary) {
        let count: usize = shape.iter().product();
        let norm = name.contains("LayerNorm");
        let value = |random: &mut ChaCha8Rng| match (norm, name.ends_with("bias")) {
            (true, false) => 1.0,
            (_, true) => 0.0,
            (false, false) => random.random_range(-0.06_f32..0.06),
        };
        let bytes: Vec<u8> = (0..count).flat_map(|_| value(&mut random).to_le_bytes()).collect();
        tensors.push((name, shape, bytes));
    }
    write_tensors(file, &tensors)
}

/// Writes tensors of 32-bit floats: name, shape, bytes.
pub fn write_tensors(file: &Path, tensors: &[(String, Vec<usize>, Vec<u8>)]) -> Result<()> {
    let views: BTreeMap<&str, TensorView<'_>> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<_>>()?;
    write_file(file, &safetensors::serialize(views, None)?)
}

fn write_json(file: &Path, value: &serde_json::Value) -> Result<()> {
    write_file(file, &serde_json::to_vec(value)?)
}

/// Writes a test input. Tests that damage files use it too: nothing else is at stake.
pub fn write_file(file: &Path, bytes: &[u8]) -> Result<()> {
    let mut out =
        fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    out.write_all(bytes).with_context(|| format!("cannot write {}", file.display()))
}
