//! Weights that are taken away: which go, what stays exactly as it was, and that training, rounding
//! and resuming leave zeros zero.

use std::path::{Path, PathBuf};

use hearth_worker::config::{Config, read};
use hearth_worker::model::{self, Dropout, Pass, Weights};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::quantize::quantize;
use crate::trained;
use crate::ways::{self, ALONE, Ways, export_gap, farthest, language_model, losses};

const QUERY: &str = "bert.encoder.layer.0.attention.self.query.weight";

fn half() -> Value {
    json!({"type": "Unstructured", "sparsity": 0.5})
}

fn tensor(directory: &Path, name: &str) -> Tensor {
    Weights::read(directory, "").unwrap().get(name).unwrap().to_kind(Kind::Float)
}

fn zeros(weight: &Tensor) -> Tensor {
    weight.eq(0.0)
}

fn share(marks: &Tensor) -> f64 {
    f64::try_from(marks.to_kind(Kind::Float).mean(Kind::Float)).unwrap()
}

fn config_of(directory: &Path) -> Value {
    let text = std::fs::read_to_string(directory.join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_smallest_half_becomes_zero_and_the_rest_stays() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 60);
    let run = quantize(&fixture, &dense, |config| {
        config["quantization"] = "FP32".into();
        config["pruning"] = half();
        config["gate"]["maxDrop"] = 1.0.into();
    });
    assert_eq!(run.exit_code, 0, "{}", run.result.message);
    assert!(run.result.message.starts_with("pruned weight by weight"), "{}", run.result.message);
    let report = run.result.compression.unwrap();
    assert!((report.sparsity.unwrap() - 0.5).abs() < 1e-6, "{report:?}");
    let (before, after) = (tensor(&dense, QUERY), tensor(&fixture.path("int8"), QUERY));
    let gone = zeros(&after);
    assert!((share(&gone) - 0.5).abs() < 1e-9);
    let largest_gone = f64::try_from(before.abs().masked_select(&gone).max()).unwrap();
    let smallest_left =
        f64::try_from(before.abs().masked_select(&gone.logical_not()).min()).unwrap();
    assert!(largest_gone <= smallest_left, "{largest_gone} went, {smallest_left} stayed");
    let kept = before.masked_fill(&gone, 0.0);
    assert!(kept.equal(&after));
    // Heads stay whole.
    let classifier = tensor(&fixture.path("int8"), "classifier.weight");
    assert!(classifier.equal(&tensor(&dense, "classifier.weight")));
}

#[test]
fn rounding_by_calibration_leaves_two_of_four_zero() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 20);
    fixture.write("calibration.jsonl", &crate::fixture::rows(40));
    for quantization in ["INT8", "INT8WeightOnly", "INT4"] {
        let run = quantize(&fixture, &dense, |config| {
            config["quantization"] = quantization.into();
            config["groupSize"] = 32.into();
            config["pruning"] = json!({"type": "SemiStructured"});
            config["gate"]["maxDrop"] = 1.0.into();
            config["calibration"] = json!({"maxRows": 32, "data": {
                "path": fixture.path("calibration.jsonl"), "uri": "file:///calibration.jsonl",
                "text": "text", "label": "label"
            }});
        });
        assert_eq!(run.exit_code, 0, "{quantization}: {}", run.result.message);
        let sparsity = run.result.compression.as_ref().and_then(|report| report.sparsity);
        assert_eq!(sparsity, Some(0.5), "{quantization}");
        let served = hearth_worker::quantize::load(&fixture.path("int8"), Device::Cpu).unwrap();
        drop(served);
        if quantization == "INT8" {
            let numbers = tensor(&fixture.path("int8"), QUERY);
            let fours = zeros(&numbers).view([-1, 4]).sum_dim_intlist(1, false, Kind::Int64);
            let least = i64::try_from(fours.min()).unwrap();
            assert!(least >= 2, "a group of four has {least} zeros");
            assert!(share(&zeros(&numbers)) < 0.6);
        }
    }
}

/// The directory `name` with `change` applied to its tensors.
fn changed(
    fixture: &Fixture,
    (from, name): (&Path, &str),
    change: impl Fn(&str, &Tensor) -> Tensor,
) -> PathBuf {
    let to = fixture.path(name);
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    let tensors = Tensor::read_safetensors(from.join("model.safetensors")).unwrap();
    let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.clone(), change(name, t))).collect();
    Tensor::write_safetensors(&tensors, to.join("model.safetensors")).unwrap();
    to
}

