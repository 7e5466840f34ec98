//! Every way to share a model among ranks makes the losses and the export of one rank.

use hearth_worker::event::{EvalMetrics, RankEvent};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::ways::{ALONE, STEPS, Ways, config, export_gap, farthest, language_model, losses, run};

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

#[test]
fn what_cannot_be_split_is_refused_with_the_reason() {
    let fixture = language_model("llama-tied-biased");
    let refused = |output: &str, ways: Ways| {
        let ended = Gang::run(&config(&fixture, output, ways, |_| ()), ways.ranks);
        // A rank that is slow to join finds the first to refuse gone.
        let refuser = ended.codes.iter().position(|code| *code == Some(64));
        let refuser = refuser.unwrap_or_else(|| panic!("{:?}\n{}", ended.codes, ended.log));
        assert!(ended.codes.iter().all(|code| *code != Some(0)), "{:?}", ended.codes);
        ended.failure_of(refuser).1
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
