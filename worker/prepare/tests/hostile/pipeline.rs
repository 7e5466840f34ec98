//! The readers as the pipeline has them: a file goes in, prepared rows or a refusal come out.

use std::fs;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;

use hearth_crds::preparation::{Deduplication, PrepareConfig};
use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::DataFile;
use hearth_prepare::{Settings, Silent, run_with};

use crate::{feed, many, seeds};

/// Inputs of a format that run each time: each goes through all stages.
const FEW: u64 = 300;

/// A format: the name of its file below the source, and whether it holds pictures.
type Case = (&'static str, DataFormat, &'static str, bool, Vec<Vec<u8>>);

fn cases() -> Vec<Case> {
    vec![
        ("JSONL", DataFormat::JSONL, "rows.jsonl", false, seeds::jsonl()),
        ("CSV", DataFormat::CSV, "rows.csv", false, seeds::csv()),
        ("text", DataFormat::Text, "rows.txt", false, seeds::text()),
        ("Parquet", DataFormat::Parquet, "rows.parquet", false, seeds::parquet()),
        ("ImageFolder", DataFormat::ImageFolder, "class/1.png", true, seeds::pictures()),
        ("DICOM", DataFormat::DICOM, "class/1.dcm", true, seeds::dicom()),
    ]
}

fn config(root: &Path, format: DataFormat, pictures: bool) -> PrepareConfig {
    let told = r#"{"version":"","job":{"namespace":"n","name":"j","uid":"u"},"train":{"path":"","uri":"","text":"text","label":"label"},"output":"","outputUri":""}"#;
    let mut config: PrepareConfig = serde_json::from_str(told).unwrap();
    config.train = DataFile { path: root.join("source"), format, ..DataFile::default() };
    config.output = root.join("out");
    config.max_bad_rows = u64::MAX;
    let mut deduplicate = Deduplication::default();
    if pictures {
        config.image = Some("image".to_owned());
        deduplicate.hash_distance = Some(4);
    } else {
        config.text_fields = vec!["text".to_owned()];
    }
    config.label = (format != DataFormat::Text).then(|| "label".to_owned());
    config.preparation.deduplicate = Some(deduplicate);
    config
}

fn run((name, format, file, pictures, seeds): Case, count: u64) {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let config = config(directory.path(), format, pictures);
    let path = config.train.path.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (threads, sort_bytes) = (NonZeroUsize::MIN, 1 << 16);
    let settings = Settings { threads, sort_bytes, ..Settings::default() };
    feed(&format!("{name}, prepared"), &seeds, count, |input| {
        fs::File::create(&path).unwrap().write_all(input).unwrap();
        let made = run_with(&config, &settings, &mut Silent);
        if config.output.exists() {
            fs::remove_dir_all(&config.output).unwrap();
        }
        made.is_ok()
    });
}

#[test]
fn sources_are_prepared_or_refused() {
    for case in cases() {
        run(case, FEW);
    }
}

fn run_many(wanted: &str) {
    // What the library of Parquet panics at is caught, and need not be told each time.
    std::panic::set_hook(Box::new(|_| {}));
    let case = cases().into_iter().find(|(name, ..)| *name == wanted).unwrap();
    run(case, many());
}

/// Half an hour or an hour each, most of it the system's work for files and threads.
macro_rules! a_million {
    ($($test:ident: $name:literal),*) => {
        $(
            #[test]
            #[ignore = "a million inputs, with --release"]
            fn $test() {
                run_many($name);
            }
        )*
    };
}
a_million!(
    a_million_of_jsonl: "JSONL",
    a_million_of_csv: "CSV",
    a_million_of_text: "text",
    a_million_of_parquet: "Parquet",
    a_million_of_image_folders: "ImageFolder",
    a_million_of_dicom_folders: "DICOM"
);
