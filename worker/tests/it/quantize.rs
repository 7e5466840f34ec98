//! `hearth-worker quantize` on a model that the worker trained: what it writes,
//! how close it stays, what it refuses.

use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_crds::preparation::Cleaning;
use hearth_crds::worker_config::{QuantizeConfig, WorkerResult};
use hearth_worker::data::{TextEncoder, collate};
use hearth_worker::import::Precision;
use hearth_worker::model::{Dropout, Pass};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture::{Fixture, rows};
use crate::trained;
use crate::ways::language_model;

pub(crate) struct Run {
    pub(crate) exit_code: i32,
    pub(crate) result: WorkerResult,
}

/// Runs the command with `change` applied to its configuration.
pub(crate) fn quantize(fixture: &Fixture, model: &Path, change: impl FnOnce(&mut Value)) -> Run {
    let mut config = json!({
        "version": "hearth.dev/worker/v1",
        "job": {"namespace": "local", "name": "tiny", "uid": ""},
        "model": model, "quantization": "INT8", "groupSize": 128,
        "output": fixture.path("int8"), "outputUri": "file:///int8", "calibration": null,
        "gate": {
            "data": {"path": fixture.path("eval.jsonl"), "uri": "file:///eval.jsonl",
                     "text": "text", "label": "label"},
            "metric": "f1", "maxDrop": 0.05
        }
    });
    change(&mut config);
    serde_json::from_value::<QuantizeConfig>(config.clone()).unwrap();
    fixture.write("eval.jsonl", &rows(150));
    let path = fixture.write("quantize.json", &config.to_string());
    let message = fixture.path("message.json");
    let output = Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
        .arg("quantize")
        .arg("--config")
        .arg(path)
        .env("HEARTH_TERMINATION_LOG", &message)
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&message)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    Run { exit_code: output.status.code().unwrap(), result: serde_json::from_str(&text).unwrap() }
}

fn json_of(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Logits of some texts.
fn logits(directory: &Path) -> Tensor {
    let classifier = hearth_worker::quantize::load(directory, Device::Cpu).unwrap();
    let encoder = TextEncoder::from_export(directory).unwrap();
    let texts = ["win cash now", "the meeting is for you", "free offer to click", "lunch"];
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| encoder.encode(text).unwrap()).collect();
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let batch = collate(&rows, encoder.pad(), Device::Cpu).unwrap();
    tch::no_grad(|| classifier.logits(&batch, Dropout::Off).unwrap())
}

#[test]
fn the_int8_model_is_small_close_and_in_the_format_of_compressed_tensors() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 60);
    let Run { exit_code, result } = quantize(&fixture, &dense, |_| ());
    assert_eq!(exit_code, 0, "{}", result.message);
    let report = result.compression.unwrap();
    assert!(report.size_after_bytes < report.size_before_bytes);
    let (before, after) = (report.metric_before.unwrap(), report.metric_after.unwrap());
    assert!(before > 0.8, "the model learned nothing: {before}");
    assert!((before - after).abs() <= 0.05, "{before} {after}");

    let int8 = fixture.path("int8");
    let card = json_of(int8.join("hearth.json"));
    assert_eq!(card["clean"], json!(["CollapseWhitespace"]), "serving must clean as training did");
    assert_eq!(json_of(int8.join("drift.json")), json_of(dense.join("drift.json")));
    assert!(card["files"]["drift.json"].is_string(), "{card}");
    let config = json_of(int8.join("config.json"));
    assert_eq!(config["quantization_config"]["quant_method"], "compressed-tensors");
    assert_eq!(config["quantization_config"]["format"], "int-quantized");
    let bytes = std::fs::read(int8.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let query = "bert.encoder.layer.0.attention.self.query";
    let weight = tensors.tensor(&format!("{query}.weight")).unwrap();
    assert_eq!((weight.dtype(), weight.shape()), (safetensors::Dtype::I8, &[32, 32][..]));
    let scale = tensors.tensor(&format!("{query}.weight_scale")).unwrap();
    assert_eq!((scale.dtype(), scale.shape()), (safetensors::Dtype::F32, &[32, 1][..]));
    for kept in ["classifier.weight", "bert.pooler.dense.weight"] {
        assert_eq!(tensors.tensor(kept).unwrap().dtype(), safetensors::Dtype::F32, "{kept}");
    }

    let (exact, near) = (logits(&dense), logits(&int8));
    let error = f64::try_from((&exact - &near).norm() / exact.norm()).unwrap();
    assert!(error > 0.0, "int8 cannot be exact: the dense layers were computed");
    assert!(error < 0.05, "relative error {error}");
}

