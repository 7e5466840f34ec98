//! The settings of a run do what they say: optimizers, precision, sampling, when to evaluate and
//! to stop, what happens to numbers that are none, and to memory that runs out.

use std::fmt::Write as _;

use hearth_worker::checkpoint::shard;
use hearth_worker::event::RankEvent;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};

fn run(fixture: &Fixture, output: &str, ranks: usize, change: impl FnOnce(&mut Value)) -> Ended {
    let config = fixture.config(output, |config| {
        config["training"]["saveStrategy"] = "No".into();
        config["training"]["maxSteps"] = 20.into();
        change(config);
    });
    Gang::run(&config, ranks)
}

fn losses(ended: &Ended) -> Vec<f64> {
    ended.losses().into_iter().map(|(_, loss)| loss).collect()
}

fn farthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn every_optimizer_learns_and_two_ranks_equal_one() {
    let fixture = Fixture::new(0.0);
    for (optim, rate, momentum) in [("SGD", 0.05, 0.9), ("SGD", 0.3, 0.0), ("Adafactor", 2e-3, 0.0)]
    {
        let name = format!("{optim}-{momentum}");
        let settings = |config: &mut Value| {
            config["training"]["optim"] = optim.into();
            config["training"]["momentum"] = momentum.into();
            config["training"]["learningRate"] = rate.into();
            config["training"]["maxSteps"] = 30.into();
        };
        let one = losses(
            &run(&fixture, &format!("{name}-1"), 1, |config| {
                settings(config);
                config["training"]["perDeviceTrainBatchSize"] = 8.into();
            })
            .succeeded(),
        );
        let two = losses(&run(&fixture, &format!("{name}-2"), 2, settings).succeeded());
        assert!(one[29] < 0.6 * one[0], "{name}: {one:?}");
        let gap = farthest(&one, &two);
        assert!(gap <= 1e-4, "{name}: losses differ by {gap:e}");
    }
}

#[test]
fn bf16_learns_what_f32_learns_and_exports_f32() {
    let fixture = Fixture::new(0.0);
    let full = losses(&run(&fixture, "f32", 1, |_| ()).succeeded());
    let half = losses(
        &run(&fixture, "bf16", 2, |config| {
            config["training"]["bf16"] = true.into();
            config["training"]["gradientAccumulationSteps"] = 1.into();
        })
        .succeeded(),
    );
    assert_ne!(full, half, "nothing was computed in bf16");
    let gap = farthest(&full, &half);
    assert!(gap < 0.05, "losses differ by {gap}");
    let weights = Tensor::read_safetensors(fixture.path("bf16/model/model.safetensors")).unwrap();
    assert!(weights.iter().all(|(_, tensor)| tensor.kind() == Kind::Float));
}

#[test]
fn ranks_may_average_their_own_means() {
    let fixture = Fixture::new(0.0);
    // A step's last pass holds one row on rank 0 and none on rank 1.
    let settings = |averages: bool| {
        move |config: &mut Value| {
            config["training"]["gradientAccumulationSteps"] = 1.into();
            config["training"]["averageTokensAcrossDevices"] = averages.into();
            config["objective"] = json!({"type": "Classification", "classWeights": "Balanced"});
        }
    };
    let global = losses(&run(&fixture, "global", 2, settings(true)).succeeded());
    let own = losses(&run(&fixture, "own", 2, settings(false)).succeeded());
    assert_ne!(global, own);
    let gap = farthest(&global, &own);
    assert!(gap < 0.2, "losses differ by {gap}");
    let alone = |averages| {
        let name = format!("alone-{averages}");
        losses(&run(&fixture, &name, 1, settings(averages)).succeeded())
    };
    assert_eq!(alone(true), alone(false), "with one rank both are the same");
}

