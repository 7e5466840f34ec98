//! The threshold of two labels: chosen once all is learned, on half of what was held out, kept with the
//! model, and kept to by the server.

use hearth_worker::event::RankEvent;
use hearth_worker::export::decision::{DECISION, Decision};
use hearth_worker::export::{ModelCard, card};
use serde_json::{Value, json};

use crate::fixture::{Fixture, rows};
use crate::gang::Gang;
use crate::image_classification::{self, pictures, vit};
use crate::quantize::quantize;
use crate::serve_http::Server;

/// A fixture of rows, half of which are held out, and a configuration with this threshold.
fn fixture(threshold: &Value) -> (Fixture, std::path::PathBuf) {
    let fixture = Fixture::new(0.0);
    fixture.write("train.jsonl", &rows(160));
    let config = fixture.config("job", |config| {
        config["data"]["evalSplit"] = 0.5.into();
        config["training"]["numTrainEpochs"] = 8.0.into();
        config["objective"] = json!({"type": "Classification", "threshold": threshold});
    });
    (fixture, config)
}

#[test]
fn a_threshold_is_chosen_told_kept_and_served() {
    let (fixture, config) = fixture(&json!({"recall": 1.0}));
    let ended = Gang::run(&config, 2).succeeded();
    let notes: Vec<String> = ended.of_rank_0(|event| match event {
        RankEvent::Note { reason, message } if reason == "ThresholdChosen" => Some(message.clone()),
        _ => None,
    });
    assert_eq!(notes.len(), 1);
    assert!(notes[0].starts_with("rows get the label \"spam\" from a probability of"), "{notes:?}");
    let directory = fixture.path("job/model");
    let decision = Decision::read(&directory).unwrap().unwrap();
    let chosen = decision.threshold.chosen_on.counts;
    let told = decision.metrics.confusion.as_ref().unwrap().counts;
    assert_eq!((decision.label.as_str(), chosen.false_negatives), ("spam", 0));
    assert_eq!(chosen.true_positives + told.true_positives + told.false_negatives, 27);
    assert_eq!(
        decision.metrics.rows
            + chosen.true_negatives
            + chosen.false_positives
            + chosen.true_positives,
        80
    );
    let card = ModelCard::read(&directory).unwrap().unwrap();
    assert!(card.files.contains_key(DECISION), "{:?}", card.files);
    assert!(!card.files.contains_key(card::CARD));

    // Another threshold is no other training: the run is over, and is exported anew.
    let again = fixture.config("job", |config| {
        config["data"]["evalSplit"] = 0.5.into();
        config["training"]["numTrainEpochs"] = 8.0.into();
        config["objective"] = json!({"type": "Classification", "threshold": {"value": 0.999_999}});
    });
    let ended = Gang::run(&again, 2).succeeded();
    assert!(ended.losses().is_empty(), "it trained again");
    let other = Decision::read(&directory).unwrap().unwrap();
    assert!((other.threshold.value - 0.999_999).abs() < 1e-12);

    // A gate judges answers as servers give them: none is "spam" with such a threshold.
    let compressed = quantize(&fixture, &directory, |config| {
        config["gate"]["metric"] = "accuracy".into();
    });
    let told = compressed.result.compression.unwrap();
    assert_eq!((told.metric_before, told.agreement), (told.metric_after, Some(1.0)));
    assert!(told.metric_before.unwrap() < 0.8, "{told:?}");
    assert_eq!(Decision::read(&fixture.path("int8")).unwrap(), Some(other));

    let server = Server::of(fixture, directory, |_| {});
    let inputs = ["win cash prize free", "meeting report lunch"];
    let told = server.post("/v1/classify", &json!({ "inputs": inputs }).to_string()).json();
    assert_eq!(told["threshold"], json!({"label": "spam", "score": 0.999_999}));
    // The likelier label of the first is the one that such a threshold denies it.
    assert_eq!(told["outputs"][0][0]["label"], "ham", "{told}");
    assert!(told["outputs"][0][1]["score"].as_f64().unwrap() > 0.5, "{told}");
    let request = json!({"inputs": [
        {"name": "text", "shape": [2], "datatype": "BYTES", "data": inputs}
    ]});
    let told = server.post("/v2/models/tiny/infer", &request.to_string()).json();
    assert_eq!(told["outputs"][0]["data"], json!(["ham", "ham"]), "{told}");
    assert_eq!(told["outputs"][1]["data"], json!([0, 0]), "{told}");
    let about = server.get("/v2/models/tiny").json();
    assert_eq!(about["parameters"]["threshold"]["label"], "spam", "{about}");
}

#[test]
fn a_threshold_needs_two_labels_and_rows_that_were_held_out() {
    let shapes = image_classification::fixture("vit", &vit(), 24);
    let config = shapes.config("job", |config| {
        pictures(config);
        config["data"]["evalSplit"] = 0.5.into();
        config["objective"] = json!({"type": "Classification", "threshold": {"recall": 0.9}});
    });
    let ended = Gang::run(&config, 1);
    assert_eq!(ended.codes, [Some(64)], "{}", ended.log);
    assert!(ended.log.contains("objective.threshold: is between two labels"), "{}", ended.log);

    let texts = Fixture::new(0.0);
    let config = texts.config("job", |config| {
        config["objective"] = json!({"type": "Classification", "threshold": {"recall": 0.9}});
    });
    let ended = Gang::run(&config, 1);
    assert!(ended.log.contains("objective.threshold: is chosen on rows"), "{}", ended.log);
    assert_ne!(ended.codes, [Some(0)]);
}