#[test]
fn the_written_weights_are_the_dense_ones_within_half_a_step() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 5);
    assert_eq!(quantize(&fixture, &dense, |config| config["gate"] = Value::Null).exit_code, 0);
    let name = "bert.encoder.layer.1.intermediate.dense.weight";
    let read = |directory: &Path| hearth_worker::model::Weights::read(directory, "bert.").unwrap();
    let (original, compressed) = (read(&dense), read(&fixture.path("int8")));
    let weight = original.get(name).unwrap();
    let scale = compressed.get(&format!("{name}_scale")).unwrap();
    let back = compressed.get(name).unwrap().to_kind(Kind::Float) * &scale;
    let steps = ((weight - back) / scale).abs().max();
    let steps = f64::try_from(steps).unwrap();
    assert!(steps <= 0.5001, "off by {steps} steps");
}

/// A language model in bfloat16 is never whole in 32 bits, and answers as one that was.
#[test]
fn layers_in_16_bits_are_held_as_they_are_read() {
    for family in ["llama", "qwen2", "deepseek-v2"] {
        let fixture = language_model(family);
        let path = fixture.path("model/model.safetensors");
        let tensors = Tensor::read_safetensors(&path).unwrap();
        let halves: Vec<_> = tensors
            .into_iter()
            .map(|(name, tensor)| (name, tensor.to_kind(Kind::BFloat16)))
            .collect();
        Tensor::write_safetensors(&halves, &path).unwrap();
        let logits = |model: &hearth_worker::model::Model| {
            let ids = Tensor::from_slice(&[4i64, 16, 8, 9, 3, 16, 17, 22]).view([1, 8]);
            let pass = Pass::decoder(model.network(), 8, Device::Cpu, Dropout::Off).unwrap();
            tch::no_grad(|| model.forward(&ids, &pass)).unwrap()
        };
        let mut after = hearth_worker::quantize::load(&fixture.path("model"), Device::Cpu).unwrap();
        let dense = logits(&after);
        hearth_worker::model::hold(&mut after).unwrap();
        let mut at_once =
            hearth_worker::quantize::load_narrow(&fixture.path("model"), Device::Cpu).unwrap();
        let held = at_once.linears().iter().filter(|linear| linear.narrow().is_some()).count();
        assert!(held > 7, "{family}: {held} layers are held");
        hearth_worker::model::hold(&mut at_once).unwrap();
        assert!(logits(&at_once).equal(&logits(&after)), "{family}");
        let gap = (logits(&at_once) - dense).abs().max();
        assert!(f64::try_from(gap).unwrap() < 1e-3, "{family}");
    }
}

#[test]
fn a_second_run_finds_the_work_done_and_a_damaged_output_is_made_again() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 5);
    let loose = |config: &mut Value| config["gate"]["maxDrop"] = 1.into();
    let first = quantize(&fixture, &dense, loose);
    assert_eq!(first.exit_code, 0, "{}", first.result.message);
    let weights = fixture.path("int8/model.safetensors");
    let written = || std::fs::metadata(&weights).unwrap().modified().unwrap();
    let at_first = written();
    let second = quantize(&fixture, &dense, loose);
    assert_eq!(second.result, first.result);
    assert_eq!(written(), at_first, "it was written again");

    let file = std::fs::File::options().write(true).open(&weights).unwrap();
    file.set_len(1000).unwrap();
    let third = quantize(&fixture, &dense, loose);
    assert_eq!(third.result.model, first.result.model);
    assert!(std::fs::metadata(&weights).unwrap().len() > 1000);
}