#[test]
fn samples_are_drawn_as_asked() {
    let fixture = Fixture::new(0.0);
    let samples = |output: &str, ranks, change: &dyn Fn(&mut Value)| -> Vec<(u64, u64)> {
        let ended = run(&fixture, output, ranks, |config| {
            config["training"]["maxSteps"] = (-1).into();
            config["training"]["numTrainEpochs"] = 1.into();
            config["training"]["perDeviceTrainBatchSize"] = 10.into();
            config["training"]["gradientAccumulationSteps"] = 1.into();
            change(config);
        });
        ended.succeeded().of_rank_0(|event| match event {
            RankEvent::Step(report) => Some((report.samples, report.tokens)),
            _ => None,
        })
    };
    let whole = samples("whole", 2, &|_| ());
    assert_eq!(whole.iter().map(|step| step.0).collect::<Vec<_>>(), [20, 20, 20, 20, 16]);
    let full = samples("full", 2, &|config| config["training"]["dataloaderDropLast"] = true.into());
    assert_eq!(full.iter().map(|step| step.0).collect::<Vec<_>>(), [20; 4]);
    assert_eq!(full[..], whole[..4]);
    let other = samples("seed", 1, &|config| config["training"]["dataSeed"] = 8.into());
    assert_ne!(other[0], samples("seed-7", 1, &|_| ())[0], "the same tokens by another seed");
    let tokens = |strategy: &str| -> Vec<u64> {
        let drawn = samples(strategy, 1, &|config| {
            config["training"]["trainSamplingStrategy"] = strategy.into();
        });
        drawn.into_iter().map(|step| step.1).collect()
    };
    let spread = |tokens: Vec<u64>| tokens.iter().max().unwrap() - tokens.iter().min().unwrap();
    assert!(spread(tokens("GroupByLength")) > 2 * spread(tokens("Sequential")));
}

#[test]
fn a_batch_that_leaves_nothing_is_refused() {
    let fixture = Fixture::new(0.0);
    let ended = run(&fixture, "out", 1, |config| {
        config["training"]["dataloaderDropLast"] = true.into();
        config["training"]["perDeviceTrainBatchSize"] = 64.into();
    });
    let (reason, message) = ended.failure();
    assert_eq!((reason.as_str(), ended.codes[0]), ("BadConfig", Some(64)));
    assert!(message.starts_with("training.dataloaderDropLast: leaves nothing of 96"), "{message}");
}

#[test]
fn evaluations_begin_when_asked_and_patience_ends_training() {
    let fixture = Fixture::new(0.0);
    let evaluated = |ended: &Ended| -> Vec<i64> {
        ended.of_rank_0(|event| match event {
            RankEvent::Evaluation { step, .. } => Some(*step),
            _ => None,
        })
    };
    let settings = |config: &mut Value| {
        config["data"]["evalSplit"] = 0.25.into();
        config["training"]["evalStrategy"] = "Steps".into();
        config["training"]["evalSteps"] = 2.into();
        config["training"]["loggingSteps"] = 4.into();
        config["training"]["maxSteps"] = 12.into();
    };
    let ended = run(&fixture, "delayed", 1, |config| {
        settings(config);
        config["training"]["evalOnStart"] = true.into();
        config["training"]["evalDelay"] = 7.into();
        config["training"]["loggingFirstStep"] = true.into();
    });
    assert_eq!(evaluated(&ended.succeeded()), [0, 8, 10, 12]);
    let log = std::fs::read_to_string(fixture.path("delayed/metrics.jsonl")).unwrap();
    let logged: Vec<i64> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line.get("loss").is_some())
        .map(|line| line["step"].as_i64().unwrap())
        .collect();
    assert_eq!(logged, [1, 4, 8, 12]);

    // A rate of 0 makes nothing better.
    let ended = run(&fixture, "patient", 2, |config| {
        settings(config);
        config["training"]["learningRate"] = 0.into();
        config["training"]["earlyStoppingPatience"] = 2.into();
        config["training"]["saveStrategy"] = "Steps".into();
        config["training"]["saveSteps"] = 2.into();
        config["training"]["loadBestModelAtEnd"] = true.into();
    })
    .succeeded();
    assert_eq!(evaluated(&ended), [2, 4, 6]);
    let told = ended.notes().into_iter().find(|(reason, _)| reason == "EarlyStopping").unwrap().1;
    assert!(told.starts_with("training ends at step 6: 2 evaluations in a row"), "{told}");
    assert!(fixture.path("patient/model/model.safetensors").exists());
}

