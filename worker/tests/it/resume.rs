//! A killed and resumed run is, bit for bit, the run that was never killed.

use std::fs;
use std::path::Path;

use hearth_worker::checkpoint::manifest::{FileEntry, MANIFEST, Manifest};
use hearth_worker::event::RankEvent;

use crate::fixture::Fixture;
use crate::gang::{Ended, Gang};

/// 60 steps, saved every 5; dropout on, evaluation on.
fn config(fixture: &Fixture, output: &str, ranks: usize) -> std::path::PathBuf {
    fixture.config(output, |config| {
        // 77 rows to learn from: 10 steps an epoch for one rank, 5 for two.
        config["training"]["numTrainEpochs"] = (6 * ranks).into();
        config["data"]["evalSplit"] = 0.2.into();
        config["training"]["evalStrategy"] = "Steps".into();
        config["training"]["evalSteps"] = 5.into();
        config["training"]["loadBestModelAtEnd"] = true.into();
    })
}

/// Kills all ranks at once, some steps after a checkpoint; the step of the
/// newest one that they left.
fn interrupt(fixture: &Fixture, config: &Path, ranks: usize) -> i64 {
    let mut gang = Gang::start(config, ranks);
    // It is complete some steps after the one that it holds.
    gang.until(|_, event| matches!(event, RankEvent::Checkpoint { step: 10, .. }));
    gang.kill();
    let newest = fixture.checkpoints("killed")[0];
    assert!((10..60).contains(&newest), "killed after step {newest}");
    newest
}

fn final_bits(fixture: &Fixture, output: &str) -> (Vec<u8>, Vec<u8>, String) {
    let read = |name: &str| fs::read(fixture.path(output).join(name)).unwrap();
    let journal = String::from_utf8(read("metrics.jsonl")).unwrap();
    // Speeds and durations differ from run to run; figures must not.
    let figures = journal
        .lines()
        .map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            for of_speed in ["tokensPerSecond", "samplesPerSecond", "dataWaitRatio", "system"] {
                line.as_object_mut().unwrap().remove(of_speed);
            }
            if let Some(eval) = line.get_mut("eval") {
                eval["seconds"] = 0.into();
            }
            line.to_string() + "\n"
        })
        .collect();
    (read("model/model.safetensors"), read("checkpoints/step-60/rank-0.safetensors"), figures)
}

fn continues(whole: &Ended, resumed: &Ended) {
    let from = resumed.resumed_from().unwrap();
    let want: Vec<_> = whole.losses().into_iter().filter(|(step, _)| *step > from).collect();
    assert!(!want.is_empty());
    assert_eq!(resumed.losses(), want, "losses after step {from}");
}

fn killed_run_equals_whole_run(ranks: usize) {
    let fixture = Fixture::new(0.1);
    let whole = Gang::run(&config(&fixture, "whole", ranks), ranks).succeeded();
    let killed = config(&fixture, "killed", ranks);
    let newest = interrupt(&fixture, &killed, ranks);
    let resumed = Gang::run(&killed, ranks).succeeded();
    assert_eq!(resumed.resumed_from(), Some(newest));
    continues(&whole, &resumed);
    assert_eq!(final_bits(&fixture, "whole"), final_bits(&fixture, "killed"));
}

#[test]
fn one_killed_rank_resumes_bit_for_bit() {
    killed_run_equals_whole_run(1);
}

#[test]
fn two_killed_ranks_resume_bit_for_bit() {
    killed_run_equals_whole_run(2);
}