#[test]
fn a_model_that_lost_too_much_is_not_put_in_place() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 60);
    // To lose -1 is to gain 1, which no model can.
    let run = quantize(&fixture, &dense, |config| config["gate"]["maxDrop"] = (-1.0).into());
    assert_eq!((run.exit_code, run.result.reason.as_str()), (76, "GateFailed"));
    assert!(run.result.message.contains("the gate allows -1"), "{}", run.result.message);
    assert!(!fixture.path("int8").exists());
    let report = json_of(fixture.path("int8.report.json"));
    assert!(report["compression"]["metricAfter"].is_number(), "{report}");
    assert_eq!(report["digest"], Value::Null);
}

/// Relative error of the logits, and the size, in each format.
#[test]
fn every_format_is_small_and_close_and_read_back() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 60);
    let exact = logits(&dense);
    for (quantization, format, share, worst) in [
        ("INT8WeightOnly", Some("pack-quantized"), 0.9, 0.02),
        ("INT4", Some("pack-quantized"), 0.9, 0.3),
        ("FP8", Some("float-quantized"), 0.9, 0.1),
        ("FP16", None, 0.6, 0.002),
        ("BF16", None, 0.6, 0.02),
    ] {
        let run = quantize(&fixture, &dense, |config| {
            config["quantization"] = quantization.into();
            config["output"] = fixture.path(quantization).to_str().unwrap().into();
        });
        assert_eq!(run.exit_code, 0, "{quantization}: {}", run.result.message);
        let report = run.result.compression.unwrap();
        let size = report.size_after_bytes as f64 / report.size_before_bytes as f64;
        assert!(size < share, "{quantization}: {size} of the size");
        assert!(report.agreement.unwrap() > 0.9, "{quantization}: {report:?}");
        assert!(report.latency_before_milliseconds.unwrap() > 0.0, "{quantization}: {report:?}");
        let config = json_of(fixture.path(quantization).join("config.json"));
        assert_eq!(config["quantization_config"]["format"].as_str(), format, "{quantization}");

        let near = logits(&fixture.path(quantization));
        let error = f64::try_from((&exact - &near).norm() / exact.norm()).unwrap();
        assert!(error > 0.0 && error < worst, "{quantization}: relative error {error}");
    }
}

