//! Directories that are damaged, or that somebody made to harm.

use std::fs;
use std::path::Path;

use hearth_tabular::{CalibrationMethod, FitConfig, Model, ThresholdTarget, TreesConfig};

use crate::data::{model, row};

fn put(path: &Path, bytes: &[u8]) {
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fs::write(path, bytes).unwrap();
}

fn sample() -> Model {
    let config = FitConfig {
        trees: TreesConfig { n_estimators: 3, num_leaves: 6, ..TreesConfig::default() },
        calibration: Some(CalibrationMethod::Isotonic),
        threshold: Some(ThresholdTarget::FalsePositiveRate(0.1)),
    };
    model("label", &config)
}

/// Bytes of a small generator.
fn drawn(number: u64) -> u64 {
    let hash = blake3::hash(&number.to_le_bytes());
    let (first, _) = hash.as_bytes().split_at(8);
    first.iter().fold(0, |all, byte| (all << 8) | u64::from(*byte))
}

/// A text with one place changed: a byte, a number, a line that goes or comes twice, an end.
#[expect(clippy::cast_possible_truncation, reason = "64 bits")]
fn mutated(text: &[u8], number: u64) -> Vec<u8> {
    let mut bytes = text.to_vec();
    let at = drawn(number) as usize % bytes.len();
    match number % 6 {
        0 => bytes[at] = drawn(number + 1) as u8,
        1 => bytes.truncate(at),
        2 => {
            // The next digit becomes a large number.
            if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                let large: &[u8] = if number % 12 == 2 { b"2147483647" } else { b"-7" };
                bytes.splice(at + digit..=at + digit, large.iter().copied());
            }
        }
        3 => {
            let end = bytes[at..].iter().position(|byte| *byte == b'\n').map_or(at, |end| at + end);
            bytes.drain(at..end);
        }
        4 => {
            let end = (at + 40).min(bytes.len());
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                bytes[at + digit] = b'0' + (drawn(number + 2) % 10) as u8;
            }
        }
    }
    bytes
}

/// The hash in `config.json` is right for what was changed, as somebody who means harm would have it.
#[test]
fn changed_trees_are_refused_or_harmless() {
    let sample = sample();
    let mut read = 0;
    for number in 0..6000 {
        let changed = mutated(sample.text().unwrap().as_bytes(), number);
        let Ok(text) = String::from_utf8(changed) else { continue };
        if let Ok(model) = Model::new(text, sample.parts().clone()) {
            read += 1;
            let rows = model.encode(&[row()]).unwrap();
            model.predict_rows(&rows, 5).unwrap();
        }
    }
    // Other thresholds and values still make trees.
    assert!(read > 100, "{read}");
}

#[test]
fn a_damaged_directory_is_refused_with_the_file() {
    let sample = sample();
    let directory = tempfile::tempdir().unwrap();
    sample.save(directory.path()).unwrap();
    for name in ["config.json", "model.txt"] {
        let path = directory.path().join(name);
        let good = fs::read(&path).unwrap();
        for number in 0..400 {
            put(&path, &mutated(&good, number));
            match Model::load(directory.path()) {
                Ok(model) => drop(model.predict(&[row()])),
                Err(error) => {
                    let told = error.to_string();
                    assert!(told.contains("config.json") || told.contains(name), "{told}");
                }
            }
        }
        put(&path, &good);
    }
    let path = directory.path().join("model.txt");
    put(&path, &[fs::read(&path).unwrap(), b"\n".to_vec()].concat());
    let told = Model::load(directory.path()).unwrap_err().to_string();
    assert!(told.contains("model.txt: its content is not as config.json says"), "{told}");
    fs::remove_file(&path).unwrap();
    let told = Model::load(directory.path()).unwrap_err().to_string();
    assert!(told.starts_with("cannot read") && told.contains("model.txt"), "{told}");
}
