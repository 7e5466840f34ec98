//! What a finished run leaves behind.

use std::fs;

use hearth_crds::preparation::Cleaning;
use hearth_worker::data::{Labels, TextEncoder, dataset};
use hearth_worker::event::RankEvent;
use hearth_worker::export::ModelCard;
use hearth_worker::model;
use hearth_worker::objective::Place;
use hearth_worker::train::evaluate::evaluate;
use tch::Device;

use crate::fixture::Fixture;
use crate::gang::Gang;

#[test]
fn the_export_is_whole_and_evaluates_to_the_reported_figures() {
    let fixture = Fixture::new(0.1);
    fixture.write("eval.jsonl", &crate::fixture::rows(50));
    let config = fixture.config("out", |config| {
        let mut file = config["data"]["train"].clone();
        file["path"] = fixture.path("eval.jsonl").to_str().into();
        config["data"]["eval"] = file;
        config["training"]["numTrainEpochs"] = 15.into();
        config["training"]["evalStrategy"] = "Epoch".into();
        config["training"]["saveStrategy"] = "Epoch".into();
        config["training"]["loadBestModelAtEnd"] = true.into();
        config["training"]["metricForBestModel"] = "f1".into();
    });
    let ended = Gang::run(&config, 2).succeeded();
    let finished = ended.of_rank_0(|event| match event {
        RankEvent::Finished { metrics, model, digest, .. } => {
            Some((metrics.clone().unwrap(), model.clone().unwrap(), digest.clone().unwrap()))
        }
        _ => None,
    });
    let [(reported, directory, digest)] = finished.as_slice() else { panic!("{finished:?}") };
    assert!(reported.f1.unwrap() > 0.8, "{reported:?}");

    let card = ModelCard::read(directory).unwrap().unwrap();
    assert_eq!(card.first_damage(directory), None);
    assert_eq!(&card.digest(), digest);
    assert_eq!(card.metrics.as_ref(), Some(reported));
    assert_eq!(card.labels, ["ham", "spam"]);
    let raw: serde_json::Value =
        serde_json::from_slice(&fs::read(directory.join("config.json")).unwrap()).unwrap();
    assert_eq!(raw["architectures"][0], "BertForSequenceClassification");
    assert_eq!((&raw["id2label"]["1"], &raw["label2id"]["spam"]), (&"spam".into(), &1.into()));

    // Loaded again and evaluated by one process: the same figures.
    let classifier = model::load(directory, Device::Cpu).unwrap();
    let encoder = TextEncoder::from_export(directory).unwrap();
    let file = hearth_crds::worker_config::DataFile {
        path: fixture.path("eval.jsonl"),
        ..Default::default()
    };
    let cache = fixture.path("cache");
    let options = dataset::ReadOptions {
        encoder: &encoder,
        cache: &cache,
        threads: std::num::NonZeroUsize::MIN,
        seed: 0,
    };
    let samples = dataset::load_for_evaluation(&file, classifier.labels(), 0, &options).unwrap();
    let place = Place::new(encoder.pad(), Device::Cpu);
    let again = evaluate(&classifier, &samples, 7, place).unwrap();
    assert!((again.loss - reported.loss).abs() < 1e-5, "{again:?} {reported:?}");
    assert_eq!((again.f1, again.samples), (reported.f1, 50));
    assert_eq!(*classifier.labels(), Labels::new(vec!["ham".into(), "spam".into()]));

    // Nothing temporary is left, and no more checkpoints than asked for.
    let names = |path: &str| -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(fixture.path(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("out"), [".cache", "checkpoints", "metrics.jsonl", "model", "runs"]);
    assert!(names("out/checkpoints").iter().all(|name| name.starts_with("step-")));
    assert!(names("out/checkpoints").len() <= 4);
}

#[test]
fn settings_stored_in_the_tokenizer_file_do_not_cut_or_pad_samples() {
    let fixture = Fixture::new(0.0);
    let encoder = TextEncoder::load(&fixture.path("model"), Cleaning::default(), 8).unwrap();
    assert_eq!(encoder.encode("win cash").unwrap().len(), 4);
    assert_eq!(encoder.encode("win cash prize free click offer the a to you").unwrap().len(), 8);
}