#[test]
fn a_language_model_is_calibrated_and_judged_by_its_next_tokens() {
    let fixture = language_model("llama-tied-biased");
    let words = ["win", "cash", "prize", "free", "the", "a", "to", "you", "we", "report", "lunch"];
    let texts = |seed: usize| -> String {
        let row = |row: usize| {
            let word = |place: usize| words[(seed + row * 5 + place * place * 3) % words.len()];
            json!({"text": (0..20).map(word).collect::<Vec<_>>().join(" ")}).to_string()
        };
        (0..40).map(row).collect::<Vec<_>>().join("\n")
    };
    fixture.write("calibration.jsonl", &texts(1));
    let judged = fixture.write("texts.jsonl", &texts(2));
    let run = |output: &str, calibrate: bool, metric: &str| {
        quantize(&fixture, &fixture.path("model"), |config| {
            let rows = |path: &Path| json!({"path": path, "uri": "file:///texts", "text": "text", "label": "label"});
            config["quantization"] = "INT4".into();
            config["groupSize"] = 32.into();
            config["output"] = fixture.path(output).to_str().unwrap().into();
            config["gate"] = json!({"data": rows(&judged), "metric": metric, "maxDrop": 1.0});
            if calibrate {
                let path = fixture.path("calibration.jsonl");
                config["calibration"] = json!({"data": rows(&path), "maxRows": 32});
            }
        })
    };
    let plain = run("plain", false, "loss");
    assert_eq!(plain.exit_code, 0, "{}", plain.result.message);
    let calibrated = run("calibrated", true, "loss");
    assert_eq!(calibrated.exit_code, 0, "{}", calibrated.result.message);

    // It answers more like the original, on texts that it was not calibrated with.
    let logits = |directory: &Path| {
        let model = hearth_worker::quantize::load(directory, Device::Cpu).unwrap();
        let encoder = TextEncoder::load(&fixture.path("model"), Cleaning::default(), 64).unwrap();
        let ids: Vec<i64> = encoder
            .encode("win the report to lunch we cash a prize")
            .unwrap()
            .iter()
            .map(|id| i64::from(*id))
            .collect();
        let ids = Tensor::from_slice(&ids).unsqueeze(0);
        let tokens = ids.size()[1];
        let pass = Pass::decoder(model.network(), tokens, Device::Cpu, Dropout::Off).unwrap();
        tch::no_grad(|| model.forward(&ids, &pass).unwrap())
    };
    let exact = logits(&fixture.path("model"));
    let error = |output: &str| {
        let near = logits(&fixture.path(output));
        f64::try_from((&exact - near).norm() / exact.norm()).unwrap()
    };
    let (plain, calibrated) = (error("plain"), error("calibrated"));
    assert!(calibrated < 0.9 * plain, "{calibrated} calibrated, {plain} without");
    let config = json_of(fixture.path("calibrated/config.json"));
    // 48 columns are no multiple of a group.
    let kept = json!(["lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]);
    assert_eq!(config["quantization_config"]["ignore"], kept);

    let refused = run("f1", false, "f1");
    assert_eq!(refused.exit_code, 64);
    assert!(refused.result.message.contains("loss or accuracy"), "{}", refused.result.message);

    // Of int8, calibration smooths, and what is written computes the same to int8's error.
    let smoothed = quantize(&fixture, &fixture.path("model"), |config| {
        let path = fixture.path("calibration.jsonl");
        let rows = json!({"path": path, "uri": "file:///texts", "text": "text", "label": "label"});
        config["quantization"] = "INT8".into();
        config["output"] = fixture.path("smoothed").to_str().unwrap().into();
        config["calibration"] = json!({"data": rows, "maxRows": 32});
        config["gate"] = Value::Null;
    });
    assert_eq!(smoothed.exit_code, 0, "{}", smoothed.result.message);
    let error = error("smoothed");
    assert!(error > 0.0 && error < 0.1, "{error}");
    let norms = |of: &str| {
        let tensors = Tensor::read_safetensors(fixture.path(of).join("model.safetensors")).unwrap();
        let norm = |(name, _): &(String, Tensor)| name == "model.layers.0.input_layernorm.weight";
        tensors.into_iter().find(norm).unwrap().1
    };
    assert!(!norms("smoothed").equal(&norms("model")), "nothing was smoothed");
}

#[test]
fn what_cannot_be_done_is_refused_with_what_can() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 2);
    let missing = quantize(&fixture, &fixture.path("nowhere"), |_| ());
    assert_eq!((missing.exit_code, missing.result.reason.as_str()), (66, "MissingInput"));

    assert_eq!(quantize(&fixture, &dense, |config| config["gate"] = Value::Null).exit_code, 0);
    let twice = quantize(&fixture, &fixture.path("int8"), |_| ());
    assert_eq!(twice.exit_code, 64);
    assert!(twice.result.message.contains("compressed already"), "{}", twice.result.message);
}

/// Byte-level BPE in place of a fixture's tokenizer: letters, and two merges.
fn byte_level_tokenizer() -> Value {
    let mut vocabulary = serde_json::Map::new();
    let letters = "abcdefghijklmnopqrstuvwxyz.".chars().map(String::from);
    let all = ["<s>", "</s>", "Ġ"].map(String::from).into_iter().chain(letters);
    for (id, token) in all.chain(["th".into(), "the".into()]).enumerate() {
        vocabulary.insert(token, id.into());
    }
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": [["t", "h"], ["th", "e"]]}
    })
}

