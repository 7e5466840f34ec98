//! Adapters beside quantized weights, on a head, and exported by themselves.

use std::path::Path;

use hearth_worker::data::Labels;
use hearth_worker::event::RankEvent;
use hearth_worker::export::ModelCard;
use hearth_worker::export::merge::merge;
use hearth_worker::model::{self, Dropout, Head, LinearKind, Model, ModelConfig, Output, Pass};
use hearth_worker::peft::{self, LoraConfig};
use nccl_rs::frozen::Bits;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::parity_families::{self, ids};

const LORA: LoraConfig = LoraConfig {
    rank: 3,
    alpha: 6.0,
    dropout: 0.0,
    target_modules: None,
    use_rslora: false,
    use_dora: false,
};

fn fixture() -> Fixture {
    let fixture = Fixture::new(0.0);
    parity_families::put("llama", &fixture.path("model"));
    let settings = json!({"eos_token": "[SEP]", "pad_token": "[PAD]"});
    fixture.write("model/tokenizer_config.json", &settings.to_string());
    let texts = ["the report is now free", "we review a report", "win the prize for you"];
    let rows: Vec<String> =
        (0..48).map(|row| json!({"text": texts[row % 3]}).to_string()).collect();
    fixture.write("train.jsonl", &rows.join("\n"));
    fixture
}

fn load(directory: &Path, bits: Option<Bits>) -> Model {
    let config = ModelConfig::read(directory).unwrap();
    let place = (Device::Cpu, 7);
    let supply = |name: &str, shape, weights: &model::Weights| match bits {
        Some(bits) => peft::quantized(name, shape, weights, (bits, Device::Cpu)),
        None => Ok(None),
    };
    {
        let weights = model::Weights::read(directory, config.family.prefix()).unwrap();
        model::load_for_training_of((&config, &weights), Head::CausalLm, place, &supply).unwrap().0
    }
}

/// Loss of fixed tokens.
fn loss(model: &Model) -> Tensor {
    let ids = ids();
    let (rows, tokens) = (ids.size()[0], ids.size()[1]);
    let mut pass = Pass::decoder(model.network(), tokens, Device::Cpu, Dropout::Off).unwrap();
    let places = Tensor::arange(rows * tokens, (Kind::Int64, Device::Cpu)).view([rows, tokens]);
    pass.select = Some(places.narrow(1, 0, tokens - 1).reshape([-1]));
    let targets = ids.narrow(1, 1, tokens - 1).reshape([-1]);
    pass.output = Output::CrossEntropy { targets, label_smoothing: 0.0 };
    model.forward(&ids, &pass).unwrap()
}

fn logits(model: &Model) -> Tensor {
    let pass = Pass::decoder(model.network(), ids().size()[1], Device::Cpu, Dropout::Off).unwrap();
    tch::no_grad(|| model.forward(&ids(), &pass)).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    f64::try_from((a - b).abs().max()).unwrap()
}

/// Bytes of the layers in blocks.
fn bytes_of_blocks(model: &Model) -> usize {
    let blocks = model.tensors().into_iter().filter(|tensor| {
        tensor.name.contains(".layers.")
            && !tensor.name.contains("lora")
            && !tensor.name.contains("norm")
    });
    blocks.map(|part| part.tensor.numel() * part.tensor.kind().elt_size_in_bytes()).sum()
}

