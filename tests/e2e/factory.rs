//! The sample of factory defects: real pictures of solar cells, a few of them, by one apply.

use std::path::Path;
use std::time::Instant;

use hearth_tests::cluster::{Namespace, Way, condition};
use hearth_tests::{http, tiny};
use serde_json::Value;

use crate::support::{PATIENCE, copy, fetched, sample, succeeded};

/// Of how many cells the test learns from one: from a few of each module.
const ONE_OF: usize = 16;
const PNG: &str = "image/png";

/// Puts some cells into a folder; their labels and paths.
fn cells(from: &Path, to: &Path) -> Vec<(String, std::path::PathBuf)> {
    let metadata = std::fs::read_to_string(from.join("metadata.jsonl")).unwrap();
    let (mut kept, mut some) = (String::new(), Vec::new());
    for line in metadata.lines().step_by(ONE_OF) {
        let row: Value = serde_json::from_str(line).unwrap();
        let file = row["file_name"].as_str().unwrap();
        copy(&from.join(file), &to.join(file));
        some.push((row["label"].as_str().unwrap().to_owned(), to.join(file)));
        kept.push_str(line);
        kept.push('\n');
    }
    tiny::write_file(&to.join("metadata.jsonl"), kept.as_bytes()).unwrap();
    some
}

#[test]
fn cells_are_learned_and_judged_by_a_threshold_that_misses_none_it_was_chosen_on() {
    let namespace = Namespace::create("e2e-factory").unwrap();
    namespace.claim("cells").unwrap();
    let (volume, source) = (namespace.volume("cells"), fetched("cells.sh"));
    copy(&source.join("mobilenet"), &volume.join("mobilenet"));
    let cells = cells(&source.join("cells"), &volume.join("cells"));
    namespace.apply(&sample("factory-defects")).unwrap();
    let job = succeeded(&namespace, "cells");
    println!("{}", job["status"]["progress"]);
    let decision = std::fs::read(volume.join("model/model/threshold.json")).unwrap();
    let decision: Value = serde_json::from_slice(&decision).unwrap();
    println!("{decision}");
    assert_eq!(decision["label"], "defective");
    assert_eq!(decision["threshold"]["chosenOn"]["counts"]["falseNegatives"], 0, "{decision}");
    let events = namespace.kubectl(&["events", "--for", "trainingjob/cells"]).unwrap();
    assert!(events.contains("ThresholdChosen"), "{events}");

    let ready =
        |d: &Value| condition(d, "Ready") == "True" && condition(d, "Progressing") == "False";
    namespace.wait("modeldeployment", "cells", PATIENCE, ready).unwrap();
    let way = Way::open(&namespace, "cells", 80).unwrap();
    let ask = |path: &Path| -> Value {
        let picture = std::fs::read(path).unwrap();
        let answer = http::post_bytes(&way.address, "/v1/classify", PNG, &picture).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    };
    let (mut found, mut defective, mut scores) = (0, 0, [Vec::new(), Vec::new()]);
    let began = Instant::now();
    for (label, path) in &cells {
        let told = ask(path);
        let from = told["threshold"]["score"].as_f64().unwrap();
        assert_eq!(told["threshold"]["score"], decision["threshold"]["value"], "{told}");
        let classes = told["outputs"][0].as_array().unwrap();
        let of = classes.iter().find(|class| class["label"] == "defective").unwrap();
        let score = of["score"].as_f64().unwrap();
        let answer = if score >= from { "defective" } else { "accepted" };
        assert_eq!(classes[0]["label"], answer, "{told}");
        let is = label == "defective";
        defective += usize::from(is);
        found += usize::from(is && answer == "defective");
        scores[usize::from(is)].push(score);
    }
    // Each is new to the servers, which answer equal pictures from memory.
    let a_minute = cells.len() as f64 * 60.0 / began.elapsed().as_secs_f64();
    println!("{a_minute:.0} pictures a minute through the gateway, one after another");
    println!("{found} of {defective} defective cells of {} are found", cells.len());
    let mean = |scores: &[f64]| scores.iter().sum::<f64>() / scores.len() as f64;
    let [accepted, defects] = scores.map(|scores| mean(&scores));
    println!("mean scores: {accepted:.3} of accepted cells, {defects:.3} of defective ones");
    // Of so few cells nothing is learned but what the threshold does: it finds most of what is defective.
    assert!(2 * found > defective, "{found} of {defective}");
}
