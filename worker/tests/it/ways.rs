//! Ways to share a model among ranks, and runs of 20 steps to compare them by.

use std::fs;

use serde_json::{Value, json};
use tch::Tensor;

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};
use crate::parity_families;

pub(crate) const STEPS: usize = 20;
/// Samples of a step, however many ranks there are.
pub(crate) const BATCH: usize = 16;

/// A tiny model of a family, and rows that ask and answer.
pub(crate) fn language_model(family: &str) -> Fixture {
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
pub(crate) struct Ways {
    pub(crate) sharding: &'static str,
    pub(crate) tensor: usize,
    pub(crate) pipeline: usize,
    pub(crate) expert: usize,
    pub(crate) ranks: usize,
    pub(crate) accumulation: usize,
}

pub(crate) const ALONE: Ways =
    Ways { sharding: "None", tensor: 1, pipeline: 1, expert: 1, ranks: 1, accumulation: 1 };

impl Ways {
    pub(crate) fn shares(self) -> usize {
        self.ranks / self.tensor / self.pipeline
    }
}

/// The configuration of a run of 20 steps.
pub(crate) fn config(
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

pub(crate) fn run(fixture: &Fixture, output: &str, ways: Ways) -> Ended {
    Gang::run(&config(fixture, output, ways, |_| ()), ways.ranks).succeeded()
}

pub(crate) fn losses(ended: &Ended) -> Vec<f64> {
    ended.losses().into_iter().map(|(_, loss)| loss).collect()
}

pub(crate) fn farthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// The largest difference of two exports' weights.
pub(crate) fn export_gap(fixture: &Fixture, first: &str, second: &str) -> f64 {
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

pub(crate) fn saving(config: &mut Value) {
    config["training"]["saveStrategy"] = "Steps".into();
    config["training"]["saveSteps"] = 5.into();
    config["keepCheckpoints"] = 10.into();
}