fn next_tokens(directory: &Path) -> Tensor {
    let model = model::load(directory, Device::Cpu).unwrap();
    let ids = Tensor::from_slice(&[4i64, 16, 8, 9, 3, 16, 17, 22]).view([1, 8]);
    let pass = Pass::decoder(model.network(), 8, Device::Cpu, Dropout::Off).unwrap();
    tch::no_grad(|| model.forward(&ids, &pass)).unwrap()
}

/// Heads and neurons whose every number is tiny are the ones that go, and without them a model
/// answers as before.
#[test]
fn what_goes_whole_is_what_the_model_did_not_use() {
    for family in ["llama", "qwen2", "qwen3"] {
        let fixture = language_model(family);
        let config = config_of(&fixture.path("model"));
        let number = |field: &str| config[field].as_i64();
        let neurons = number("intermediate_size").unwrap();
        let heads = number("num_attention_heads").unwrap();
        let groups = number("num_key_value_heads").unwrap();
        let size = number("head_dim").unwrap_or(number("hidden_size").unwrap() / heads);
        // The first group of heads, and every second neuron.
        let idle = changed(&fixture, (&fixture.path("model"), "idle"), |name, tensor| {
            let tensor = tensor.copy();
            let rows = |tensor: &Tensor, count: i64| tensor.narrow(0, 0, count).fill_(0.0);
            if name.contains("q_proj") {
                let _ = rows(&tensor, heads / groups * size);
            } else if name.contains("k_proj") || name.contains("v_proj") {
                let _ = rows(&tensor, size);
            } else if name.contains("o_proj.weight") {
                let _ = tensor.narrow(1, 0, heads / groups * size).fill_(0.0);
            } else if name.contains("gate_proj") || name.contains("up_proj") {
                let _ = tensor.slice(0, 0, None, 2).fill_(0.0);
            } else if name.contains("down_proj") {
                let _ = tensor.slice(1, 0, None, 2).fill_(0.0);
            }
            tensor
        });
        let run = quantize(&fixture, &idle, |config| {
            config["quantization"] = "FP32".into();
            config["gate"] = Value::Null;
            config["pruning"] = json!({
                "type": "Structured", "heads": 1.0 / groups as f64, "neurons": 0.5
            });
        });
        assert_eq!(run.exit_code, 0, "{family}: {}", run.result.message);
        let small = fixture.path("int8");
        let told = config_of(&small);
        assert_eq!(told["num_key_value_heads"], groups - 1, "{family}");
        assert_eq!(told["num_attention_heads"], heads - heads / groups, "{family}");
        assert_eq!(told["head_dim"], size, "{family}");
        let kept = told["intermediate_size"].as_i64().unwrap();
        assert!(kept < neurons, "{family}: {kept} of {neurons}");
        let report = run.result.compression.unwrap();
        assert!(report.size_after_bytes < report.size_before_bytes, "{family}");
        let gap = (next_tokens(&idle) - next_tokens(&small)).abs().max();
        let gap = f64::try_from(gap).unwrap();
        assert!(gap < 1e-5, "{family}: answers moved by {gap}");
        // Not only because nothing matters.
        let moved = (next_tokens(&fixture.path("model")) - next_tokens(&small)).abs().max();
        assert!(f64::try_from(moved).unwrap() > 1e-2, "{family}");
    }
}

#[test]
fn an_encoder_gets_narrower_and_keeps_its_heads() {
    let fixture = Fixture::new(0.0);
    let dense = trained::model(&fixture, 60);
    let wide = config_of(&dense)["intermediate_size"].as_i64().unwrap();
    let prune = |pruning: Value| {
        quantize(&fixture, &dense, |config| {
            config["quantization"] = "INT8".into();
            config["gate"]["maxDrop"] = 1.0.into();
            config["pruning"] = pruning;
        })
    };
    let run = prune(json!({"type": "Structured", "neurons": 0.5}));
    assert_eq!(run.exit_code, 0, "{}", run.result.message);
    let narrow = config_of(&fixture.path("int8"))["intermediate_size"].as_i64().unwrap();
    assert_eq!(narrow, wide / 2);
    assert!(run.result.compression.unwrap().sparsity.is_none());
    let refused = prune(json!({"type": "Structured", "heads": 0.5}));
    assert_eq!(refused.exit_code, 64, "{}", refused.result.message);
    assert!(refused.result.message.contains("pruning.neurons"), "{}", refused.result.message);
}

