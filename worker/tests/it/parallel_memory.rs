//! What ranks hold: activations that are made anew, and parts of weights, gradients and moments.

use std::fs;
use std::path::Path;

use hearth_crds::training_job::Parallelism;
use hearth_worker::checkpoint::shard;
use hearth_worker::model::{Dropout, Head, ModelConfig, Pass, load_for_training};
use hearth_worker::parallel::chain::Recipe;
use hearth_worker::parallel::{Chain, Layout};
use nccl_rs::Mesh;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};
use crate::ways::{ALONE, Ways, config, export_gap, farthest, language_model, losses, run, saving};

#[test]
fn activations_made_anew_change_no_bit() {
    let fixture = Fixture::new(0.1);
    let plain = Ways { accumulation: 2, ..ALONE };
    for (name, setting, value) in [
        ("dropout", "seed", json!(7)),
        ("bf16", "bf16", json!(true)),
        ("adafactor", "optim", json!("Adafactor")),
    ] {
        let run = |output: &str, recompute: bool| {
            let config = config(&fixture, output, plain, |config| {
                saving(config);
                config["training"][setting] = value.clone();
                config["training"]["gradientCheckpointing"] = recompute.into();
            });
            Gang::run(&config, 1).succeeded().losses()
        };
        let (plain, again) = (format!("{name}-plain"), format!("{name}-again"));
        assert_eq!(run(&plain, false), run(&again, true), "{name}");
        assert!(export_gap(&fixture, &plain, &again) == 0.0, "{name}");
    }
}

#[test]
fn copies_with_activations_made_anew_average_in_another_way() {
    let fixture = Fixture::new(0.1);
    let ways = Ways { ranks: 2, accumulation: 2, ..ALONE };
    let plain = losses(&run(&fixture, "plain", ways));
    let recomputed = |config: &mut Value| {
        config["training"]["gradientCheckpointing"] = true.into();
    };
    let again = Gang::run(&config(&fixture, "again", ways, recomputed), 2).succeeded();
    assert!(farthest(&plain, &losses(&again)) <= 1e-6);
}

/// Bytes that a forward pass of 4096 tokens leaves for backward.
fn kept_bytes(directory: &Path, recompute: bool) -> f64 {
    let config = ModelConfig::read(directory).unwrap();
    let (mut model, _) =
        load_for_training(&config, directory, Head::CausalLm, Device::Cpu, 7).unwrap();
    let layout = Layout::new(&Parallelism::default(), 0, 1).unwrap();
    let recipe = Recipe { recompute, precision: None };
    let alone = |_: &Mesh, _: &str, _: &[&str]| unreachable!("one rank has no groups");
    let chain = Chain::new(&mut model, layout, &alone, recipe).unwrap();
    let ids = Tensor::arange(4096, (Kind::Int64, Device::Cpu)).remainder(48).view([64, 64]);
    let pass = Pass::decoder(model.network(), 64, Device::Cpu, Dropout::On).unwrap();
    let resident = || -> f64 {
        let pages = fs::read_to_string("/proc/self/statm").unwrap();
        pages.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
    };
    let before = resident();
    chain.begin_pass();
    let loss = model.forward(&ids, &pass).unwrap().square().mean(Kind::Float);
    let kept = resident() - before;
    chain.backward(model.network(), Some(&loss), true).unwrap();
    assert!(model.trainable().iter().all(|parameter| parameter.tensor.grad().defined()));
    kept
}

#[test]
fn activations_made_anew_take_a_part_of_the_memory() {
    let fixture = language_model("llama");
    deep_model(&fixture);
    tch::set_num_threads(1);
    // The first run brings libtorch's code into memory.
    kept_bytes(&fixture.path("model"), true);
    let again = kept_bytes(&fixture.path("model"), true);
    let plain = kept_bytes(&fixture.path("model"), false);
    eprintln!("activations: {plain:.2e} bytes, made anew {again:.2e}: {:.3}", again / plain);
    assert!(plain > 2e7 && again < 0.3 * plain, "{again} of {plain} bytes");
}

/// A Llama of 12 layers, each with a fourteenth of the weights.
fn deep_model(fixture: &Fixture) {
    let text = fs::read_to_string(fixture.path("model/config.json")).unwrap();
    let mut settings: Value = serde_json::from_str(&text).unwrap();
    settings["num_hidden_layers"] = 12.into();
    fixture.write("model/config.json", &settings.to_string());
    let weight = |index: usize, shape: &[i64]| {
        let count: i64 = shape.iter().product();
        let wave = Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.7 + index as f64;
        (wave.sin() * 0.1).reshape(shape)
    };
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[i64]| {
        let values = if name.ends_with("norm.weight") {
            Tensor::ones(shape, (Kind::Float, Device::Cpu))
        } else {
            weight(tensors.len(), shape)
        };
        tensors.push((name, values));
    };
    add("model.embed_tokens.weight".into(), &[48, 32]);
    for layer in 0..12 {
        for (part, shape) in [
            ("input_layernorm", &[32][..]),
            ("self_attn.q_proj", &[32, 32]),
            ("self_attn.k_proj", &[16, 32]),
            ("self_attn.v_proj", &[16, 32]),
            ("self_attn.o_proj", &[32, 32]),
            ("post_attention_layernorm", &[32]),
            ("mlp.gate_proj", &[48, 32]),
            ("mlp.up_proj", &[48, 32]),
            ("mlp.down_proj", &[32, 48]),
        ] {
            add(format!("model.layers.{layer}.{part}.weight"), shape);
        }
    }
    add("model.norm.weight".into(), &[32]);
    add("lm_head.weight".into(), &[48, 32]);
    shard::write(&fixture.path("model/model.safetensors"), &tensors, &[]).unwrap();
}

/// Bytes between steps, and the most besides, as the ranks tell.
fn bytes(ended: &Ended) -> (f64, f64) {
    let figure = |line: &str, name: &str| -> Option<f64> {
        line.split_once(&format!("{name}="))?.1.split_whitespace().next()?.parse().ok()
    };
    let told = ended.log.lines().filter(|line| line.contains("bytes of parameters"));
    let figures = told.filter_map(|line| Some((figure(line, "held")?, figure(line, "besides")?)));
    figures.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1))).expect("ranks tell their bytes")
}

#[test]
fn fully_sharded_ranks_hold_a_part_of_the_bytes() {
    let fixture = language_model("llama");
    deep_model(&fixture);
    let short = |config: &mut Value| config["training"]["maxSteps"] = 3.into();
    let of = |sharding: &'static str| {
        let ways = Ways { sharding, ranks: 4, ..ALONE };
        let config = config(&fixture, sharding, ways, short);
        bytes(&Gang::run(&config, 4).succeeded())
    };
    let (ddp, _) = of("None");
    for (sharding, most) in [("Optimizer", 0.5), ("Gradients", 0.5), ("Full", 0.35)] {
        let (held, besides) = of(sharding);
        eprintln!(
            "{sharding}: {:.3} of DDP's bytes between steps, {:.3} at most",
            held / ddp,
            (held + besides) / ddp
        );
        assert!(held <= most * ddp, "{sharding}: {held} of {ddp} bytes");
        if sharding == "Full" {
            assert!(held + besides <= 0.35 * ddp, "{held} and {besides} of {ddp} bytes");
        }
    }
}