#[test]
fn a_run_that_stops_at_two_steps_on_its_way_is_the_run_that_does_not() {
    let fixture = Fixture::new(0.1);
    let whole = Gang::run(&config(&fixture, "whole", 1), 1).succeeded();
    for (stop, from) in [(Some(20), None), (Some(40), Some(20)), (None, Some(40))] {
        let rung = config(&fixture, "rungs", 1);
        let mut told: serde_json::Value =
            serde_json::from_slice(&fs::read(&rung).unwrap()).unwrap();
        if let Some(stop) = stop {
            told["stopAtStep"] = stop.into();
        }
        fs::write(&rung, told.to_string()).unwrap();
        let ended = Gang::run(&rung, 1).succeeded();
        assert_eq!(ended.resumed_from(), from);
        assert_eq!(fixture.checkpoints("rungs")[0], stop.unwrap_or(60));
        assert!(fixture.path("rungs/model/model.safetensors").exists());
        // The learning rate is that of the whole run.
        let until = stop.unwrap_or(60);
        let want = whole
            .losses()
            .into_iter()
            .filter(|(step, _)| (from.unwrap_or(0) + 1..=until).contains(step));
        assert_eq!(ended.losses(), want.collect::<Vec<_>>());
    }
    assert_eq!(final_bits(&fixture, "whole"), final_bits(&fixture, "rungs"));
}

#[test]
fn the_comparison_sees_a_cursor_that_was_not_restored() {
    let fixture = Fixture::new(0.1);
    let whole = Gang::run(&config(&fixture, "whole", 1), 1).succeeded();
    let killed = config(&fixture, "killed", 1);
    let newest = interrupt(&fixture, &killed, 1);
    // The planted bug: a checkpoint that is one batch ahead.
    let checkpoint = format!("killed/checkpoints/step-{newest}");
    let directory = fixture.path(&checkpoint);
    let state = fs::read_to_string(directory.join("state.json")).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&state).unwrap();
    let offset = value["cursor"]["offset"].as_u64().unwrap();
    value["cursor"]["offset"] = if offset < 64 { offset + 8 } else { offset - 8 }.into();
    fixture.write(&format!("{checkpoint}/state.json"), &value.to_string());
    let mut manifest: Manifest =
        serde_json::from_slice(&fs::read(directory.join(MANIFEST)).unwrap()).unwrap();
    for file in &mut manifest.files {
        *file = FileEntry::of(&directory, &file.name).unwrap();
    }
    let text = serde_json::to_string(&manifest).unwrap();
    fixture.write(&format!("{checkpoint}/manifest.json"), &text);
    let resumed = Gang::run(&killed, 1).succeeded();
    let (step, wrong) = resumed.losses()[0];
    assert_eq!(step, newest + 1);
    let (_, right) = *whole.losses().iter().find(|(step, _)| *step == newest + 1).unwrap();
    assert!((right - wrong).abs() > 1e-6, "the wrong batch went unnoticed");
}

#[test]
fn a_smaller_gang_goes_on_with_the_rows_not_yet_seen() {
    let fixture = Fixture::new(0.0);
    let config = fixture.config("shrunk", |config| {
        config["training"]["saveSteps"] = 2.into();
        config["training"]["numTrainEpochs"] = 1.into();
    });
    // Two ranks: 6 steps of 16 rows. One rank: steps of 8 rows.
    let mut gang = Gang::start(&config, 2);
    gang.until(|_, event| matches!(event, RankEvent::Checkpoint { step: 2, .. }));
    gang.kill();
    let resumed = Gang::run(&config, 1).succeeded();
    let from = resumed.resumed_from().unwrap();
    let samples: Vec<u64> = resumed.of_rank_0(|event| match event {
        RankEvent::Step(report) => Some(report.samples),
        _ => None,
    });
    let left = 96 - 16 * u64::try_from(from).unwrap();
    assert_eq!(samples.iter().sum::<u64>(), left, "every row of the epoch once");
    assert!(samples.iter().all(|samples| *samples == 8));
}

#[test]
fn a_finished_run_exports_the_same_model_again() {
    let fixture = Fixture::new(0.1);
    let config = config(&fixture, "done", 1);
    let digest = |ended: &Ended| {
        ended.of_rank_0(|event| match event {
            RankEvent::Finished { digest, .. } => digest.clone(),
            _ => None,
        })
    };
    let first = Gang::run(&config, 1).succeeded();
    let second = Gang::run(&config, 1).succeeded();
    assert_eq!(second.losses(), []);
    assert_eq!(digest(&first), digest(&second));
    assert_eq!(digest(&first).len(), 1);
}