/// A model that overflows on one word.
fn with_a_word_that_overflows(fixture: &Fixture) {
    let path = fixture.path("model/model.safetensors");
    let mut weights = Tensor::read_safetensors(&path).unwrap();
    let (_, words) =
        weights.iter_mut().find(|(name, _)| name == "embeddings.word_embeddings.weight").unwrap();
    // "meeting", id 10.
    let _ = words.get(10).fill_(3e38);
    let _ = words.get(10).get(0).fill_(-3e38);
    shard::write(&path, &weights, &[]).unwrap();
}

#[test]
fn numbers_that_are_none_stop_all_ranks_or_leave_the_step_out() {
    let fixture = Fixture::new(0.0);
    with_a_word_that_overflows(&fixture);
    let mut rows = String::new();
    for row in 0..96 {
        let (text, label) = match row {
            // One row of the 96: one step of an epoch.
            40 => ("we review the meeting", "ham"),
            _ if row % 3 == 0 => ("win the cash prize", "spam"),
            _ => ("we review the report", "ham"),
        };
        writeln!(rows, "{}", json!({"text": text, "label": label})).unwrap();
    }
    fixture.write("train.jsonl", &rows);
    let ended = run(&fixture, "stop", 2, |_| ());
    assert_eq!(ended.codes, [Some(65); 2]);
    let (reason, message) = ended.failure();
    assert_eq!(reason, "NotFinite");
    assert!(message.contains("is not finite: its loss is NaN, and "), "{message}");
    assert!(message.contains("bert.embeddings is the first"), "{message}");
    assert!(message.contains("lower training.learningRate"), "{message}");

    let ended = run(&fixture, "skip", 2, |config| {
        config["training"]["onNonFinite"] = "Skip".into();
    })
    .succeeded();
    let skipped: Vec<(String, String)> =
        ended.notes().into_iter().filter(|(reason, _)| reason == "StepSkipped").collect();
    let bad: Vec<i64> = ended
        .losses()
        .into_iter()
        .filter(|(_, loss)| loss.is_nan())
        .map(|(step, _)| step)
        .collect();
    // 96 rows make 6 steps of 16: each epoch meets the word once.
    assert!((3..=4).contains(&bad.len()) && bad.len() == skipped.len(), "{bad:?} {skipped:?}");
    assert!(skipped[0].1.starts_with(&format!("step {} was left out", bad[0])), "{skipped:?}");
    let finite: Vec<f64> = losses(&ended).into_iter().filter(|loss| loss.is_finite()).collect();
    assert!(finite.last().unwrap() < &(0.8 * finite[0]), "the other steps learn: {finite:?}");
}

#[test]
fn figures_that_say_something_are_told_with_advice() {
    let fixture = Fixture::new(0.0);
    let told = |ended: &Ended, reason: &str| -> Vec<String> {
        ended.notes().into_iter().filter(|(told, _)| told == reason).map(|note| note.1).collect()
    };
    let ended = run(&fixture, "flat", 1, |config| {
        config["training"]["learningRate"] = 1e-9.into();
        config["training"]["warmupSteps"] = 0.into();
        config["training"]["maxSteps"] = 100.into();
        config["training"]["gradientAccumulationSteps"] = 1.into();
    })
    .succeeded();
    let flat = told(&ended, "LossFlat");
    assert_eq!(flat.len(), 1, "{:?}", ended.notes());
    assert!(flat[0].contains("training.learningRate 1e-9 may be too low (try 1e-8)"), "{flat:?}");

    let mut rows = crate::fixture::rows(60).lines().map(str::to_owned).collect::<Vec<_>>();
    let spam: Vec<usize> = (0..60).filter(|row| rows[*row].contains("\"spam\"")).collect();
    spam[3..].iter().rev().for_each(|row| drop(rows.remove(*row)));
    fixture.write("train.jsonl", &rows.join("\n"));
    let ended = run(&fixture, "rare", 1, |config| config["training"]["maxSteps"] = 2.into());
    let imbalance = told(&ended.succeeded(), "ClassImbalance");
    assert!(imbalance[0].contains("class \"spam\" has 3"), "{imbalance:?}");
}

