//! What a user sees of bad input: exit code, reason, and one sentence.

use serde_json::Value;

use crate::fixture::{Fixture, rows};
use crate::gang::Gang;

fn refused(fixture: &Fixture, change: impl FnOnce(&mut Value)) -> (Option<i32>, String, String) {
    let ended = Gang::run(&fixture.config("out", change), 1);
    let (reason, message) = ended.failure();
    (ended.codes[0], reason, message)
}

#[test]
fn malformed_rows_are_refused_with_file_line_and_reason() {
    let fixture = Fixture::new(0.0);
    let text = rows(4) + "{\"text\": \"no label\"}\n" + &rows(4) + "{\"text\": \"cut o";
    fixture.write("train.jsonl", &text);
    let (code, reason, message) = refused(&fixture, |_| ());
    assert_eq!((code, reason.as_str()), (Some(65), "BadData"));
    for part in ["train.jsonl:5", "\"label\" is missing", "2 malformed", "maxBadRows"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn permitted_bad_rows_are_skipped_and_told() {
    let fixture = Fixture::new(0.0);
    fixture.write("train.jsonl", &(rows(30) + "{\"text\": \"cut o"));
    let config = fixture.config("out", |config| {
        config["data"]["maxBadRows"] = 1.into();
        config["training"]["maxSteps"] = 2.into();
    });
    let notes = Gang::run(&config, 1).succeeded().notes();
    let (_, message) = notes.iter().find(|(reason, _)| reason == "BadRows").unwrap();
    assert!(message.contains("train.jsonl:31") && message.contains("truncated"), "{message}");
}

#[test]
fn each_fault_has_its_exit_code_and_names_what_is_wrong() {
    let fixture = Fixture::new(0.0);
    fixture.write("empty.jsonl", "\n");
    fixture
        .write("one.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"b\",\"label\":\"x\"}\n");
    fixture.write("broken/config.json", "{\"model_type\": \"bert\"");
    fixture.write("gpt2/config.json", "{\"model_type\": \"gpt2\"}");
    let at = |name: &str| Value::from(fixture.path(name).to_str().unwrap());
    for (pointer, value, code, named) in [
        ("/data/train/path", at("gone.jsonl"), 66, "gone.jsonl"),
        ("/data/train/path", at("empty.jsonl"), 65, "empty.jsonl"),
        ("/data/train/path", at("one.jsonl"), 65, "two labels"),
        ("/model", at("nowhere"), 66, "nowhere/config.json"),
        ("/model", at("broken"), 65, "broken/config.json"),
        ("/model", at("gpt2"), 64, "gpt2"),
        ("/task", "TabularClassification".into(), 64, "data.preparation"),
        ("/version", "v0".into(), 64, "v0"),
        ("/training/momentum", 0.9.into(), 64, "training.momentum"),
        ("/output", "/proc/hearth".into(), 1, "/proc/hearth"),
    ] {
        let (got, reason, message) = refused(&fixture, |config| {
            *config.pointer_mut(pointer).unwrap_or(&mut Value::Null) = value.clone();
            if pointer == "/training/momentum" {
                config["training"]["momentum"] = value.clone();
            }
        });
        assert_eq!(got, Some(code), "{pointer} {value}: {reason}: {message}");
        assert!(message.contains(named), "{pointer}: {message}");
        assert!(message.len() < 400, "{message}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_and_not_a_run_on_the_cpu() {
    let fixture = Fixture::new(0.0);
    let (code, reason, _) = refused(&fixture, |config| config["accelerator"] = "CUDA".into());
    // With a GPU in the machine this fixture trains; then there is nothing to show.
    assert_eq!((code, reason.as_str()), (Some(69), "AcceleratorUnavailable"));
}

#[test]
fn a_truncated_weight_file_is_told_by_name() {
    let fixture = Fixture::new(0.0);
    let path = fixture.path("model/model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(bytes.len() as u64 / 2)
        .unwrap();
    let (code, _, message) = refused(&fixture, |_| ());
    assert_eq!(code, Some(65));
    assert!(message.contains("model.safetensors") && message.contains("whole"), "{message}");
}

#[test]
fn a_diverging_run_stops_on_all_ranks_with_advice() {
    let fixture = Fixture::new(0.0);
    let config = fixture.config("out", |config| {
        config["training"]["learningRate"] = 100.0.into();
        config["training"]["adamEpsilon"] = 0.0.into();
        config["training"]["maxGradNorm"] = 0.0.into();
        config["training"]["warmupSteps"] = 0.into();
        config["training"]["lrSchedulerType"] = "ConstantWithWarmup".into();
        config["training"]["maxSteps"] = 2000.into();
        config["training"]["saveStrategy"] = "No".into();
    });
    let ended = Gang::run(&config, 2);
    assert_eq!(ended.codes, [Some(65), Some(65)], "{}", ended.log);
    let (reason, message) = ended.failure();
    assert_eq!(reason, "NotFinite");
    assert!(message.contains("learningRate"), "{message}");
}
