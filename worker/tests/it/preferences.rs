//! The better of two answers is learned: alike by one rank and by two, with and without adapters,
//! and a killed run goes on against the model that it began with.

use hearth_crds::preparation::Cleaning;
use hearth_worker::data::Samples;
use hearth_worker::data::dataset::{ReadOptions, SequenceFiles, load_sequences};
use hearth_worker::data::encode::EncoderOptions;
use hearth_worker::data::{Columns, Fetched, Format, SequenceEncoder, SourceFile, TrainingSet};
use hearth_worker::event::{EvalMetrics, RankEvent};
use hearth_worker::model::{self, Dropout, Head, ModelConfig};
use hearth_worker::objective::{Objective, Place, Preference, Reference, log_probs};
use hearth_worker::peft::{self, LoraConfig};
use serde_json::{Value, json};
use tch::{Device, Tensor};

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};
use crate::parity_families;

/// A fixture whose rows prefer one kind of answer to another of other length.
fn fixture() -> Fixture {
    let fixture = Fixture::new(0.0);
    parity_families::put("llama", &fixture.path("model"));
    let settings = json!({"eos_token": "[SEP]", "pad_token": "[PAD]"});
    fixture.write("model/tokenizer_config.json", &settings.to_string());
    let rows: Vec<String> = (0..48)
        .map(|row| {
            let asked = ["win the", "we review the", "now"][row % 3];
            let (good, bad) = (["a report", "lunch is now"][row % 2], "free cash prize to you");
            json!({"question": asked, "good": format!(" {good}"), "bad": format!(" {bad}")})
                .to_string()
        })
        .collect();
    fixture.write("train.jsonl", &rows.join("\n"));
    fixture
}

fn preferences(config: &mut Value) {
    config["task"] = "CausalLM".into();
    config["objective"] = json!({"type": "DPO", "beta": 0.5});
    for (field, name) in [("prompt", "question"), ("chosen", "good"), ("rejected", "bad")] {
        config["data"]["train"][field] = name.into();
    }
    config["training"]["maxSteps"] = 15.into();
    config["training"]["learningRate"] = 2e-3.into();
    config["training"]["warmupSteps"] = 0.into();
    config["training"]["lrSchedulerType"] = "Constant".into();
}

fn run(fixture: &Fixture, output: &str, ranks: usize, change: impl Fn(&mut Value)) -> Ended {
    let config = fixture.config(output, |config| {
        preferences(config);
        config["data"]["evalSplit"] = 0.25.into();
        config["training"]["evalStrategy"] = "Steps".into();
        config["training"]["evalSteps"] = 15.into();
        config["training"]["saveStrategy"] = "No".into();
        config["training"]["perDeviceTrainBatchSize"] = (8 / ranks).into();
        change(config);
    });
    Gang::run(&config, ranks).succeeded()
}

fn losses(ended: &Ended) -> Vec<f64> {
    ended.losses().into_iter().map(|(_, loss)| loss).collect()
}

fn evaluation(ended: &Ended) -> EvalMetrics {
    let found = ended.of_rank_0(|event| match event {
        RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
        _ => None,
    });
    found.last().unwrap().clone()
}

#[test]
fn preferences_are_learned_alike_by_one_rank_and_by_two() {
    let fixture = fixture();
    for (name, peft, rate) in
        [("whole", Value::Null, 2e-3), ("adapters", json!({"r": 4, "loraAlpha": 16}), 1e-2)]
    {
        let change = |config: &mut Value| {
            config["peft"] = peft.clone();
            config["training"]["learningRate"] = rate.into();
        };
        let one = run(&fixture, &format!("{name}-1"), 1, change);
        let two = run(&fixture, &format!("{name}-2"), 2, change);
        let (first, second) = (losses(&one), losses(&two));
        // Model and reference are the same at first: -log sigmoid(0).
        assert!((first[0] - 2f64.ln()).abs() < 1e-5, "{name}: {first:?}");
        assert!(first[14] < 0.5 * first[0], "{name}: {first:?}");
        let gap = first.iter().zip(&second).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{name}: {} to {}, ranks differ by {gap:e}", first[0], first[14]);
        assert!(gap <= 1e-4, "{name}: losses differ by {gap:e}");
        let (one, two) = (evaluation(&one), evaluation(&two));
        let (a, b) = (one.rewards.unwrap(), two.rewards.unwrap());
        assert!((a.margins - b.margins).abs() < 1e-3 && (one.loss - two.loss).abs() < 1e-4);
        assert!((a.accuracies - 1.0).abs() < 1e-9 && a.margins > 0.5, "{name}: {a:?}");
        assert_eq!((one.accuracy, one.samples, one.f1), (Some(a.accuracies), 12, None));
    }
}