#[test]
fn adapters_beside_quantized_weights_learn_as_beside_what_these_stand_for() {
    let fixture = fixture();
    let directory = fixture.path("model");
    for (bits, most) in [(Bits::Eight, 0.3), (Bits::Four, 0.17)] {
        for use_dora in [false, true] {
            let lora = LoraConfig { use_dora, ..LORA };
            let mut quantized = load(&directory, Some(bits));
            let plain = bytes_of_blocks(&load(&directory, None)) as f64;
            let held = bytes_of_blocks(&quantized) as f64 / plain;
            assert!(held < most, "{bits:?} holds {held} of the weights' bytes");
            println!("{bits:?}: {held} of the bytes");

            // The same weights, dense.
            let mut dense = load(&directory, Some(bits));
            peft::merge(&mut dense).unwrap();
            assert!(dense.linears().iter().all(|l| matches!(l.kind, LinearKind::Dense { .. })));
            for model in [&mut quantized, &mut dense] {
                tch::manual_seed(11);
                peft::adapt(model, &lora).unwrap();
                for mut part in model.trainable() {
                    let moved = &part.tensor + part.tensor.randn_like() * 0.1;
                    tch::no_grad(|| part.tensor.copy_(&moved));
                }
            }
            let (own, want) = (loss(&quantized), loss(&dense));
            assert!(distance(&own, &want) < 1e-4, "{bits:?}");
            own.backward();
            want.backward();
            let mut gradients = 0;
            for (own, want) in quantized.trainable().iter().zip(&dense.trainable()) {
                assert_eq!(own.name, want.name);
                let scale = f64::try_from(want.tensor.grad().abs().max()).unwrap().max(1.0);
                let off = distance(&own.tensor.grad(), &want.tensor.grad());
                assert!(off < 1e-5 * scale, "{bits:?}, {}: {off}", own.name);
                gradients += 1;
            }
            assert_eq!(gradients, 2 * 7 * if use_dora { 3 } else { 2 });
            let before = logits(&quantized);
            peft::merge(&mut quantized).unwrap();
            assert!(distance(&before, &logits(&quantized)) < 1e-4, "{bits:?} merged");
        }
    }
}

fn learns(config: &mut Value) {
    config["task"] = "CausalLM".into();
    config["objective"] = json!({"type": "Pretraining"});
    config["training"]["maxSteps"] = 15.into();
    config["training"]["learningRate"] = 1e-2.into();
    config["training"]["saveSteps"] = 5.into();
}

#[test]
fn quantized_runs_learn_and_are_exported_whole() {
    let fixture = fixture();
    for format in ["INT8", "INT4"] {
        let config = fixture.config(format, |config| {
            learns(config);
            config["peft"] = json!({"r": 4, "loraAlpha": 16, "baseQuantization": format});
        });
        let losses = Gang::run(&config, 2).succeeded().losses();
        let (first, last) = (losses[0].1, losses[14].1);
        println!("{format}: {first} to {last}");
        assert!(last < 0.7 * first, "{format}: {losses:?}");
        let exported = model::load(&fixture.path(&format!("{format}/model")), Device::Cpu).unwrap();
        assert_eq!(exported.left_over, Vec::<String>::new());
        let start = model::load(&fixture.path("model"), Device::Cpu).unwrap();
        assert_eq!(exported.parameters().len(), start.parameters().len());
        assert!(distance(&logits(&exported), &logits(&start)) > 0.01);
    }
}

