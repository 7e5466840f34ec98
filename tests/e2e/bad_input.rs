//! What users get wrong, and what they are told.

use std::fs;
use std::time::Duration;

use hearth_tests::cluster::{Namespace, condition, told};
use hearth_tests::{jobs, tiny};
use serde_json::{Value, json};

use crate::support::{ended, succeeded};

type Change = fn(&mut Value);

#[test]
fn a_malformed_job_is_refused_by_kubectl_apply_with_the_field_and_the_fix() {
    let namespace = Namespace::create("e2e-malformed").unwrap();
    let cases: [(&str, Change); 5] = [
        ("spec.training.learningRate", |j| j["spec"]["training"]["learningRate"] = "fast".into()),
        ("unknown field \"spec.training.learning_rate\"", |j| {
            j["spec"]["training"]["learning_rate"] = json!(0.1);
        }),
        ("spec.task: Unsupported value", |j| j["spec"]["task"] = "Poetry".into()),
        ("needs an evaluation", |j| {
            j["spec"]["training"]["evalStrategy"] = "No".into();
            j["spec"]["training"]["loadBestModelAtEnd"] = true.into();
        }),
        ("spec.output: Required value", |j| {
            j["spec"].as_object_mut().unwrap().remove("output");
        }),
    ];
    for (want, change) in cases {
        let said = namespace.try_apply(&jobs::training_job("bad", 1, 10, change)).unwrap();
        assert!(!said.ok && said.text.contains(want), "{want}: {}", said.text);
    }
}

#[test]
fn what_is_valid_but_cannot_run_is_told_in_a_condition_while_other_jobs_go_on() {
    let namespace = Namespace::create("e2e-refused").unwrap();
    jobs::fill(&namespace).unwrap();
    let no_claim =
        |j: &mut Value| j["spec"]["data"]["train"]["source"] = "pvc://nowhere/x.jsonl".into();
    let column = |j: &mut Value| j["spec"]["data"]["train"]["image"] = "picture".into();
    let bucket = |j: &mut Value| j["spec"]["model"]["source"] = "s3://models/x".into();
    for (name, change) in
        [("claim", &no_claim as &dyn Fn(&mut Value)), ("column", &column), ("bucket", &bucket)]
    {
        namespace.apply(&jobs::training_job(name, 1, 10, change)).unwrap();
    }
    namespace.apply(&jobs::training_job("good", 1, 100, |_| {})).unwrap();
    let limit = Duration::from_secs(30);
    let claim = namespace
        .wait("trainingjob", "claim", limit, |j| {
            !told(j, "Admitted").is_empty() && condition(j, "Admitted") == "False"
        })
        .unwrap();
    assert!(told(&claim, "Admitted").contains("nowhere"), "{}", told(&claim, "Admitted"));
    for (name, word) in [("column", "spec.data.train.image"), ("bucket", "s3://")] {
        let job = namespace
            .wait("trainingjob", name, limit, |j| condition(j, "Accepted") == "False")
            .unwrap();
        assert!(told(&job, "Accepted").contains(word), "{}", told(&job, "Accepted"));
    }
    succeeded(&namespace, "good");
    namespace.claim("nowhere").unwrap();
    fs::copy(
        namespace.volume("data").join("rows.jsonl"),
        namespace.volume("nowhere").join("x.jsonl"),
    )
    .unwrap();
    succeeded(&namespace, "claim");
}

#[test]
fn a_truncated_data_file_fails_its_job_with_file_and_line() {
    let namespace = Namespace::create("e2e-truncated").unwrap();
    jobs::fill(&namespace).unwrap();
    let rows = namespace.volume("data").join("rows.jsonl");
    let whole = fs::read(&rows).unwrap();
    tiny::write_file(&namespace.volume("data").join("cut.jsonl"), &whole[..whole.len() - 7])
        .unwrap();
    let cut = |j: &mut Value| j["spec"]["data"]["train"]["source"] = "pvc://data/cut.jsonl".into();
    let tolerant = |j: &mut Value| {
        cut(j);
        j["spec"]["data"]["maxBadRows"] = 1.into();
    };
    namespace.apply(&jobs::training_job("cut", 2, 50, cut)).unwrap();
    namespace.apply(&jobs::training_job("tolerant", 1, 50, tolerant)).unwrap();
    let failed = ended(&namespace, "cut");
    let message = told(&failed, "Failed");
    assert!(message.starts_with("BadData"), "{message}");
    assert!(message.contains("cut.jsonl") && message.contains("400"), "{message}");
    let described = namespace.kubectl(&["describe", "trainingjob", "cut"]).unwrap();
    assert!(described.contains("cut.jsonl"), "{described}");
    succeeded(&namespace, "tolerant");
}

#[test]
fn a_corrupted_checkpoint_is_passed_over_for_the_one_before() {
    let namespace = Namespace::create("e2e-corrupt").unwrap();
    jobs::fill(&namespace).unwrap();
    let short = |j: &mut Value| j["spec"]["training"]["saveSteps"] = 100.into();
    namespace.apply(&jobs::training_job("twin", 1, 300, short)).unwrap();
    succeeded(&namespace, "twin");
    let models = namespace.volume("models");
    let copy = std::process::Command::new("cp")
        .args(["-a"])
        .arg(models.join("twin"))
        .arg(models.join("hit"))
        .status()
        .unwrap();
    assert!(copy.success());
    for entry in ["model", "result.json", ".hearth"] {
        let path = models.join("hit").join(entry);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
    }
    flip_a_byte(&models.join("hit/checkpoints/step-300/rank-0.safetensors"));
    namespace.apply(&jobs::training_job("hit", 1, 300, short)).unwrap();
    let hit = succeeded(&namespace, "hit");
    let pods = namespace.kubectl(&["logs", "-l", "hearth.dev/name=hit", "--tail=-1"]).unwrap();
    assert!(pods.contains("step-300"), "no word about the corrupt checkpoint:\n{pods}");
    assert_eq!(hit["status"]["progress"]["step"], 300);
    let weights = |job: &str| fs::read(models.join(job).join("model/model.safetensors")).unwrap();
    assert!(weights("hit") == weights("twin"), "resumed from step 200, the weights differ");
}

fn flip_a_byte(file: &std::path::Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    tiny::write_file(file, &bytes).unwrap();
}
