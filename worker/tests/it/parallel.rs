//! Every way to share a model among ranks makes the losses of one rank, its checkpoints are taken
//! up by every other way, and full sharding holds a part of the bytes.

use std::fs;
use std::path::Path;

use hearth_crds::training_job::Parallelism;
use hearth_worker::checkpoint::shard;
use hearth_worker::event::{EvalMetrics, RankEvent};
use hearth_worker::model::{Dropout, Head, ModelConfig, Pass, load_for_training};
use hearth_worker::parallel::chain::Recipe;
use hearth_worker::parallel::{Chain, Layout};
use nccl_rs::Mesh;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};
use crate::parity_families;

const STEPS: usize = 20;
/// Samples of a step, however many ranks there are.
const BATCH: usize = 16;

/// A tiny model of a family, and rows that ask and answer.
fn language_model(family: &str) -> Fixture {
    let fixture = Fixture::new(0.0);
    parity_families::put(family, &fixture.path("model"));
    let settings = json!({"eos_token": "[SEP]", "pad_token": "[PAD]"});
    fixture.write("model/tokenizer_config.json", &settings.to_string());
    let words = ["win", "cash", "prize", "free", "the", "a", "to", "you", "we", "report", "lunch"];
    let rows: Vec<String> = (0..64)
        .map(|row| {
            let word = |place: usize| words[(row * 5 + place * place * 3) % words.len()];
            let answer: Vec<&str> = (2..3 + row % 6).map(word).collect();
            let asked = format!("{} {}", word(0), word(1));
            json!({"prompt": asked, "completion": format!(" {}", answer.join(" "))}).to_string()
        })
        .collect();
    fixture.write("train.jsonl", &rows.join("\n"));
    fixture
}

/// How ranks share a model.
#[derive(Clone, Copy, Debug)]
struct Ways {
    sharding: &'static str,
    tensor: usize,
    pipeline: usize,
    expert: usize,
    ranks: usize,
    accumulation: usize,
}

const ALONE: Ways =
    Ways { sharding: "None", tensor: 1, pipeline: 1, expert: 1, ranks: 1, accumulation: 1 };

impl Ways {
    fn shares(self) -> usize {
        self.ranks / self.tensor / self.pipeline
    }
}

/// The configuration of a run of 20 steps.
fn config(
    fixture: &Fixture,
    output: &str,
    ways: Ways,
    change: impl Fn(&mut Value),
) -> std::path::PathBuf {
    fixture.config(output, |config| {
        let architecture = fs::read_to_string(fixture.path("model/config.json")).unwrap();
        if !architecture.contains("\"bert\"") {
            config["task"] = "CausalLM".into();
            config["objective"] = json!({"type": "SFT"});
        }
        config["training"]["maxSteps"] = STEPS.into();
        config["training"]["learningRate"] = 5e-3.into();
        config["training"]["weightDecay"] = 0.1.into();
        config["training"]["saveStrategy"] = "No".into();
        config["training"]["gradientAccumulationSteps"] = ways.accumulation.into();
        config["training"]["perDeviceTrainBatchSize"] =
            (BATCH / ways.shares() / ways.accumulation).into();
        config["parallelism"] = json!({
            "sharding": ways.sharding, "tensor": ways.tensor, "pipeline": ways.pipeline,
            "expert": ways.expert
        });
        change(config);
    })
}

fn run(fixture: &Fixture, output: &str, ways: Ways) -> Ended {
    Gang::run(&config(fixture, output, ways, |_| ()), ways.ranks).succeeded()
}

fn losses(ended: &Ended) -> Vec<f64> {
    ended.losses().into_iter().map(|(_, loss)| loss).collect()
}

fn farthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Each way's losses and export are those of one rank.
fn equal_one_rank(family: &str, all: &[Ways]) {
    let fixture = language_model(family);
    let one = run(&fixture, "one", ALONE);
    let want = losses(&one);
    assert_eq!(want.len(), STEPS);
    assert!(want[STEPS - 1] < 0.9 * want[0], "{want:?}");
    for (index, ways) in all.iter().enumerate() {
        let output = format!("ways-{index}");
        let got = run(&fixture, &output, *ways);
        let gap = farthest(&want, &losses(&got));
        let weights = export_gap(&fixture, "one", &output);
        eprintln!("{family} {ways:?}: losses differ by {gap:.1e}, weights by {weights:.1e}");
        assert!(gap <= 1e-4, "{ways:?}: losses differ by {gap:e}");
        assert!(weights <= 2e-3, "{ways:?}: exports differ by {weights:e}");
    }
}

