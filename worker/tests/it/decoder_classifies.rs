//! Decoders learn to classify, one rank or two, and what is exported is what was trained.

use hearth_worker::data::Labels;
use hearth_worker::model::{self, Head};
use tch::Device;

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::parity_families;

#[test]
fn a_dense_decoder_and_one_of_experts_learn_and_are_exported() {
    for (family, architecture, ranks) in [
        ("qwen3", "Qwen3ForSequenceClassification", 1),
        ("deepseek-v3", "DeepseekV3ForSequenceClassification", 2),
    ] {
        let fixture = Fixture::new(0.0);
        parity_families::put(family, &fixture.path("model"));
        let config = fixture.config("job", |config| {
            config["training"]["maxSteps"] = 30.into();
            config["training"]["saveStrategy"] = "No".into();
        });
        let events = Gang::run(&config, ranks).succeeded();
        let losses = events.losses();
        let (first, last) = (losses[0].1, losses.last().unwrap().1);
        assert!(last < 0.7 * first, "{family}: the loss went from {first} to {last}");

        let exported = fixture.path("job/model");
        let model = model::load(&exported, Device::Cpu).unwrap();
        assert_eq!(model.architecture(), architecture);
        let labels = Labels::new(vec!["ham".into(), "spam".into()]);
        assert_eq!(model.head, Head::Classifier(labels));
        assert_eq!(model.left_over, Vec::<String>::new(), "{family}");
    }
}

#[test]
fn layers_for_multi_token_prediction_are_left_out_with_a_note() {
    let fixture = Fixture::new(0.0);
    parity_families::put("deepseek-v3", &fixture.path("model"));
    let file = fixture.path("model").join("model.safetensors");
    let mut tensors = tch::Tensor::read_safetensors(&file).unwrap();
    let extra = tch::Tensor::zeros([2, 2], (tch::Kind::Float, Device::Cpu));
    tensors.push(("model.layers.2.eh_proj.weight".into(), extra));
    tch::Tensor::write_safetensors(&tensors, &file).unwrap();
    let config = fixture.config("job", |config| config["training"]["maxSteps"] = 1.into());
    let notes = Gang::run(&config, 1).succeeded().notes();
    let (_, message) = notes.iter().find(|(reason, _)| reason == "WeightsLeftOut").unwrap();
    assert!(message.contains("model.layers.2.eh_proj.weight"), "{message}");
}
