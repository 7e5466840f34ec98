//! A damaged checkpoint is told of and skipped; the one before it stands.

use std::fs;
use std::path::Path;

use hearth_worker::event::RankEvent;

use crate::fixture::Fixture;
use crate::gang::Gang;

/// A run that was killed after three checkpoints or more: its configuration.
fn killed(fixture: &Fixture, ranks: usize) -> std::path::PathBuf {
    let config = fixture.config("out", |config| {
        config["training"]["numTrainEpochs"] = 6.into();
    });
    let mut gang = Gang::start(&config, ranks);
    gang.until(|_, event| matches!(event, RankEvent::Checkpoint { step: 15, .. }));
    gang.kill();
    config
}

fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    put(path, &bytes);
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    put(path, &bytes[..bytes.len() / 2]);
}

fn put(path: &Path, bytes: &[u8]) {
    hearth_worker::files::write_synced(path, |out| std::io::Write::write_all(out, bytes)).unwrap();
}

fn falls_back(damage: impl Fn(&Path), named: &str, ranks: usize) {
    let fixture = Fixture::new(0.0);
    let config = killed(&fixture, ranks);
    let [newest, before, ..] = fixture.checkpoints("out")[..] else { panic!("too few") };
    damage(&fixture.path(&format!("out/checkpoints/step-{newest}")));
    let ended = Gang::run(&config, ranks).succeeded();
    assert_eq!(ended.resumed_from(), Some(before), "{named}");
    let notes = ended.notes();
    let (_, message) = notes
        .iter()
        .find(|(reason, _)| reason == "CheckpointCorrupt")
        .unwrap_or_else(|| panic!("no note on {named}: {notes:?}"));
    let says = |part: &str| assert!(message.contains(part), "{part}: {message}");
    says(&format!("step-{newest}"));
    says(named);
    says(&format!("step {before}"));
}

#[test]
fn a_flipped_byte() {
    falls_back(|step| flip_a_byte(&step.join("rank-0.safetensors")), "rank-0.safetensors", 1);
}

#[test]
fn a_truncated_shard() {
    falls_back(|step| cut(&step.join("rank-0.safetensors")), "rank-0.safetensors", 1);
}

#[test]
fn a_missing_shard_of_another_rank() {
    let remove = |step: &Path| fs::remove_file(step.join("rank-1.safetensors")).unwrap();
    falls_back(remove, "rank-1.safetensors", 2);
}

#[test]
fn a_missing_or_damaged_manifest_or_state() {
    falls_back(|step| fs::remove_file(step.join("manifest.json")).unwrap(), "manifest.json", 1);
    falls_back(|step| cut(&step.join("manifest.json")), "manifest.json", 1);
    falls_back(|step| flip_a_byte(&step.join("state.json")), "state.json", 1);
}

#[test]
fn with_every_checkpoint_damaged_training_starts_over_and_says_so() {
    let fixture = Fixture::new(0.0);
    let config = killed(&fixture, 1);
    for step in fs::read_dir(fixture.path("out/checkpoints")).unwrap() {
        let shard = step.unwrap().path().join("rank-0.safetensors");
        if shard.exists() {
            flip_a_byte(&shard);
        }
    }
    let ended = Gang::run(&config, 1).succeeded();
    assert_eq!(ended.resumed_from(), None);
    assert_eq!(ended.losses()[0].0, 1);
    let notes = ended.notes();
    assert!(
        notes.iter().filter(|(reason, _)| reason == "CheckpointCorrupt").count() >= 3,
        "{notes:?}"
    );
    assert!(notes[0].1.contains("from the start"), "{notes:?}");
}

#[test]
fn checkpoints_of_other_settings_are_refused_not_mixed() {
    let fixture = Fixture::new(0.0);
    killed(&fixture, 1);
    let other = fixture.config("out", |config| config["training"]["learningRate"] = 1e-3.into());
    let ended = Gang::run(&other, 1);
    assert_eq!(ended.codes, [Some(64)]);
    let (reason, message) = ended.failure();
    assert_eq!(reason, "OtherRun");
    assert!(message.contains("settings") && message.contains("out/checkpoints"), "{message}");
}