/// The largest difference of two exports' weights.
fn export_gap(fixture: &Fixture, first: &str, second: &str) -> f64 {
    let read = |output: &str| {
        let path = fixture.path(output).join("model/model.safetensors");
        let mut tensors = Tensor::read_safetensors(path).unwrap();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    };
    let (first, second) = (read(first), read(second));
    assert_eq!(first.len(), second.len());
    let gaps = first.iter().zip(&second).map(|(first, second)| {
        assert_eq!((&first.0, first.1.size()), (&second.0, second.1.size()));
        // Softmax does not see it: its gradient is rounding, which Adam blows up.
        if first.0.ends_with("k_proj.bias") {
            return 0.0;
        }
        f64::try_from((&first.1 - &second.1).abs().max()).unwrap()
    });
    gaps.fold(0.0, f64::max)
}

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

#[test]
fn sharded_ranks_equal_one() {
    let full = Ways { sharding: "Full", ranks: 2, accumulation: 2, ..ALONE };
    let all = [
        Ways { sharding: "Optimizer", ..full },
        Ways { sharding: "Gradients", ranks: 4, ..full },
        full,
        Ways { ranks: 4, accumulation: 1, ..full },
    ];
    equal_one_rank("llama", &all);
}

#[test]
fn sharded_models_with_tied_embeddings_and_with_experts_equal_one_rank() {
    let two = Ways { sharding: "Full", ranks: 2, ..ALONE };
    equal_one_rank("llama-tied-biased", &[two, Ways { sharding: "Gradients", ..two }]);
    equal_one_rank("deepseek", &[two, Ways { sharding: "Optimizer", ..two }]);
}

#[test]
fn adapters_learn_beside_a_base_that_is_sharded() {
    let fixture = language_model("llama");
    let adapted = |output: &str, ways: Ways, recompute: bool| {
        let config = config(&fixture, output, ways, |config| {
            config["peft"] = json!({"r": 4, "loraAlpha": 16, "useDora": true});
            config["training"]["gradientCheckpointing"] = recompute.into();
        });
        losses(&Gang::run(&config, ways.ranks).succeeded())
    };
    let want = adapted("one", ALONE, false);
    assert!(want[STEPS - 1] < 0.95 * want[0], "{want:?}");
    let full = Ways { sharding: "Full", ranks: 2, ..ALONE };
    for (output, recompute) in [("kept", false), ("again", true)] {
        let gap = farthest(&want, &adapted(output, full, recompute));
        let weights = export_gap(&fixture, "one", output);
        eprintln!("adapters, {output}: losses differ by {gap:.1e}, weights by {weights:.1e}");
        assert!(gap <= 1e-4 && weights <= 2e-3, "{output}: {gap:e}, {weights:e}");
    }
}

#[test]
fn split_layers_equal_whole_ones() {
    let two = Ways { tensor: 2, ranks: 2, ..ALONE };
    equal_one_rank("llama", &[two, Ways { ranks: 4, accumulation: 2, ..two }]);
    equal_one_rank("deepseek", &[Ways { tensor: 4, ranks: 4, ..ALONE }]);
}

#[test]
fn split_layers_of_every_kind_of_attention_equal_whole_ones() {
    let two = Ways { tensor: 2, ranks: 2, ..ALONE };
    for family in ["llama-tied-biased", "qwen3", "deepseek-v2-lite", "deepseek-v3"] {
        equal_one_rank(family, &[two]);
    }
}

#[test]
fn stages_on_several_ranks_equal_one() {
    let two = Ways { pipeline: 2, ranks: 2, accumulation: 4, ..ALONE };
    let four = Ways { pipeline: 4, ranks: 4, accumulation: 8, ..ALONE };
    equal_one_rank("llama", &[two, four, Ways { ranks: 4, accumulation: 2, ..two }]);
}

