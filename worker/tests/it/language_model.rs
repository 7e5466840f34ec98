//! A decoder learns to continue texts and to answer: losses fall, two ranks equal one, a killed
//! run goes on bit for bit, and adapters are merged into what is exported.

use std::path::Path;

use hearth_worker::model::{self, Dropout, Pass};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::parity_families;

/// A fixture whose model is a tiny Qwen3 and whose rows ask and answer.
fn fixture() -> Fixture {
    let fixture = Fixture::new(0.0);
    parity_families::put("qwen3", &fixture.path("model"));
    let settings = json!({"eos_token": "[SEP]", "pad_token": "[PAD]"});
    fixture.write("model/tokenizer_config.json", &settings.to_string());
    let rows: Vec<String> = (0..64)
        .map(|row| {
            let (asked, answer) = if row % 2 == 0 {
                ("win the", "cash prize now")
            } else {
                ("we review", "the report")
            };
            json!({"prompt": asked, "completion": format!(" {answer}")}).to_string()
        })
        .collect();
    fixture.write("train.jsonl", &rows.join("\n"));
    fixture
}

fn answers(config: &mut Value) {
    config["task"] = "CausalLM".into();
    config["objective"] = json!({"type": "SFT"});
    config["training"]["maxSteps"] = 20.into();
    config["training"]["learningRate"] = 5e-3.into();
}

fn losses(fixture: &Fixture, output: &str, ranks: usize, change: impl Fn(&mut Value)) -> Vec<f64> {
    let config = fixture.config(output, |config| {
        answers(config);
        config["training"]["saveStrategy"] = "No".into();
        change(config);
    });
    Gang::run(&config, ranks).succeeded().losses().into_iter().map(|(_, loss)| loss).collect()
}

fn farthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn answers_are_learned_alike_by_one_rank_and_by_two() {
    let fixture = fixture();
    let one = losses(&fixture, "one", 1, |c| c["training"]["perDeviceTrainBatchSize"] = 8.into());
    let two = losses(&fixture, "two", 2, |_| ());
    assert!(one[19] < 0.3 * one[0], "{one:?}");
    let gap = farthest(&one, &two);
    assert!(gap <= 1e-4, "losses differ by {gap:e}");
}

#[test]
fn a_killed_run_of_adapters_goes_on_bit_for_bit_and_they_are_merged() {
    let fixture = fixture();
    let adapters = |config: &mut Value| {
        answers(config);
        config["peft"] = json!({"r": 4, "loraAlpha": 16, "loraDropout": 0.1, "useDora": true});
        config["training"]["saveSteps"] = 5.into();
    };
    let whole = Gang::run(&fixture.config("whole", adapters), 1).succeeded().losses();
    assert!(whole[19].1 < 0.9 * whole[0].1, "{whole:?}");

    let config = fixture.config("killed", adapters);
    let mut run = Gang::start(&config, 1);
    run.until(|_, event| matches!(event, hearth_worker::event::RankEvent::Checkpoint { .. }));
    run.until(|_, event| matches!(event, hearth_worker::event::RankEvent::Step(s) if s.step >= 12));
    run.kill();
    let rest = Gang::run(&config, 1).succeeded();
    assert!(rest.resumed_from().is_some_and(|step| step >= 5));
    let rest = rest.losses();
    assert_eq!(rest, whole[whole.len() - rest.len()..], "bit for bit");

    let (whole, killed) =
        (logits(&fixture.path("whole/model")), logits(&fixture.path("killed/model")));
    assert!(whole.equal(&killed));
    let moved = f64::try_from((whole - logits(&fixture.path("model"))).abs().max()).unwrap();
    assert!(moved > 0.01, "the export is the start model");
}

