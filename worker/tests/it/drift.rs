//! What a classifier is asked is compared with what it learned from, by a reference that its export has.

use hearth_worker::export::ModelCard;
use hearth_worker::export::drift::{DRIFT, DriftReference, RowsOf, RowsSide};
use serde_json::{Value, json};

use crate::fixture::{Fixture, rows};
use crate::gang::Gang;
use crate::image_classification::{self, pictures, vit};
use crate::serve_http::Server;
use crate::trained;

/// Requests of 60 texts each.
fn ask(server: &Server, texts: &[String]) {
    for inputs in texts.chunks(60) {
        let answer = server.post("/v1/classify", &json!({ "inputs": inputs }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// Rows that figures are of, and the figure of each name; the score's is `""`.
fn told(server: &Server) -> (u64, Vec<(String, f64)>) {
    let report: Value = server.get("/drift").json();
    let shifts = report["shifts"].as_array().unwrap().iter().map(|shift| {
        let name = shift["feature"].as_str().unwrap_or_default().to_owned();
        (name, shift["psi"].as_f64().unwrap())
    });
    (report["rows"].as_u64().unwrap(), shifts.collect())
}

#[test]
fn a_shift_of_texts_is_told() {
    let fixture = Fixture::new(0.0);
    let model = trained::model(&fixture, 40);
    let card = ModelCard::read(&model).unwrap().unwrap();
    assert!(card.files.contains_key(DRIFT), "{:?}", card.files);
    assert_eq!(card.first_damage(&model), None);
    let reference = DriftReference::read(&model).unwrap().unwrap();
    let all = RowsOf { side: RowsSide::Train, rows: 96, of: 96 };
    assert_eq!((reference.inputs_of, reference.outputs_of), (all, all));

    let server = Server::of(fixture, model, |_| {});
    // Texts of training repeat after 24 rows, and so do these.
    let alike: Vec<String> = rows(600)
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row["text"].as_str().unwrap().to_owned()
        })
        .collect();
    ask(&server, &alike[..480]);
    assert_eq!(told(&server), (480, Vec::new()));
    ask(&server, &alike[480..]);
    let (count, shifts) = told(&server);
    assert_eq!((count, shifts.len()), (600, 6), "{shifts:?}");
    assert!(shifts.iter().all(|(_, psi)| *psi < 0.1), "{shifts:?}");

    // Longer ones, of words that the tokenizer does not know.
    ask(&server, &vec!["étrange mot inconnu ".repeat(8); 1800]);
    let (count, shifts) = told(&server);
    assert_eq!(count, 2400);
    let psi = |name: &str| shifts.iter().find(|(of, _)| of == name).unwrap().1;
    for name in ["characters", "tokens", "unknownTokens", "charactersBeyondAscii"] {
        assert!(psi(name) > 0.25, "{name}: {shifts:?}");
    }
    let labels = "the labels that are answered";
    assert!(psi(labels).is_finite() && psi("").is_finite(), "{shifts:?}");
}

#[test]
fn a_model_without_a_reference_says_so() {
    let fixture = Fixture::new(0.0);
    let model = trained::model(&fixture, 1);
    std::fs::remove_file(model.join(DRIFT)).unwrap();
    let server = Server::of(fixture, model, |_| {});
    let report = server.get("/drift").json();
    assert!(report["notWatched"].as_str().unwrap().contains("no drift.json"), "{report}");
    assert_eq!(report["shifts"], json!([]));
}

#[test]
fn pictures_are_told_by_their_sizes_and_colours_and_held_out_rows_by_their_labels() {
    let fixture = image_classification::fixture("vit", &vit(), 48);
    let config = fixture.config("job", |config| {
        pictures(config);
        config["data"]["evalSplit"] = 0.5.into();
        config["training"]["maxSteps"] = 2.into();
        config["training"]["saveStrategy"] = "No".into();
    });
    let _ = Gang::run(&config, 2).succeeded();
    let model = fixture.path("job/model");
    let reference = DriftReference::read(&model).unwrap().unwrap();
    let names: Vec<&str> = reference.inputs.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(names, hearth_worker::data::facts::OF_PICTURE);
    let of = |side| RowsOf { side, rows: 24, of: 24 };
    assert_eq!(reference.inputs_of, of(RowsSide::Train));
    assert_eq!(reference.outputs_of, of(RowsSide::Eval));
    // Pictures of 20 by 24 pixels, whatever the model sees of them.
    for (input, size) in reference.inputs.iter().zip([20.0_f64, 24.0]) {
        assert_eq!(input.histogram.edges, [size.next_down(), size], "{}", input.name);
        assert_eq!(input.histogram.shares, [0.0, 1.0, 0.0, 0.0], "{}", input.name);
    }
    assert!(reference.inputs[2].histogram.edges.len() > 5, "{reference:?}");
    assert_eq!(reference.label.edges, [0.0, 1.0, 2.0]);

    let server = Server::of(fixture, model, |config| config["maxBodyBytes"] = 1_000_000.into());
    let png = "content-type: image/png";
    for row in 0..520 {
        let answer = server.post_bytes("/v1/classify", png, &image_classification::png(row));
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let (count, shifts) = told(&server);
    assert_eq!((count, shifts.len()), (520, 9), "{shifts:?}");
    for (name, psi) in &shifts {
        let fixed = ["width", "height"].contains(&name.as_str());
        assert!(!fixed || *psi < 0.01, "{shifts:?}");
    }
}
