//! A model learns from another of another size: what it learns is the teacher's, alike by one rank
//! and by two; a teacher that speaks of other tokens or classes is refused.

use hearth_worker::event::RankEvent;
use hearth_worker::model::{self, Dropout};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};
use crate::parity_families;

fn losses(ended: &Ended) -> Vec<f64> {
    ended.losses().into_iter().map(|(_, loss)| loss).collect()
}

fn gap(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A tiny Llama in `model` and a tiny Qwen3, of other sizes, in `teacher`; texts to learn.
fn language() -> Fixture {
    let fixture = Fixture::new(0.0);
    let tokenizer = std::fs::read_to_string(fixture.path("model/tokenizer.json")).unwrap();
    let settings = json!({"eos_token": "[SEP]", "pad_token": "[PAD]"}).to_string();
    for (name, family) in [("model", "llama"), ("teacher", "qwen3")] {
        fixture.write(&format!("{name}/tokenizer.json"), &tokenizer);
        fixture.write(&format!("{name}/tokenizer_config.json"), &settings);
        parity_families::put(family, &fixture.path(name));
    }
    let texts = ["the report is now free", "we review a report", "win the prize for you"];
    let rows: Vec<String> =
        (0..48).map(|row| json!({"text": texts[row % 3]}).to_string()).collect();
    fixture.write("train.jsonl", &rows.join("\n"));
    fixture
}

fn learns(config: &mut Value) {
    config["task"] = "CausalLM".into();
    config["objective"] = json!({"type": "Pretraining"});
    config["training"]["maxSteps"] = 40.into();
    config["training"]["learningRate"] = 5e-3.into();
    config["training"]["saveStrategy"] = "No".into();
}

#[test]
fn a_language_model_becomes_its_teacher() {
    let fixture = language();
    let run = |output: &str, ranks: usize, alpha: f64| {
        let config = fixture.config(output, |config| {
            learns(config);
            config["distillation"] = json!({
                "teacher": fixture.path("teacher"), "temperature": 2.0, "alpha": alpha
            });
            config["training"]["perDeviceTrainBatchSize"] = (8 / ranks).into();
        });
        losses(&Gang::run(&config, ranks).succeeded())
    };
    let (soft, two) = (run("soft", 1, 1.0), run("two", 2, 1.0));
    println!("the divergence goes from {} to {}", soft[0], soft[39]);
    assert!(soft[39] < 0.1 * soft[0], "{soft:?}");
    assert!(gap(&soft, &two) <= 1e-4, "{}", gap(&soft, &two));
    // The divergence alone is learned without the data's answers: what is exported is near the
    // teacher, which was never trained on them, and not near the data.
    let agrees = |directory: &str| {
        let ids = Tensor::from_slice(&[4i64, 16, 8, 9, 3, 16, 17, 22]).view([1, 8]);
        let logits = |name: &str| {
            let model = model::load(&fixture.path(name), Device::Cpu).unwrap();
            let pass = model::Pass::decoder(model.network(), 8, Device::Cpu, Dropout::Off).unwrap();
            let logits = tch::no_grad(|| model.forward(&ids, &pass)).unwrap();
            logits.softmax(-1, Kind::Float)
        };
        let apart = (logits(directory) - logits("teacher")).abs().sum(Kind::Float) / 8.0;
        f64::try_from(&apart).unwrap()
    };
    let (before, after) = (agrees("model"), agrees("soft/model"));
    assert!(after < 0.8 * before, "from {before} to {after}");

    // Both parts: alpha of one and the rest of the other.
    let hard = run("hard", 1, 0.0);
    let both = run("both", 1, 0.3);
    let want = 0.3 * soft[0] + 0.7 * hard[0];
    assert!((both[0] - want).abs() < 1e-4, "{} is not {want}", both[0]);
}

#[test]
fn teachers_of_other_tokens_and_classes_are_refused() {
    let fixture = language();
    let said = |change: &dyn Fn(&mut Value)| {
        let config = fixture.config("refused", |config| {
            learns(config);
            config["distillation"] =
                json!({"teacher": fixture.path("teacher"), "temperature": 2.0, "alpha": 0.5});
            change(config);
        });
        let ended = Gang::run(&config, 1);
        assert!(ended.codes[0].is_some_and(|code| (64..=78).contains(&code)), "{:?}", ended.codes);
        ended.failure().1
    };
    let tokenizer = std::fs::read_to_string(fixture.path("teacher/tokenizer.json")).unwrap();
    let swapped = tokenizer.replace("\"cash\":", "\"cashier\":");
    assert_ne!(tokenizer, swapped);
    fixture.write("teacher/tokenizer.json", &swapped);
    let message = said(&|_| ());
    assert!(message.contains("\"cash\"") && message.contains("same tokenizer"), "{message}");

    let config = std::fs::read_to_string(fixture.path("teacher/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["vocab_size"] = 47.into();
    let shorter = fixture.path("teacher");
    fixture.write("teacher/tokenizer.json", &tokenizer);
    fixture.write("teacher/config.json", &config.to_string());
    let tensors = Tensor::read_safetensors(shorter.join("model.safetensors")).unwrap();
    let cut: Vec<(String, Tensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tokens = name.contains("embed_tokens") || name.contains("lm_head");
            (name, if tokens { tensor.narrow(0, 0, 47).contiguous() } else { tensor })
        })
        .collect();
    Tensor::write_safetensors(&cut, shorter.join("model.safetensors")).unwrap();
    let message = said(&|_| ());
    assert!(message.contains("vocab_size is 47, the model's 48"), "{message}");

    let message = said(&|config| {
        config["distillation"]["teacher"] = json!(fixture.path("nowhere"));
    });
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn a_classifier_learns_from_one_whose_classes_are_in_another_order() {
    let fixture = Fixture::new(0.0);
    let teach = fixture.config("teacher", |config| {
        config["training"]["numTrainEpochs"] = 12.into();
        config["training"]["saveStrategy"] = "No".into();
    });
    let _ = Gang::run(&teach, 1).succeeded();
    // The same classifier with its classes the other way round.
    let teacher = fixture.path("teacher/model");
    let mut tensors = Tensor::read_safetensors(teacher.join("model.safetensors")).unwrap();
    for (name, tensor) in &mut tensors {
        if name.starts_with("classifier.") {
            *tensor = tensor.flip([0]).contiguous();
        }
    }
    Tensor::write_safetensors(&tensors, teacher.join("model.safetensors")).unwrap();
    let path = teacher.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["id2label"] = json!({"0": "spam", "1": "ham"});
    config["label2id"] = json!({"spam": 0, "ham": 1});
    fixture.write("teacher/model/config.json", &config.to_string());

    // The labels of the data are of no use: every second one is wrong.
    let text = std::fs::read_to_string(fixture.path("train.jsonl")).unwrap();
    let rows: Vec<String> = text
        .lines()
        .enumerate()
        .map(|(index, line)| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["label"] = ["ham", "spam"][index % 2].into();
            row.to_string()
        })
        .collect();
    fixture.write("random.jsonl", &rows.join("\n"));
    let run = |output: &str, ranks: usize| {
        let config = fixture.config(output, |config| {
            config["data"]["eval"] = config["data"]["train"].clone();
            config["data"]["train"]["path"] = json!(fixture.path("random.jsonl"));
            config["distillation"] = json!({"teacher": teacher, "temperature": 2.0, "alpha": 1.0});
            config["training"]["perDeviceTrainBatchSize"] = (8 / ranks).into();
            config["training"]["numTrainEpochs"] = 12.into();
            config["training"]["evalStrategy"] = "Epoch".into();
            config["training"]["saveStrategy"] = "No".into();
        });
        Gang::run(&config, ranks).succeeded()
    };
    let (one, two) = (run("one", 1), run("two", 2));
    let (first, second) = (losses(&one), losses(&two));
    assert!(gap(&first, &second) <= 1e-4, "{}", gap(&first, &second));
    let accuracy = one.of_rank_0(|event| match event {
        RankEvent::Evaluation { metrics, .. } => metrics.accuracy,
        _ => None,
    });
    let last = *accuracy.last().unwrap();
    println!("divergence {} to {}, accuracy {last}", first[0], first.last().unwrap());
    assert!(last > 0.85, "right answers come from the teacher alone: {accuracy:?}");
}