#[test]
fn a_gguf_file_is_read_back_as_the_model_that_was_written() {
    for (family, biased) in [("llama", false), ("qwen2", true), ("qwen3", false)] {
        let fixture = language_model(family);
        fixture.write("model/tokenizer.json", &byte_level_tokenizer().to_string());
        let settings = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ x }}"});
        fixture.write("model/tokenizer_config.json", &settings.to_string());
        let judged =
            fixture.write("texts.jsonl", &"{\"text\": \"the other thing is the.\"}\n".repeat(4));
        let run = quantize(&fixture, &fixture.path("model"), |config| {
            config["quantization"] = "Q8_0".into();
            config["output"] = fixture.path("gguf").to_str().unwrap().into();
            let rows =
                json!({"path": judged, "uri": "file:///texts", "text": "text", "label": "label"});
            config["gate"] = json!({"data": rows, "metric": "loss", "maxDrop": 0.05});
        });
        assert_eq!(run.exit_code, 0, "{family}: {}", run.result.message);
        let report = run.result.compression.unwrap();
        let file = fixture.path("gguf/model.gguf");
        let bytes = i64::try_from(std::fs::metadata(&file).unwrap().len()).unwrap();
        assert_eq!(report.size_after_bytes, bytes);
        assert!(report.metric_before != report.metric_after, "{family}: nothing was rounded");

        // The file alone is the model, with its tokenizer.
        let alone = fixture.path("alone");
        hearth_worker::import::import(&file, &alone, Precision::F32).unwrap();
        let ids: Vec<i64> = (0..12).map(|place| (place * 7 + 3) % 30).collect();
        let ids = Tensor::from_slice(&ids).unsqueeze(0);
        let logits = |directory: &Path| {
            let model = hearth_worker::quantize::load(directory, Device::Cpu).unwrap();
            let pass = Pass::decoder(model.network(), 12, Device::Cpu, Dropout::Off).unwrap();
            tch::no_grad(|| model.forward(&ids, &pass).unwrap())
        };
        let (exact, near) = (logits(&fixture.path("model")), logits(&fixture.path("gguf")));
        let error = f64::try_from((&exact - &near).norm() / exact.norm()).unwrap();
        assert!(error > 0.0 && error < 0.03, "{family}: relative error {error}");
        // In 8 bits, and as the floats that these stand for.
        let error = f64::try_from((logits(&alone) - &near).norm() / near.norm()).unwrap();
        assert!(error < 1e-4, "{family}: relative error {error}");
        let biases = std::fs::read(&file).unwrap();
        let has = |name: &[u8]| biases.windows(name.len()).any(|window| window == name);
        assert_eq!(has(b"blk.0.attn_q.bias"), biased, "{family}");
        let tokenizer = |directory: &str| {
            let path = fixture.path(directory).join("tokenizer.json");
            let tokenizer = tokenizers::Tokenizer::from_file(path).unwrap();
            let ids = tokenizer.encode("<s>the other thing.</s>", false).unwrap();
            ids.get_ids().to_vec()
        };
        assert_eq!(tokenizer("alone"), tokenizer("model"), "{family}");
        assert_eq!(json_of(alone.join("tokenizer_config.json"))["chat_template"], "{{ x }}");
    }
}

#[test]
fn what_has_no_place_in_a_gguf_file_is_refused() {
    let refused = |fixture: &Fixture, model: &Path| {
        let run = quantize(fixture, model, |config| {
            config["quantization"] = "Q4_K_M".into();
            config["gate"] = Value::Null;
        });
        assert_eq!(run.exit_code, 64, "{}", run.result.message);
        assert!(!fixture.path("int8").exists());
        run.result.message
    };
    let classifier = Fixture::new(0.0);
    let dense = trained::model(&classifier, 2);
    let message = refused(&classifier, &dense);
    assert!(message.contains("only language models"), "{message}");
    let words = language_model("llama");
    let message = refused(&words, &words.path("model"));
    assert!(message.contains("byte-level BPE"), "{message}");
    let biased = language_model("llama-tied-biased");
    let message = refused(&biased, &biased.path("model"));
    assert!(message.contains("o_proj.bias has no place"), "{message}");
}
