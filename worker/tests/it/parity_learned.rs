//! What TRL makes of preferences and PEFT of adapters, on tiny models that `tests/parity/learned.py`
//! describes.

use std::collections::BTreeMap;
use std::path::Path;

use hearth_worker::data::Labels;
use hearth_worker::event::RankEvent;
use hearth_worker::model::{self, Dropout, Head, Model, ModelConfig, Pass};
use hearth_worker::peft::{self, saved};
use serde::Deserialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::parity_families::{self, ids, values};

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/fixtures");
    serde_json::from_slice(&std::fs::read(fixtures.join(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preferences {
    tokenizer: Value,
    train: Vec<Value>,
    eval: Vec<Value>,
    training: Value,
    beta: f64,
    steps: u32,
    losses: Vec<f64>,
    grad_norms: Vec<f64>,
    evaluation: BTreeMap<String, f64>,
}

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| row.to_string() + "\n").collect()
}

#[test]
fn preferences_are_learned_as_trl_learns_them() {
    let want: Preferences = read("preferences.json");
    let fixture = Fixture::new(0.0);
    parity_families::put("llama", &fixture.path("model"));
    fixture.write("model/tokenizer.json", &want.tokenizer.to_string());
    let special = json!({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"});
    fixture.write("model/tokenizer_config.json", &special.to_string());
    fixture.write("train.jsonl", &lines(&want.train));
    fixture.write("eval.jsonl", &lines(&want.eval));
    // In one pass of all rows, and in four of two.
    for (batch, accumulation) in [(want.train.len(), 1), (2, 4)] {
        let config = fixture.config(&format!("by-{batch}"), |config| {
            config["task"] = "CausalLM".into();
            config["objective"] = json!({"type": "DPO", "beta": want.beta});
            config["data"]["clean"] = json!([]);
            config["data"]["eval"] = config["data"]["train"].clone();
            config["data"]["eval"]["path"] = json!(fixture.path("eval.jsonl"));
            config["training"] = want.training.clone();
            for (name, value) in [
                ("perDeviceTrainBatchSize", json!(batch)),
                ("gradientAccumulationSteps", json!(accumulation)),
                ("lrSchedulerType", json!("Constant")),
                ("maxSteps", json!(want.steps)),
                ("evalStrategy", json!("Steps")),
                ("evalSteps", json!(want.steps)),
                ("saveStrategy", json!("No")),
            ] {
                config["training"][name] = value;
            }
        });
        let ended = Gang::run(&config, 1).succeeded();
        let steps = ended.of_rank_0(|event| match event {
            RankEvent::Step(report) => Some((report.loss, report.grad_norm)),
            _ => None,
        });
        assert_eq!(steps.len(), want.losses.len());
        for (step, (loss, norm)) in steps.iter().enumerate() {
            assert_near(*loss, want.losses[step], 2e-4, &format!("loss of step {step}"));
            let (norm, expected) = (*norm, want.grad_norms[step]);
            assert_near(norm, expected, 1e-3 * (1.0 + expected), &format!("norm of step {step}"));
        }
        let found = ended.of_rank_0(|event| match event {
            RankEvent::Evaluation { metrics, .. } => Some(metrics.clone()),
            _ => None,
        });
        let found = serde_json::to_value(found.last().unwrap()).unwrap();
        for (name, expected) in &want.evaluation {
            assert_near(found[name].as_f64().unwrap(), *expected, 5e-4, name);
        }
    }
}

#[derive(Deserialize)]
struct Adapter {
    base: String,
    config: Value,
    tensors: BTreeMap<String, Vec<i64>>,
    logits: Vec<Vec<f64>>,
}

/// The model of a case, its head for the classes that it was made with.
fn base(directory: &Path) -> Model {
    let config = ModelConfig::read(directory).unwrap();
    let classifies = config.raw["architectures"][0] == "LlamaForSequenceClassification";
    let head = match &config.labels {
        Some(labels) if classifies => Head::Classifier(Labels::new(labels.names().to_vec())),
        _ => Head::CausalLm,
    };
    model::load_for_training(&config, directory, head, Device::Cpu, 3).unwrap().0
}

/// `[rows, V or C]` of the parity cases' ids.
fn logits(model: &Model) -> Tensor {
    tch::no_grad(|| {
        if matches!(model.head, Head::Classifier(_)) {
            return model.classify(&ids(), None, Dropout::Off).unwrap();
        }
        let tokens = ids().size()[1];
        let pass = Pass::decoder(model.network(), tokens, Device::Cpu, Dropout::Off).unwrap();
        let logits = model.forward(&ids(), &pass).unwrap();
        logits.reshape([-1, *logits.size().last().unwrap()])
    })
}

#[test]
fn adapters_of_peft_are_read_and_written_as_peft_does() {
    for (name, case) in read::<BTreeMap<String, Adapter>>("adapters.json") {
        let home = tempfile::tempdir().unwrap();
        parity_families::put(&case.base, home.path());
        let saved_by_peft = home.path().join("adapters");
        std::fs::create_dir(&saved_by_peft).unwrap();
        std::fs::write(saved_by_peft.join(saved::CONFIG), case.config.to_string()).unwrap();
        let tensors: Vec<(String, Tensor)> = case
            .tensors
            .iter()
            .enumerate()
            .map(|(index, (name, shape))| {
                let value = values(index, shape, name);
                let length = name.ends_with("magnitude_vector");
                (name.clone(), if length { value.abs() + 0.5 } else { value })
            })
            .collect();
        Tensor::write_safetensors(&tensors, saved_by_peft.join(saved::WEIGHTS)).unwrap();

        let mut model = base(home.path());
        let adapters = peft::saved::read(&mut model, &saved_by_peft).unwrap();
        assert!(adapters.layers > 0);
        let check = |model: &Model, what: &str| {
            let rows: Vec<Vec<f64>> = Vec::try_from(logits(model).to_kind(Kind::Double)).unwrap();
            for (row, want) in rows.iter().step_by(5).zip(&case.logits) {
                for (got, want) in row.iter().zip(want) {
                    assert_near(*got, *want, 1e-4, &format!("{name}, {what}: logit"));
                }
            }
        };
        check(&model, "beside the model");

        let mut written = saved::tensors(&model);
        written.sort_by(|a, b| a.0.cmp(&b.0));
        let learned: Vec<_> =
            tensors.iter().filter(|(name, _)| !name.contains(".base_layer.")).collect();
        assert_eq!(written.len(), learned.len(), "{name}");
        for ((own, value), (peft, want)) in written.iter().zip(learned) {
            assert_eq!((own, value), (peft, want), "{name}");
        }
        let lora = saved::settings(&saved_by_peft).unwrap();
        let config = saved::config(&model, &lora, home.path());
        for (field, want) in case.config.as_object().unwrap() {
            let own = &config[field];
            if field == "target_modules" {
                // PEFT may write whole names; last parts say the same.
                let (own, want) = (own.as_array().unwrap(), want.as_array().unwrap());
                let ends = |full: &Value| {
                    let full = full.as_str().unwrap();
                    own.iter().any(|last| full.rsplit('.').next() == last.as_str())
                };
                assert!(own.len() <= want.len() && want.iter().all(ends), "{name}: {own:?}");
                continue;
            }
            let same = match (own.as_f64(), want.as_f64()) {
                (Some(own), Some(want)) => (own - want).abs() < 1e-12,
                _ => own == want,
            };
            assert!(same, "{name}: {field} is {own}, PEFT has {want}");
        }

        peft::merge(&mut model).unwrap();
        check(&model, "merged");
    }
}

fn assert_near(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got} is not {want}");
}