#[test]
fn experts_on_several_ranks_equal_one() {
    let two = Ways { expert: 2, ranks: 2, ..ALONE };
    let all = [
        two,
        Ways { expert: 4, ranks: 4, ..ALONE },
        Ways { ranks: 4, accumulation: 2, ..two },
        Ways { sharding: "Full", ranks: 4, ..two },
    ];
    equal_one_rank("deepseek", &all);
}

#[test]
fn products_of_ways_equal_one_rank() {
    let full = Ways { sharding: "Full", ranks: 4, accumulation: 2, ..ALONE };
    equal_one_rank(
        "llama",
        &[
            Ways { tensor: 2, ..full },
            Ways { pipeline: 2, ..full },
            Ways { tensor: 2, pipeline: 2, sharding: "None", ..full },
        ],
    );
}

#[test]
fn experts_with_split_layers_and_with_stages_equal_one_rank() {
    let four = Ways { expert: 2, ranks: 4, accumulation: 2, ..ALONE };
    let ways = [Ways { tensor: 2, ..four }, Ways { pipeline: 2, ..four }];
    equal_one_rank("deepseek", &ways);
}

#[test]
fn an_encoder_is_split_and_evaluated_alike() {
    let fixture = Fixture::new(0.0);
    let evaluated = |config: &mut Value| {
        // 19 rows to evaluate on, in batches of 4: the ranks' numbers of batches differ.
        config["data"]["evalSplit"] = 0.2.into();
        config["training"]["perDeviceEvalBatchSize"] = 4.into();
        config["training"]["evalStrategy"] = "Steps".into();
        config["training"]["evalSteps"] = 10.into();
    };
    let metrics = |output: &str, ways: Ways| -> (Vec<f64>, Vec<EvalMetrics>) {
        let config = config(&fixture, output, ways, evaluated);
        let ended = Gang::run(&config, ways.ranks).succeeded();
        let metrics = ended.of_rank_0(|event| match event {
            RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
            _ => None,
        });
        (losses(&ended), metrics)
    };
    let (want, told) = metrics("one", ALONE);
    assert_eq!(told.len(), 2);
    for (index, ways) in [
        Ways { sharding: "Full", ranks: 2, ..ALONE },
        Ways { tensor: 2, ranks: 2, ..ALONE },
        Ways { pipeline: 2, ranks: 2, accumulation: 2, ..ALONE },
    ]
    .into_iter()
    .enumerate()
    {
        let (got, metrics) = metrics(&format!("ways-{index}"), ways);
        let gap = farthest(&want, &got);
        assert!(gap <= 1e-4, "{ways:?}: losses differ by {gap:e}");
        assert_eq!(metrics.len(), told.len());
        for (metrics, told) in metrics.iter().zip(&told) {
            assert_eq!((metrics.samples, metrics.accuracy), (told.samples, told.accuracy));
            assert!((metrics.loss - told.loss).abs() < 1e-4, "{ways:?}: {metrics:?}");
        }
    }
}

fn saving(config: &mut Value) {
    config["training"]["saveStrategy"] = "Steps".into();
    config["training"]["saveSteps"] = 5.into();
    config["keepCheckpoints"] = 10.into();
}