#[test]
fn a_range_test_finds_a_rate_and_leaves_no_trace() {
    let fixture = Fixture::new(0.1);
    let plain = run(&fixture, "plain", 2, |_| ()).succeeded();
    let tested = run(&fixture, "tested", 2, |config| {
        config["training"]["learningRateRangeTest"] = true.into();
    })
    .succeeded();
    assert_eq!(losses(&plain), losses(&tested), "bit for bit");
    let told = tested.notes().into_iter().find(|(reason, _)| reason == "LearningRateRange");
    let told = told.unwrap().1;
    let rate: f64 =
        told.split("learning rate of ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((1e-5..1e-1).contains(&rate), "{told}");
}

/// A model of which one sample takes 64 times the memory of the usual one.
fn wide() -> Fixture {
    let fixture = Fixture::new(0.0);
    let path = fixture.path("model/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["intermediate_size"] = 8192.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let path = fixture.path("model/model.safetensors");
    let weights = Tensor::read_safetensors(&path).unwrap().into_iter().map(|(name, tensor)| {
        let shape: Vec<i64> = match name.split("encoder.layer.").nth(1).map(|rest| &rest[2..]) {
            Some("intermediate.dense.weight") => vec![8192, 32],
            Some("intermediate.dense.bias") => vec![8192],
            Some("output.dense.weight") => vec![32, 8192],
            _ => return (name, tensor),
        };
        let options = (Kind::Float, tch::Device::Cpu);
        (name, Tensor::arange(shape.iter().product::<i64>(), options).sin().view(&shape[..]) * 0.02)
    });
    let weights: Vec<(String, Tensor)> = weights.collect();
    shard::write(&path, &weights, &[]).unwrap();
    let rows: Vec<String> = (0..48)
        .map(|row| {
            let (word, label) = if row % 2 == 0 { ("win ", "spam") } else { ("report ", "ham") };
            json!({"text": word.repeat(50 + row % 10), "label": label}).to_string()
        })
        .collect();
    fixture.write("train.jsonl", &rows.join("\n"));
    fixture
}

#[test]
fn memory_that_runs_out_is_explained_or_the_batch_is_halved() {
    let fixture = wide();
    // 48 samples of 62 tokens by 8192 numbers are 97 MB a tensor, and a pass keeps several.
    let bound = [("HEARTH_MEMORY_BYTES", "320000000")];
    let settings = |config: &mut Value| {
        config["training"]["perDeviceTrainBatchSize"] = 48.into();
        config["training"]["gradientAccumulationSteps"] = 1.into();
        config["training"]["maxLength"] = 62.into();
        config["training"]["maxSteps"] = 4.into();
        config["training"]["saveStrategy"] = "No".into();
    };
    let config = fixture.config("explained", settings);
    let ended = Gang::start_with(&config, 1, &bound).wait();
    let (reason, message) = ended.failure();
    assert_eq!((reason.as_str(), ended.codes[0]), ("OutOfMemory", Some(71)), "{message}");
    for part in [
        "step 1: memory ran out at its limit of 305 MiB: about ",
        "are activations of 48 x 62 tokens",
        "Set training.perDeviceTrainBatchSize: 24 and gradientAccumulationSteps: 2",
        "workers.resources.limits.memory",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }

    let config = fixture.config("halved", |config| {
        settings(config);
        config["training"]["autoFindBatchSize"] = true.into();
    });
    // As the agent does: ranks start again until they fit.
    let mut attempts = 0;
    let ended = loop {
        let ended = Gang::start_with(&config, 1, &bound).wait();
        attempts += 1;
        if ended.codes[0] == Some(0) {
            break ended;
        }
        assert_eq!((ended.failure().0.as_str(), ended.codes[0]), ("BatchHalved", Some(1)));
        assert!(attempts < 6, "it never fits: {}", ended.log);
    };
    assert!(attempts > 1);
    let told = ended.notes().into_iter().find(|(reason, _)| reason == "BatchHalved").unwrap().1;
    assert!(told.contains("not training.perDeviceTrainBatchSize: 48"), "{told}");
    let unbounded = Gang::run(&fixture.config("unbounded", settings), 1).succeeded();
    let gap = farthest(&losses(&unbounded), &losses(&ended));
    assert!(gap < 1e-4, "the result is another: {gap:e}");
}
