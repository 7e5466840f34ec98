//! Any way of sharing a model takes up the checkpoints of any other.

use std::fs;
use std::path::Path;

use hearth_worker::event::RankEvent;
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::ways::{
    ALONE, STEPS, Ways, config, export_gap, farthest, language_model, losses, saving,
};

/// Takes up `from`'s checkpoint of `step` in another way; the losses after it.
fn go_on(fixture: &Fixture, (from, step): (&str, i64), output: &str, ways: Ways) -> Vec<f64> {
    let checkpoint = format!("checkpoints/step-{step}");
    copy(&fixture.path(from).join(&checkpoint), &fixture.path(output).join(&checkpoint));
    // The settings of the run are the first one's; the number of ranks may be any.
    let text = fs::read_to_string(fixture.path(&format!("{from}.json"))).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    document["output"] = json!(fixture.path(output));
    document["parallelism"] = json!({
        "sharding": ways.sharding, "tensor": ways.tensor, "pipeline": ways.pipeline,
        "expert": ways.expert
    });
    let config = fixture.write(&format!("{output}.json"), &document.to_string());
    let ended = Gang::run(&config, ways.ranks).succeeded();
    assert_eq!(ended.resumed_from(), Some(step));
    losses(&ended)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn checkpoints_of_any_way_are_taken_up_by_any_other() {
    let fixture = language_model("deepseek");
    // All learn from two shares of a batch at a time, so that steps are the same.
    let full = Ways { sharding: "Full", ranks: 2, ..ALONE };
    let file = config(&fixture, "full", full, saving);
    let whole = losses(&Gang::run(&file, 2).succeeded());
    let others = [
        Ways { ranks: 2, ..ALONE },
        Ways { sharding: "Optimizer", tensor: 2, ranks: 4, ..ALONE },
        Ways { expert: 2, pipeline: 2, ranks: 4, ..ALONE },
        full,
    ];
    let mut from = ("full".to_owned(), 5);
    for (index, ways) in others.into_iter().enumerate() {
        let output = format!("ways-{index}");
        let rest = go_on(&fixture, (&from.0, from.1), &output, ways);
        let gap = farthest(&whole[usize::try_from(from.1).unwrap()..], &rest);
        eprintln!("{from:?} -> {ways:?}: losses differ by {gap:.1e}");
        assert!(gap <= 1e-4, "{from:?} -> {ways:?}: losses differ by {gap:e}");
        if from.1 < 15 {
            from = (output, from.1 + 5);
        }
    }
}

#[test]
fn four_ranks_become_two_and_four_again() {
    let fixture = language_model("llama");
    let mut runs = Vec::new();
    for sharding in ["None", "Full"] {
        let four = Ways { sharding, ranks: 4, ..ALONE };
        let two = Ways { ranks: 2, ..four };
        let name = |stage: &str| format!("{sharding}-{stage}");
        let file = config(&fixture, &name("first"), four, saving);
        let mut all = losses(&Gang::run(&file, 4).succeeded());
        all.truncate(10);
        let mut shrunk = go_on(&fixture, (&name("first"), 10), &name("shrunk"), two);
        shrunk.truncate(5);
        all.extend(shrunk);
        all.extend(go_on(&fixture, (&name("shrunk"), 15), &name("grown"), four));
        runs.push(all);
    }
    assert_eq!(runs[0].len(), STEPS);
    let gap = farthest(&runs[0], &runs[1]);
    eprintln!("4 -> 2 -> 4 ranks: losses differ by {gap:.1e}");
    assert!(gap <= 1e-4, "losses differ by {gap:e}");
}

#[test]
fn a_killed_run_of_sharded_ranks_goes_on_bit_for_bit() {
    let fixture = language_model("llama");
    let ways = Ways { sharding: "Full", ranks: 2, ..ALONE };
    let whole = Gang::run(&config(&fixture, "whole", ways, saving), 2).succeeded().losses();
    let file = config(&fixture, "killed", ways, saving);
    let mut gang = Gang::start(&file, 2);
    gang.until(|_, event| matches!(event, RankEvent::Checkpoint { step: 10, .. }));
    gang.kill();
    let rest = Gang::run(&file, 2).succeeded();
    assert!(rest.resumed_from().is_some_and(|step| step >= 10));
    let rest = rest.losses();
    assert_eq!(rest, whole[whole.len() - rest.len()..], "bit for bit");
    assert!(export_gap(&fixture, "whole", "killed") == 0.0);
}
