//! Files that somebody damaged, or made to do harm: whatever they hold, readers refuse them or read
//! them, and take no more memory than a whole file may.
//!
//! An input is made of a good file and a number, so that the number in a failure's message makes it
//! again. A million each, or as many as `HOSTILE_INPUTS` says:
//! `cargo test --release -p hearth-prepare --test hostile -- --ignored`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test stops at the first surprise")]

mod mutate;
mod pipeline;
mod seeds;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hearth_prepare::import::Imported;
use hearth_prepare::import::dicom::{self, DicomOptions};
use hearth_prepare::import::images::{Files, Images, ImagesOptions};
use hearth_prepare::import::label_studio::{LabelStudio, LabelStudioOptions};
use hearth_prepare::picture::decode::decode;

/// Inputs of a test that runs each time, and of one that is asked for.
const FEW: u64 = 20_000;
const MANY: u64 = 1_000_000;

fn many() -> u64 {
    std::env::var("HOSTILE_INPUTS").map_or(MANY, |count| count.parse().unwrap())
}

/// Most MiB that the process may take: four readers at a time, each with a picture of 128 MiB in
/// the form that it has in the file and as RGB.
const MOST_MIB: u64 = 1200;

/// Gives `count` inputs to a reader, which says whether it read the input.
fn feed(name: &str, seeds: &[Vec<u8>], count: u64, mut read: impl FnMut(&[u8]) -> bool) {
    for (number, seed) in seeds.iter().enumerate() {
        assert!(read(seed), "{name}: good file {number} is not read");
    }
    let start = Instant::now();
    let (mut accepted, mut slowest) = (0_u64, Duration::ZERO);
    for number in 0..count {
        let input = mutate::input(seeds, number);
        let begin = Instant::now();
        let was_read = catch_unwind(AssertUnwindSafe(|| read(&input)));
        assert!(was_read.is_ok(), "{name}: input {number} panics");
        accepted += u64::from(was_read.unwrap_or_default());
        slowest = slowest.max(begin.elapsed());
    }
    let mib = peak_mib();
    println!(
        "{name}: {count} inputs in {:?}, {accepted} read, slowest {slowest:?}, peak {mib} MiB",
        start.elapsed()
    );
    assert!(mib < MOST_MIB, "{name}: {mib} MiB");
}

/// Most MiB of memory that the process had, as Linux says; 0 elsewhere.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn pictures(count: u64) {
    feed("pictures", &seeds::pictures(), count, |input| decode(input).is_ok());
}

fn dicom(count: u64) {
    let options = DicomOptions { patient_characteristics: true, ..DicomOptions::default() };
    feed("DICOM", &seeds::dicom(), count, |input| dicom::read(Cursor::new(input), options).is_ok());
}

fn label_studio(count: u64) {
    feed("Label Studio", &seeds::label_studio(), count, |input| {
        let options = LabelStudioOptions { label: "sentiment".into(), image: Some("image".into()) };
        let directory = PathBuf::from("/nowhere");
        LabelStudio::new(Cursor::new(input), Path::new("export.json"), directory, options)
            .all(|imported| imported.is_ok())
    });
}

fn metadata(count: u64) {
    // In memory, where there is such a directory: a file is written for each input.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    std::fs::File::create(directory.path().join("1.png")).unwrap();
    let path = directory.path().join("metadata.jsonl");
    feed("metadata.jsonl", &seeds::metadata(), count, |input| {
        let mut file = std::fs::File::create(&path).unwrap();
        std::io::Write::write_all(&mut file, input).unwrap();
        let (image, label) = ("image".into(), "label".into());
        let options = ImagesOptions { image, label, files: Files::Pictures };
        let mut rows = Images::open(directory.path(), options).unwrap();
        rows.any(|imported| matches!(imported, Ok(Imported::Row(_))))
    });
}

#[test]
fn pictures_are_read_or_refused() {
    pictures(FEW);
}

#[test]
fn dicom_is_read_or_refused() {
    dicom(FEW);
}

#[test]
fn label_studio_is_read_or_refused() {
    label_studio(FEW);
}

#[test]
fn metadata_is_read_or_refused() {
    metadata(FEW);
}

#[test]
#[ignore = "a million inputs, with --release"]
fn a_million_pictures() {
    pictures(many());
}

#[test]
#[ignore = "a million inputs, with --release"]
fn a_million_of_dicom() {
    dicom(many());
}

#[test]
#[ignore = "a million inputs, with --release"]
fn a_million_of_label_studio() {
    label_studio(many());
}

#[test]
#[ignore = "a million inputs, with --release"]
fn a_million_of_metadata() {
    metadata(many());
}
