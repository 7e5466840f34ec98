//! `hearth-worker prepare`, and training on what it made.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use hearth_crds::worker_config::WorkerResult;
use serde_json::{Value, json};

use crate::fixture::{Fixture, rows};

/// 96 rows as CSV, some of them twice, dressed as pages, and one malformed.
fn raw(fixture: &Fixture) {
    let mut csv = "id,body,kind\n".to_owned();
    for (id, row) in rows(96).lines().enumerate() {
        let row: Value = serde_json::from_str(row).unwrap();
        let (text, label) = (row["text"].as_str().unwrap(), row["label"].as_str().unwrap());
        writeln!(csv, "{id},\"<p>{text} {id}</p>\",{label}").unwrap();
        if id % 12 == 0 {
            writeln!(csv, "{id},\"{text}  {id}\",{label}").unwrap();
        }
    }
    csv += "97,\"win\",spam,too much\n";
    fs::create_dir_all(fixture.path("raw")).unwrap();
    fixture.write("raw/a.csv", &csv);
}

fn prepare(fixture: &Fixture, change: impl FnOnce(&mut Value)) -> (Output, WorkerResult) {
    let mut config = json!({
        "version": "hearth.dev/worker/v1",
        "job": {"namespace": "local", "name": "tiny", "uid": "u-1"},
        "train": {"path": fixture.path("raw"), "uri": "pvc://data/raw", "format": "CSV",
                  "text": "body", "label": "kind"},
        "evalSplit": 0.25, "textFields": ["body"], "label": "kind",
        "cleaning": {"clean": ["StripHTML", "CollapseWhitespace"]},
        "maxBadRows": 1,
        "preparation": {"deduplicate": {}, "seed": 3},
        "output": fixture.path("data"), "outputUri": "pvc://data/prepared",
    });
    change(&mut config);
    let path = fixture.write("prepare.json", &config.to_string());
    let told = fixture.path("told.json");
    let output = Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
        .arg("prepare")
        .arg("--config")
        .arg(path)
        .env("HEARTH_TERMINATION_LOG", &told)
        .output()
        .unwrap();
    let result = serde_json::from_slice(&fs::read(told).unwrap()).unwrap();
    (output, result)
}

fn train(fixture: &Fixture) -> Output {
    let config = fixture.config("job", |config| {
        config["job"]["uid"] = "u-1".into();
        config["data"] = json!({
            "train": {"path": fixture.path("raw"), "uri": "pvc://data/raw", "format": "CSV",
                      "text": "body", "label": "kind"},
            "eval": null, "evalSplit": 0.25, "clean": ["StripHTML", "CollapseWhitespace"],
            "prepared": fixture.path("data/jobs/u-1.json"), "maxBadRows": 1
        });
        config["training"]["maxSteps"] = 4.into();
        config["training"]["evalStrategy"] = "Epoch".into();
    });
    Command::new(env!("CARGO_BIN_EXE_hearth-worker"))
        .arg("train")
        .arg("--config")
        .arg(config)
        .env("HEARTH_THREADS", "1")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn raw_rows_are_prepared_once_and_trained_on() {
    let fixture = Fixture::new(0.0);
    raw(&fixture);
    let before = train(&fixture);
    assert_eq!(before.status.code(), Some(1), "a volume may be late: {}", said(&before));
    assert!(said(&before).contains("hearth-worker prepare"), "{}", said(&before));

    let (output, result) = prepare(&fixture, |_| {});
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let data = result.data.unwrap();
    // 8 rows came twice, but for markup and white space, and one is malformed.
    assert_eq!((data.rows, data.dropped), (105, 9), "{data:?}");
    assert_eq!(data.train_rows + data.eval_rows, 96, "{data:?}");
    let directory = fixture.path("data").join(Path::new(&data.uri).file_name().unwrap());
    for file in ["card.json", "card.md", "manifest.json", "train", "eval"] {
        assert!(directory.join(file).exists(), "{file}");
    }
    let (_, again) = prepare(&fixture, |_| {});
    assert!(again.message.contains("prepared already"), "{}", again.message);

    let trained = train(&fixture);
    assert!(trained.status.success(), "{}", said(&trained));
    let card = fs::read(fixture.path("job/model/hearth.json")).unwrap();
    let card: Value = serde_json::from_slice(&card).unwrap();
    assert_eq!(card["clean"], json!(["StripHTML", "CollapseWhitespace"]), "servers clean alike");
    assert_eq!(card["labels"].as_array().unwrap().len(), 2);
}

type Change = fn(&mut Value);

#[test]
fn what_cannot_be_prepared_says_why_with_its_exit_code() {
    let fixture = Fixture::new(0.0);
    raw(&fixture);
    let cases: [(Change, i32, &str, &str); 4] = [
        (|c| c["maxBadRows"] = 0.into(), 65, "BadData", "a.csv:106"),
        (|c| c["train"]["path"] = "/nowhere".into(), 66, "MissingInput", "/nowhere"),
        (|c| c["textFields"] = json!(["mail"]), 65, "BadData", "mail"),
        (
            |c| c["cleaning"] = json!({"clean": ["Replace"], "replace": [{"pattern": "("}]}),
            64,
            "BadConfig",
            "data.replace[0].pattern",
        ),
    ];
    for (change, code, reason, part) in cases {
        let (output, result) = prepare(&fixture, change);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert_eq!(result.reason, reason, "{}", result.message);
        assert!(result.message.contains(part), "{}", result.message);
    }
}