#[test]
fn a_killed_run_goes_on_against_the_model_that_it_began_with() {
    let fixture = fixture();
    let change = |config: &mut Value| {
        preferences(config);
        config["training"]["saveSteps"] = 4.into();
        config["training"]["maxSteps"] = 60.into();
    };
    let whole = Gang::run(&fixture.config("whole", change), 1).succeeded().losses();
    let config = fixture.config("killed", change);
    let mut gang = Gang::start(&config, 1);
    gang.until(|_, event| matches!(event, RankEvent::Checkpoint { step, .. } if *step >= 4));
    gang.kill();
    let rest = Gang::run(&config, 1).succeeded();
    assert!(rest.resumed_from().is_some_and(|step| step >= 4));
    let rest = rest.losses();
    assert!(!rest.is_empty(), "it was killed too late");
    assert_eq!(rest, whole[whole.len() - rest.len()..], "bit for bit");
}

/// The training samples of the fixture's rows.
fn samples(fixture: &Fixture) -> Samples {
    let options = EncoderOptions {
        objective: hearth_worker::data::Objective::Preference,
        cleaning: Cleaning::default(),
        max_length: 16,
        now: jiff::civil::date(2026, 7, 4).at(0, 0, 0, 0),
    };
    let encoder = SequenceEncoder::load(&fixture.path("model"), options).unwrap();
    let columns = Columns::Preference {
        prompt: Some("question".into()),
        chosen: "good".into(),
        rejected: "bad".into(),
    };
    let train = SourceFile { path: fixture.path("train.jsonl"), format: Format::Jsonl, columns };
    let files = SequenceFiles { train, eval: None, eval_split: None, max_bad_rows: 0 };
    let options = ReadOptions {
        encoder: &encoder,
        cache: &fixture.path("cache"),
        threads: std::num::NonZeroUsize::MIN,
        seed: 1,
    };
    let TrainingSet { train, .. } = load_sequences(&files, &options).unwrap();
    train
}

#[test]
fn adapters_that_are_off_say_what_was_known_before() {
    let fixture = fixture();
    let samples = samples(&fixture);
    let directory = fixture.path("model");
    let config = ModelConfig::read(&directory).unwrap();
    let (mut model, _) =
        model::load_for_training(&config, &directory, Head::CausalLm, Device::Cpu, 7).unwrap();
    let place = Place::new(0, Device::Cpu);
    let mut fetched = Fetched::default();
    let all: Vec<u32> = (0..samples.len()).collect();
    samples.fetch(&all, &mut fetched).unwrap();
    let known = tch::no_grad(|| log_probs(&model, &fetched, place)).unwrap();
    let samples = samples.with_references(Vec::try_from(&known).unwrap());

    let lora = LoraConfig {
        rank: 2,
        alpha: 8.0,
        dropout: 0.0,
        target_modules: None,
        use_rslora: false,
        use_dora: true,
    };
    let adapters = peft::adapt(&mut model, &lora).unwrap();
    for mut part in model.trainable() {
        let moved = &part.tensor + part.tensor.randn_like() * 0.2;
        tch::no_grad(|| part.tensor.copy_(&moved));
    }
    let loss = |samples: &Samples, reference: Reference| {
        let mut fetched = Fetched::default();
        samples.fetch(&[5, 0, 17], &mut fetched).unwrap();
        let objective = Objective::Preference(Preference { beta: 0.5, reference });
        objective.loss_sum(&model, &fetched, place, Dropout::On)
    };
    let value = |loss: Tensor| f64::try_from(&loss).unwrap();
    let by_rows = value(loss(&samples, Reference::Known).unwrap());
    let by_model = value(loss(&samples, Reference::WithoutAdapters(adapters)).unwrap());
    assert!((by_rows - by_model).abs() < 1e-5, "{by_rows} and {by_model}");
    assert!((by_rows - 3.0 * 2f64.ln()).abs() > 0.05, "the adapters do nothing: {by_rows}");
    // Others have other references, and rows without one are refused.
    let unknown = samples.subset(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
    assert!(loss(&unknown, Reference::Known).is_err());
}