/// Takes up `from`'s checkpoint of `step` in another way; the losses after it.
fn go_on(fixture: &Fixture, (from, step): (&str, i64), output: &str, ways: Ways) -> Vec<f64> {
    let checkpoint = format!("checkpoints/step-{step}");
    copy(&fixture.path(from).join(&checkpoint), &fixture.path(output).join(&checkpoint));
    // The settings of the run are the first one's; the number of ranks may be any.
    let text = fs::read_to_string(fixture.path(&format!("{from}.json"))).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    document["output"] = json!(fixture.path(output));
    document["parallelism"] = json!({
        "sharding": ways.sharding, "tensor": ways.tensor, "pipeline": ways.pipeline,
        "expert": ways.expert
    });
    let config = fixture.write(&format!("{output}.json"), &document.to_string());
    let ended = Gang::run(&config, ways.ranks).succeeded();
    assert_eq!(ended.resumed_from(), Some(step));
    losses(&ended)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn checkpoints_of_any_way_are_taken_up_by_any_other() {
    let fixture = language_model("deepseek");
    // All learn from two shares of a batch at a time, so that steps are the same.
    let full = Ways { sharding: "Full", ranks: 2, ..ALONE };
    let file = config(&fixture, "full", full, saving);
    let whole = losses(&Gang::run(&file, 2).succeeded());
    let others = [
        Ways { ranks: 2, ..ALONE },
        Ways { sharding: "Optimizer", tensor: 2, ranks: 4, ..ALONE },
        Ways { expert: 2, pipeline: 2, ranks: 4, ..ALONE },
        full,
    ];
    let mut from = ("full".to_owned(), 5);
    for (index, ways) in others.into_iter().enumerate() {
        let output = format!("ways-{index}");
        let rest = go_on(&fixture, (&from.0, from.1), &output, ways);
        let gap = farthest(&whole[usize::try_from(from.1).unwrap()..], &rest);
        eprintln!("{from:?} -> {ways:?}: losses differ by {gap:.1e}");
        assert!(gap <= 1e-4, "{from:?} -> {ways:?}: losses differ by {gap:e}");
        if from.1 < 15 {
            from = (output, from.1 + 5);
        }
    }
}

#[test]
fn four_ranks_become_two_and_four_again() {
    let fixture = language_model("llama");
    let mut runs = Vec::new();
    for sharding in ["None", "Full"] {
        let four = Ways { sharding, ranks: 4, ..ALONE };
        let two = Ways { ranks: 2, ..four };
        let name = |stage: &str| format!("{sharding}-{stage}");
        let file = config(&fixture, &name("first"), four, saving);
        let mut all = losses(&Gang::run(&file, 4).succeeded());
        all.truncate(10);
        let mut shrunk = go_on(&fixture, (&name("first"), 10), &name("shrunk"), two);
        shrunk.truncate(5);
        all.extend(shrunk);
        all.extend(go_on(&fixture, (&name("shrunk"), 15), &name("grown"), four));
        runs.push(all);
    }
    assert_eq!(runs[0].len(), STEPS);
    let gap = farthest(&runs[0], &runs[1]);
    eprintln!("4 -> 2 -> 4 ranks: losses differ by {gap:.1e}");
    assert!(gap <= 1e-4, "losses differ by {gap:e}");
}

#[test]
fn a_killed_run_of_sharded_ranks_goes_on_bit_for_bit() {
    let fixture = language_model("llama");
    let ways = Ways { sharding: "Full", ranks: 2, ..ALONE };
    let whole = Gang::run(&config(&fixture, "whole", ways, saving), 2).succeeded().losses();
    let file = config(&fixture, "killed", ways, saving);
    let mut gang = Gang::start(&file, 2);
    gang.until(|_, event| matches!(event, RankEvent::Checkpoint { step: 10, .. }));
    gang.kill();
    let rest = Gang::run(&file, 2).succeeded();
    assert!(rest.resumed_from().is_some_and(|step| step >= 10));
    let rest = rest.losses();
    assert_eq!(rest, whole[whole.len() - rest.len()..], "bit for bit");
    assert!(export_gap(&fixture, "whole", "killed") == 0.0);
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

#[test]
fn what_cannot_be_split_is_refused_with_the_reason() {
    let fixture = language_model("llama-tied-biased");
    let refused = |output: &str, ways: Ways| {
        let ended = Gang::run(&config(&fixture, output, ways, |_| ()), ways.ranks);
        assert!(
            ended.codes.iter().all(|code| *code == Some(64)),
            "{:?}\n{}",
            ended.codes,
            ended.log
        );
        ended.failure().1
    };
    for (output, ways, named) in [
        ("tied", Ways { pipeline: 2, ranks: 2, ..ALONE }, "tie_word_embeddings"),
        ("heads", Ways { tensor: 4, ranks: 4, ..ALONE }, "num_key_value_heads"),
        ("experts", Ways { expert: 2, ranks: 2, ..ALONE }, "0 experts"),
    ] {
        let sentence = refused(output, ways);
        assert!(sentence.contains(named), "{sentence}");
    }
    let split = |config: &mut Value| config["parallelism"]["tensor"] = 2.into();
    let ended = Gang::run(&config(&fixture, "alone", ALONE, split), 1);
    let sentence = ended.failure().1;
    assert!(sentence.starts_with("parallelism: "), "{sentence}");
}