#[test]
fn adapters_by_themselves_are_the_difference_to_the_start() {
    let fixture = fixture();
    let run = |output: &str, merge: bool| {
        let config = fixture.config(output, |config| {
            learns(config);
            config["peft"] = json!({
                "r": 4, "loraAlpha": 16, "mergeOnExport": merge, "targetModules": ["q_proj", "lm_head"]
            });
        });
        let ended = Gang::run(&config, 1).succeeded();
        let exported = ended.of_rank_0(|event| match event {
            RankEvent::Finished { model, digest, .. } => Some((model.clone(), digest.clone())),
            _ => None,
        });
        assert!(exported[0].0.is_some() && exported[0].1.is_some());
        ended.losses()
    };
    assert_eq!(run("merged", true), run("apart", false));
    let apart = fixture.path("apart/model");
    let files: std::collections::BTreeSet<String> = std::fs::read_dir(&apart)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(files.contains("adapter_config.json") && files.contains("adapter_model.safetensors"));
    assert!(files.contains("tokenizer.json") && !files.contains("model.safetensors"), "{files:?}");
    let settings = std::fs::read(apart.join("adapter_config.json")).unwrap();
    let settings: Value = serde_json::from_slice(&settings).unwrap();
    assert_eq!(settings["target_modules"], json!(["lm_head", "q_proj"]));
    assert_eq!(settings["base_model_name_or_path"], json!(fixture.path("model")));

    let mut model = load(&fixture.path("model"), None);
    peft::saved::read(&mut model, &apart).unwrap();
    let merged = model::load(&fixture.path("merged/model"), Device::Cpu).unwrap();
    assert!(distance(&logits(&model), &logits(&merged)) < 1e-4);
    let start = model::load(&fixture.path("model"), Device::Cpu).unwrap();
    assert!(distance(&logits(&start), &logits(&merged)) > 0.01);
    let heads = |model: &Model| {
        let head = model.parameters().into_iter().find(|p| p.name == "lm_head.weight").unwrap();
        head.tensor
    };
    assert!(distance(&heads(&start), &heads(&merged)) > 1e-3, "the head learned, too");

    // They are no model, and say so.
    let error = model::load(&apart, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("hearth-worker merge"), "{error}");
    // Of another model they are refused by the tensor that does not fit.
    parity_families::put("qwen3", &fixture.path("other"));
    let error = peft::saved::read(&mut load(&fixture.path("other"), None), &apart).unwrap_err();
    assert!(error.to_string().contains("is it of this model?"), "{error}");
}

#[test]
fn a_classifiers_adapters_hold_its_head() {
    let fixture = Fixture::new(0.1);
    let run = |output: &str, merge: bool, ranks: usize| {
        let config = fixture.config(output, |config| {
            config["training"]["numTrainEpochs"] = 2.into();
            config["training"]["saveStrategy"] = "No".into();
            config["peft"] = json!({"r": 4, "loraAlpha": 8, "mergeOnExport": merge});
        });
        Gang::run(&config, ranks).succeeded().losses()
    };
    assert_eq!(run("merged", true, 1), run("apart", false, 1));
    let directory = fixture.path("model");
    let config = ModelConfig::read(&directory).unwrap();
    let head = Head::Classifier(Labels::new(vec!["ham".into(), "spam".into()]));
    let (mut model, _) =
        model::load_for_training(&config, &directory, head, Device::Cpu, 1).unwrap();
    peft::saved::read(&mut model, &fixture.path("apart/model")).unwrap();
    let merged = model::load(&fixture.path("merged/model"), Device::Cpu).unwrap();
    let (base, later) = (fixture.path("model"), fixture.path("later"));
    let exported = merge(&base, &fixture.path("apart/model"), &later).unwrap();
    let at_once = ModelCard::read(&fixture.path("merged/model")).unwrap().unwrap();
    assert_eq!(exported.digest, at_once.digest(), "merged later as at once");
    let answer = |model: &Model| {
        let rows = Tensor::from_slice(&[2i64, 5, 9, 17, 3]).view([1, 5]);
        tch::no_grad(|| model.classify(&rows, None, Dropout::Off)).unwrap()
    };
    assert!(distance(&answer(&model), &answer(&merged)) < 1e-4);
}

#[test]
fn layers_that_cannot_have_an_adapter_are_named() {
    let fixture = fixture();
    parity_families::put("llama-tied-biased", &fixture.path("tied"));
    for (directory, target, want) in [
        ("model", "c_attn", "k_proj"),
        ("tied", "lm_head", "shares its weight with the embeddings"),
    ] {
        let lora = LoraConfig { target_modules: Some(vec![target.into()]), ..LORA };
        let mut model = load(&fixture.path(directory), None);
        let error = peft::adapt(&mut model, &lora).unwrap_err().to_string();
        assert!(error.contains("peft.targetModules") && error.contains(want), "{error}");
    }
}
