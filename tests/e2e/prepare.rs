//! Raw rows that are prepared by a pod of their own before workers start, and shared by two jobs.

use std::fmt::Write as _;

use hearth_tests::cluster::{Namespace, condition, told};
use hearth_tests::{jobs, tiny};
use serde_json::{Value, json};

use crate::support::{PATIENCE, ended, succeeded};

/// The tiny rows as CSV: a tenth of them twice, each with a mail address in markup.
fn raw(namespace: &Namespace) -> usize {
    let data = namespace.volume("data");
    let rows = std::fs::read_to_string(data.join("rows.jsonl")).unwrap();
    let mut csv = "mail,kind\n".to_owned();
    let mut count = 0;
    for (number, row) in rows.lines().enumerate() {
        let row: Value = serde_json::from_str(row).unwrap();
        let (text, label) = (row["text"].as_str().unwrap(), row["label"].to_string());
        for _ in 0..=usize::from(number % 10 == 0) {
            writeln!(csv, "\"<b>{text}</b> {number} from a{number}@example.com\",{label}").unwrap();
            count += 1;
        }
    }
    std::fs::create_dir_all(data.join("raw")).unwrap();
    tiny::write_file(&data.join("raw/rows.csv"), csv.as_bytes()).unwrap();
    count
}

fn job(name: &str, change: impl FnOnce(&mut Value)) -> String {
    jobs::training_job(name, 1, 40, |job| {
        job["spec"]["data"] = json!({
            "train": {"source": "pvc://data/raw", "format": "CSV", "text": "mail", "label": "kind"},
            "evalSplit": 0.1,
            "clean": ["StripHTML", "Mask", "CollapseWhitespace"], "mask": ["EmailAddress"],
            "preparation": {"output": "pvc://models/prepared", "deduplicate": {},
                            "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "50m"}}},
        });
        change(job);
    })
}

#[test]
fn raw_rows_are_prepared_once_for_all_that_ask_alike() {
    let namespace = Namespace::create("e2e-prepare").unwrap();
    jobs::fill(&namespace).unwrap();
    let rows = raw(&namespace);
    namespace.apply(&job("first", |_| {})).unwrap();
    let first = succeeded(&namespace, "first");
    let data = &first["status"]["data"];
    assert_eq!(data["rows"], json!(rows), "{data}");
    assert_eq!(data["dropped"], json!(rows - 400), "{data}");
    let kept = data["trainRows"].as_u64().unwrap() + data["evalRows"].as_u64().unwrap();
    assert_eq!(kept, 400, "{data}");
    let id = data["uri"].as_str().unwrap().trim_start_matches("pvc://models/prepared/").to_owned();
    let directory = namespace.volume("models").join("prepared").join(&id);
    let card: Value =
        serde_json::from_slice(&std::fs::read(directory.join("card.json")).unwrap()).unwrap();
    assert_eq!(card["masked"]["EmailAddress"], json!(rows), "{card}");
    assert!(!card.to_string().contains("@example.com"), "the card tells of nobody");

    namespace.apply(&job("second", |_| {})).unwrap();
    let second = succeeded(&namespace, "second");
    assert_eq!(second["status"]["data"], *data, "nothing changed, so nothing is made anew");

    let bad = job("bad", |job| job["spec"]["data"]["train"]["text"] = json!("letter"));
    namespace.apply(&bad).unwrap();
    let failed = ended(&namespace, "bad");
    assert_eq!(condition(&failed, "Failed"), "True");
    assert!(told(&failed, "Failed").contains("letter"), "{}", told(&failed, "Failed"));
    let waits = |list: &Vec<Value>| list.iter().all(|pod| pod["status"]["phase"] != "Running");
    let pods = || namespace.list("pods", "hearth.dev/name=bad");
    hearth_tests::cluster::await_value(PATIENCE, pods, &waits).unwrap();
}