/// Of a fixed text.
fn logits(directory: &Path) -> Tensor {
    let model = model::load(directory, Device::Cpu).unwrap();
    let ids = Tensor::from_slice(&[4i64, 16, 8, 9, 3]).view([1, 5]);
    let pass = Pass::decoder(model.network(), 5, Device::Cpu, Dropout::Off).unwrap();
    tch::no_grad(|| model.forward(&ids, &pass)).unwrap()
}

#[test]
fn plain_texts_are_learned_whole_and_evaluated_by_token() {
    let fixture = fixture();
    let lines = ["the report is now free", "we review a report", "win the prize"].repeat(20);
    fixture.write("train.txt", &lines.join("\n"));
    let config = fixture.config("texts", |config| {
        answers(config);
        config["objective"] = json!({"type": "Pretraining"});
        config["data"]["train"]["path"] = json!(fixture.path("train.txt"));
        config["data"]["train"]["format"] = "Text".into();
        config["data"]["evalSplit"] = 0.2.into();
        config["training"]["evalStrategy"] = "Steps".into();
        config["training"]["evalSteps"] = 20.into();
        config["training"]["saveSteps"] = 20.into();
    });
    let metrics = Gang::run(&config, 2).succeeded().of_rank_0(|event| match event {
        hearth_worker::event::RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
        _ => None,
    });
    let last = metrics.last().unwrap();
    assert!(last.accuracy.unwrap() > 0.6 && last.loss < 1.5, "{last:?}");
    assert_eq!((last.f1, last.f1_macro), (None, None));
}

#[test]
fn packed_texts_are_learned_alike_by_one_rank_and_by_two_and_after_a_kill() {
    let fixture = fixture();
    let packed = |config: &mut Value| {
        answers(config);
        config["objective"] = json!({"type": "SFT", "packing": true});
        // Six tokens a row: packs of two or three.
        config["training"]["maxLength"] = 20.into();
        config["training"]["perDeviceTrainBatchSize"] = 2.into();
        config["training"]["saveSteps"] = 5.into();
    };
    let one = Gang::run(
        &fixture.config("one", |config| {
            packed(config);
            config["training"]["gradientAccumulationSteps"] = 4.into();
        }),
        1,
    )
    .succeeded();
    let config = fixture.config("two", packed);
    let two = Gang::run(&config, 2).succeeded();
    let values = |losses: Vec<(i64, f64)>| -> Vec<f64> {
        losses.into_iter().map(|(_, loss)| loss).collect()
    };
    let gap = farthest(&values(one.losses()), &values(two.losses()));
    assert!(gap <= 1e-4, "losses differ by {gap:e}");
    let samples: Vec<u64> = two.of_rank_0(|event| match event {
        hearth_worker::event::RankEvent::Step(step) => Some(step.samples),
        _ => None,
    });
    assert!(samples[0] > 16, "8 packs hold more than two rows each: {samples:?}");

    let config = fixture.config("killed", packed);
    let mut run = Gang::start(&config, 2);
    run.until(|_, event| matches!(event, hearth_worker::event::RankEvent::Checkpoint { .. }));
    run.kill();
    let rest = Gang::run(&config, 2).succeeded();
    assert!(rest.resumed_from().is_some_and(|step| step >= 5));
    let (rest, whole) = (rest.losses(), two.losses());
    assert_eq!(rest, whole[whole.len() - rest.len()..], "bit for bit");
}

#[test]
fn a_pack_weighs_what_its_rows_weigh() {
    let fixture = fixture();
    // One step over all rows, so that both see the same batch.
    let once = |output: &str, packing: bool| {
        losses(&fixture, output, 1, |config| {
            config["objective"] = json!({"type": "SFT", "packing": packing});
            config["training"]["perDeviceTrainBatchSize"] = 64.into();
            config["training"]["gradientAccumulationSteps"] = 1.into();
            config["training"]["maxSteps"] = 3.into();
            config["training"]["maxLength"] = 24.into();
        })
    };
    let gap = farthest(&once("packed", true), &once("padded", false));
    assert!(gap <= 1e-5, "losses differ by {gap:e}");
}
