//! Losses over a vocabulary that is split among ranks, and where a forward pass of several ranks
//! overflows.

use hearth_worker::checkpoint::shard;
use hearth_worker::event::{EvalMetrics, RankEvent};
use serde_json::{Value, json};
use tch::Tensor;

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::ways::{ALONE, STEPS, Ways, config, farthest, language_model, losses};

const TWO: Ways = Ways { tensor: 2, ranks: 2, ..ALONE };

/// Losses and evaluations of one rank and of two that split the vocabulary.
fn equal_one_rank(fixture: &Fixture, name: &str, change: impl Fn(&mut Value)) {
    let told = |output: &str, ways: Ways| -> (Vec<f64>, Vec<EvalMetrics>) {
        let config = config(fixture, &format!("{name}-{output}"), ways, |config| {
            config["data"]["evalSplit"] = 0.2.into();
            config["training"]["perDeviceEvalBatchSize"] = 5.into();
            config["training"]["evalStrategy"] = "Steps".into();
            config["training"]["evalSteps"] = 10.into();
            change(config);
        });
        let ended = Gang::run(&config, ways.ranks).succeeded();
        let metrics = ended.of_rank_0(|event| match event {
            RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
            _ => None,
        });
        (losses(&ended), metrics)
    };
    let (want, want_metrics) = told("one", ALONE);
    let (got, metrics) = told("two", TWO);
    let gap = farthest(&want, &got);
    eprintln!("{name}: losses differ by {gap:.1e}");
    assert!(want.len() == STEPS && gap <= 1e-4, "{name}: losses differ by {gap:e}");
    assert_eq!((metrics.len(), want_metrics.len()), (2, 2));
    for (got, want) in metrics.iter().zip(&want_metrics) {
        assert_eq!((got.samples, got.accuracy), (want.samples, want.accuracy), "{name}");
        assert!((got.loss - want.loss).abs() < 1e-4, "{name}: {} for {}", got.loss, want.loss);
    }
}

#[test]
fn cross_entropy_with_and_without_smoothing_equals_that_of_one_rank() {
    let fixture = language_model("llama-tied-biased");
    equal_one_rank(&fixture, "plain", |_| ());
    equal_one_rank(&fixture, "smooth", |config| {
        config["training"]["labelSmoothingFactor"] = 0.2.into();
    });
    equal_one_rank(&fixture, "packed", |config| {
        config["objective"] = json!({"type": "SFT", "packing": true});
        config["training"]["maxLength"] = 24.into();
    });
}

#[test]
fn a_teacher_and_preferences_equal_those_of_one_rank() {
    let fixture = language_model("llama");
    let teacher = language_model("qwen3");
    equal_one_rank(&fixture, "distillation", |config| {
        config["distillation"] =
            json!({"teacher": teacher.path("model"), "temperature": 2.0, "alpha": 0.4});
    });
    let rows: Vec<String> = (0..64)
        .map(|row| {
            let (good, bad) =
                if row % 3 == 0 { ("win cash", "the report") } else { ("we", "a a prize") };
            json!({"prompt": "to you", "chosen": good, "rejected": bad}).to_string()
        })
        .collect();
    fixture.write("train.jsonl", &rows.join("\n"));
    equal_one_rank(&fixture, "dpo", |config| {
        config["objective"] = json!({"type": "DPO", "beta": 0.1});
        for field in ["prompt", "chosen", "rejected"] {
            config["data"]["train"][field] = field.into();
        }
    });
}

/// A Llama whose second layer gives numbers that are none.
fn that_overflows() -> Fixture {
    let fixture = language_model("llama");
    let path = fixture.path("model/model.safetensors");
    let mut weights = Tensor::read_safetensors(&path).unwrap();
    for (name, tensor) in &mut weights {
        if name == "model.layers.1.mlp.down_proj.weight" {
            let _ = tensor.fill_(3e38);
        }
    }
    shard::write(&path, &weights, &[]).unwrap();
    fixture
}

#[test]
fn a_forward_pass_that_overflows_is_told_by_layer_in_every_way() {
    let fixture = that_overflows();
    let ways = [
        ALONE,
        Ways { ranks: 2, ..ALONE },
        Ways { sharding: "Full", ranks: 2, accumulation: 2, ..ALONE },
        TWO,
        Ways { pipeline: 2, ranks: 2, accumulation: 4, ..ALONE },
    ];
    for (index, ways) in ways.into_iter().enumerate() {
        let ended =
            Gang::run(&config(&fixture, &format!("ways-{index}"), ways, |_| ()), ways.ranks);
        assert_eq!(ended.codes, vec![Some(65); ways.ranks], "{ways:?}\n{}", ended.log);
        let (reason, message) = ended.failure();
        assert_eq!(reason, "NotFinite", "{ways:?}");
        assert!(
            message.contains("model.layers.1 is the first whose output is not finite"),
            "{ways:?}: {message}"
        );
    }
}
