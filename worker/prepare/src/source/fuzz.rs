//! Readers are fed what was a file once: none may panic, hang, or take much memory.

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use hearth_crds::preparation::PrepareConfig;
use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::DataFile;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{Bounds, Source};
use crate::bad_rows::BadRows;
use crate::progress::{Counter, Silent, Stage};
use crate::rows::{Recipe, Touched};

/// Changes some bytes, or cuts, doubles or joins parts.
fn mutated(whole: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..random.random_range(1..5) {
        if bytes.is_empty() {
            break;
        }
        let place = random.random_range(0..bytes.len());
        let other = random.random_range(0..bytes.len());
        let (from, to) = (place.min(other), place.max(other));
        match random.random_range(0..7) {
            0 => bytes[place] ^= 1 << random.random_range(0..8),
            1 => bytes[place] = random.random(),
            2 => bytes.truncate(place),
            3 => drop(bytes.drain(from..to.min(from + 64))),
            4 => {
                let part = bytes[from..to.min(from + 64)].to_vec();
                bytes.splice(place..place, part);
            }
            5 => bytes[place] = *b"\"\\\n,{}[]:0".get(other % 10).unwrap_or(&0),
            _ => bytes[place] = 0xff,
        }
    }
    bytes
}

/// Reads all rows of a file; how many there were, where it was not refused.
fn read(path: &Path, format: DataFormat) -> Option<u64> {
    let config = PrepareConfig {
        text_fields: vec!["text".to_owned()],
        label: Some("label".to_owned()),
        ..config(path, format)
    };
    let recipe = Recipe::new(&config).unwrap();
    let source = Source::open(&config.train, Touched::new(&config)).ok()?;
    let threads = NonZeroUsize::MIN;
    let bounds = Bounds { threads, part_bytes: 256, chunk_bytes: 64 };
    let mut progress = Silent;
    let mut counter = Counter::new(&mut progress, Stage::Scan, source.bytes());
    let mut bad = BadRows::new(u64::MAX);
    let scan = source.format().scan(&source, bounds, &mut bad, &mut counter).ok()?;
    source.check(&scan.schema).ok()?;
    let mut rows = 0;
    for part in &scan.parts {
        let mut refused = false;
        let mut take = |chunk, _| {
            match source.format().decode(&source, &scan, chunk) {
                Ok(decoded) => rows += recipe.process(decoded).unwrap().rows,
                Err(_) => refused = true,
            }
            !refused
        };
        source.format().read(&source, &scan, part, &mut take).ok()?;
        if refused {
            return None;
        }
    }
    Some(rows)
}

fn config(path: &Path, format: DataFormat) -> PrepareConfig {
    let text = r#"{"version":"","job":{"namespace":"n","name":"j","uid":"u"},"train":{"path":"","uri":"","text":"text","label":"label"},"output":"","outputUri":""}"#;
    let mut config: PrepareConfig = serde_json::from_str(text).unwrap();
    config.train = DataFile { path: path.to_owned(), format, ..DataFile::default() };
    config
}

fn parquet_file(compression: Compression) -> Vec<u8> {
    let texts: ArrayRef =
        Arc::new(StringArray::from(vec![Some("one"), Some("two"), None, Some("two")]));
    let labels: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let lists: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<arrow_array::types::Int64Type, _, _>(vec![
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
            Some(vec![Some(2)]),
        ]));
    let columns = [("text", texts), ("label", labels), ("list", lists)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_max_row_group_row_count(Some(3))
        .build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

const JSONL: &[u8] = b"{\"text\":\"a \\u00e9\",\"label\":1,\"o\":{\"p\":[1,2.5,null]}}\n\n{\"text\":\"b\",\"label\":\"x\"}\n{\"text\":[{\"role\":\"user\",\"content\":\"q\"}],\"label\":2}\n";
const CSV: &[u8] = b"text,label,n\n\"a,\"\"b\"\"\nc\",1,2.5\nd,2,\n\"e\",x,007\n";
const TEXT: &[u8] = b"\xef\xbb\xbfone\r\n\n two \nthree";

fn feed(inputs: u64) {
    let directory =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" });
    let path = directory.as_ref().unwrap().path().join("rows");
    for (name, format, whole) in [
        ("JSONL", DataFormat::JSONL, JSONL.to_vec()),
        ("CSV", DataFormat::CSV, CSV.to_vec()),
        ("text", DataFormat::Text, TEXT.to_vec()),
        ("Parquet", DataFormat::Parquet, parquet_file(Compression::UNCOMPRESSED)),
        ("Parquet, snappy", DataFormat::Parquet, parquet_file(Compression::SNAPPY)),
        (
            "Parquet, zstd",
            DataFormat::Parquet,
            parquet_file(Compression::ZSTD(ZstdLevel::default())),
        ),
    ] {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let (mut refused, mut kept) = (0_u64, 0);
        for _ in 0..inputs {
            let bytes = mutated(&whole, &mut random);
            File::create(&path).unwrap().write_all(&bytes).unwrap();
            match read(&path, format) {
                Some(rows) => kept += rows,
                None => refused += 1,
            }
        }
        assert!(kept > 0, "{name}: {refused} refused, {kept} rows");
    }
}

#[test]
fn a_few_mutated_files_are_read_or_refused() {
    feed(200);
}

#[test]
#[ignore = "takes minutes: cargo test --release -p hearth-prepare -- --ignored mutated"]
fn a_million_mutated_files_are_read_or_refused() {
    // What the library panics at is caught, and need not be told a million times.
    std::panic::set_hook(Box::new(|_| {}));
    feed(1_000_000);
}