/// Zeros of the layer that all of these tests look at.
fn exported(fixture: &Fixture, output: &str) -> Tensor {
    tensor(&fixture.path(output).join("model"), QUERY)
}

#[test]
fn training_moves_what_is_left_and_nothing_else() {
    for (optim, recompute) in
        [("AdamW", false), ("AdamW", true), ("SGD", false), ("Adafactor", false)]
    {
        let fixture = Fixture::new(0.1);
        let before = tensor(&fixture.path("model"), "encoder.layer.0.attention.self.query.weight");
        let config = ways::config(&fixture, "job", ALONE, |config| {
            config["pruning"] = half();
            config["training"]["optim"] = optim.into();
            config["training"]["gradientCheckpointing"] = recompute.into();
        });
        let ended = Gang::run(&config, 1).succeeded();
        let told = losses(&ended);
        assert!(told[19] < told[0], "{optim}: {told:?}");
        let after = exported(&fixture, "job");
        let gone = zeros(&after);
        assert!((share(&gone) - 0.5).abs() < 1e-9, "{optim}: {}", share(&gone));
        let largest_gone = f64::try_from(before.abs().masked_select(&gone).max()).unwrap();
        let left = before.abs().masked_select(&gone.logical_not()).min();
        assert!(largest_gone <= f64::try_from(left).unwrap(), "{optim}");
        let moved = (&after - before.masked_fill(&gone, 0.0)).abs().max();
        assert!(f64::try_from(moved).unwrap() > 1e-4, "{optim}");
    }
}

#[test]
fn two_ranks_and_a_stop_in_the_middle_train_the_same_pruned_model() {
    let fixture = Fixture::new(0.0);
    let run = |output: &str, ways: Ways, stop: Option<u32>| {
        let config = ways::config(&fixture, output, ways, |config| {
            config["pruning"] = half();
            ways::saving(config);
            if let Some(step) = stop {
                config["stopAtStep"] = step.into();
            }
        });
        Gang::run(&config, ways.ranks).succeeded()
    };
    let whole = run("whole", ALONE, None);
    let two = run("two", Ways { ranks: 2, ..ALONE }, None);
    let gap = farthest(&losses(&whole), &losses(&two));
    assert!(gap < 1e-5, "{gap}");
    let (one, both) = (exported(&fixture, "whole"), exported(&fixture, "two"));
    assert!(zeros(&one).equal(&zeros(&both)));
    run("halves", ALONE, Some(10));
    run("halves", ALONE, None);
    let gap = export_gap(&fixture, "whole", "halves");
    assert!(gap <= 0.0, "{gap}");
}

#[test]
fn a_smaller_model_trains_on_whatever_ranks_share() {
    let fixture = language_model("llama");
    let run = |output: &str, ways: Ways| {
        let config = ways::config(&fixture, output, ways, |config| {
            config["pruning"] = json!({"type": "Structured", "heads": 0.5, "neurons": 0.5});
        });
        losses(&Gang::run(&config, ways.ranks).succeeded())
    };
    let alone = run("alone", ALONE);
    assert!(alone[19] < alone[0], "{alone:?}");
    let shared = run("shared", Ways { ranks: 2, sharding: "Full", ..ALONE });
    assert!(farthest(&alone, &shared) < 1e-4, "{}", farthest(&alone, &shared));
    let small = config_of(&fixture.path("alone").join("model"));
    let whole = config_of(&fixture.path("model"));
    for field in ["intermediate_size", "num_attention_heads", "num_key_value_heads"] {
        assert!(small[field].as_i64() < whole[field].as_i64(), "{field}: {small}");
    }
    assert!(model::load(&fixture.path("alone").join("model"), Device::Cpu).is_ok());
}

#[test]
fn zeros_are_kept_in_whole_layers_alone() {
    let fixture = Fixture::new(0.0);
    let ways = Ways { ranks: 2, sharding: "Full", ..ALONE };
    let config = ways::config(&fixture, "sharded", ways, |config| config["pruning"] = half());
    let refused = Config::follow(read(&config).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("pruning.type") && refused.contains("Structured"), "{refused}");
}
