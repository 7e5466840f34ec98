//! Sources, settings, and what came of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use hearth_crds::preparation::{
    Augmentation, Cleaning, Column, Deduplication, Missing, OutlierAction, OutlierMethod, Outliers,
    Preparation, PrepareConfig, Smote, Split, SplitBy, Synonyms, TableAugmentation,
    TablePreparation, TextAugmentation, Windows,
};
use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::{DataFile, JobIdentity};
use hearth_prepare::{PrepareError, Prepared, Settings, Silent, run_with};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::Value;

/// A directory with sources and results.
pub(crate) struct Room {
    pub(crate) root: tempfile::TempDir,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A file of rows.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> DataFile {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        fs::write(&path, content).unwrap();
        let format = match path.extension().and_then(|ending| ending.to_str()) {
            Some("csv") => DataFormat::CSV,
            Some("parquet") => DataFormat::Parquet,
            Some("txt") => DataFormat::Text,
            _ => DataFormat::JSONL,
        };
        DataFile { path, format, uri: format!("pvc://data/{name}"), ..DataFile::default() }
    }

    /// Settings for rows with `text` and `label`.
    pub(crate) fn config(&self, train: DataFile) -> PrepareConfig {
        PrepareConfig {
            version: String::new(),
            job: JobIdentity { namespace: "n".into(), name: "j".into(), uid: "u".into() },
            train,
            eval: None,
            eval_split: None,
            text_fields: vec!["text".into()],
            label: Some("label".into()),
            image: None,
            cleaning: Cleaning::default(),
            max_bad_rows: 0,
            preparation: Preparation::default(),
            synonyms: None,
            features: Vec::new(),
            output: self.path("out"),
            output_uri: String::new(),
        }
    }
}

/// Small bounds, so that little data goes through many parts, chunks and shards.
pub(crate) fn small(threads: usize) -> Settings {
    Settings {
        threads: NonZeroUsize::new(threads).unwrap(),
        sort_bytes: 2048,
        part_bytes: 4096,
        chunk_bytes: 512,
        shard_bytes: 16 << 10,
    }
}

pub(crate) fn prepare(config: &PrepareConfig) -> Result<Prepared, PrepareError> {
    run_with(config, &small(2), &mut Silent)
}

/// What is wrong with `config`, in a sentence.
pub(crate) fn refusal(config: &PrepareConfig) -> String {
    prepare(config).unwrap_err().sentence()
}

/// The rows of a side, as the trainer's reader of Parquet gives them.
pub(crate) fn rows(prepared: &Prepared, side: &str) -> Vec<Value> {
    let files = bytes(&prepared.directory).into_keys().filter(|name| name.starts_with(side));
    let files: Vec<PathBuf> = files.map(|name| prepared.directory.join(name)).collect();
    let read = |path: &PathBuf| {
        let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
        let rows = reader.get_row_iter(None).unwrap();
        rows.map(|row| value(&Field::Group(row.unwrap()))).collect::<Vec<_>>()
    };
    files.iter().flat_map(read).collect()
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => (*flag).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) => (*number).into(),
        Field::Double(number) => (*number).into(),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => bytes.data().into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::Group(row) => {
            let fields = row.get_column_iter().map(|(name, field)| (name.clone(), value(field)));
            Value::Object(fields.collect())
        }
        other => panic!("{other:?}"),
    }
}

/// A field of all rows of a side.
pub(crate) fn texts(prepared: &Prepared, side: &str, field: &str) -> Vec<String> {
    let text = |row: &Value| match &row[field] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    rows(prepared, side).iter().map(text).collect()
}

/// Every file of a directory with its content.
pub(crate) fn bytes(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            let below = bytes(&path).into_iter();
            found.extend(below.map(|(file, content)| (format!("{name}/{file}"), content)));
        } else {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

/// `count` rows of a text, a label, a group and a time; every tenth says what another says, and
/// every fiftieth is malformed.
pub(crate) fn jsonl(count: u64) -> String {
    let mut out = String::new();
    for row in 0..count {
        if row % 50 == 49 {
            out.push_str("{\"text\": 3}\n");
            continue;
        }
        let of = if row % 10 == 9 { row / 2 } else { row };
        let label = if of % 4 == 0 { "spam" } else { "ham" };
        let _ = writeln!(
            out,
            "{{\"text\": \"row {of}: {}\", \"label\": \"{label}\", \"customer\": {}, \"at\": {row}, \"price\": {}.5}}",
            "word ".repeat(usize::try_from(of % 23).unwrap()),
            of % 37,
            of % 100,
        );
    }
    out
}

/// Settings that use all of what there is.
pub(crate) fn full(room: &Room, rows: u64) -> PrepareConfig {
    let mut config = room.config(room.file("rows.jsonl", jsonl(rows)));
    config.max_bad_rows = rows;
    config.eval_split = Some(0.1);
    config.preparation.deduplicate =
        Some(Deduplication { near: Some(0.8), ..Deduplication::default() });
    config.preparation.split = Some(Split { by: SplitBy::Group, field: Some("customer".into()) });
    config
}

/// Settings that use all that there is for tables, and a source of `rows` rows with two labels, one of
/// them rare, missing values and outliers.
pub(crate) fn tabular(room: &Room, rows: u64) -> PrepareConfig {
    let mut text = String::from("age,city,amount,vip,at,label\n");
    for row in 0..rows {
        let random = (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let age = if row % 7 == 3 { String::new() } else { (20 + random % 50).to_string() };
        let city = if row % 11 == 5 { "" } else { ["Ulm", "Bonn", "Kiel"][random as usize % 3] };
        let amount = if row % 97 == 96 { 1e6 } else { (random % 1000) as f64 / 8.0 };
        let vip = if random % 5 == 0 { "true" } else { "false" };
        let label = if row % 8 == 0 { "fraud" } else { "fine" };
        let _ = writeln!(text, "{age},{city},{amount},{vip},{row},{label}");
    }
    let mut config = room.config(room.file("table.csv", text));
    config.text_fields = Vec::new();
    config.eval_split = Some(0.1);
    config.preparation.split = Some(Split { by: SplitBy::Time, field: Some("at".into()) });
    let outliers =
        Outliers { method: OutlierMethod::IQR, distance: None, action: OutlierAction::Drop };
    let columns = [
        ("age", Column { missing: Missing::Median, ..Column::default() }),
        ("city", Column { missing: Missing::Mode, ..Column::default() }),
        ("amount", Column { outliers: Some(outliers), ..Column::default() }),
    ];
    let columns = columns.map(|(name, column)| (name.to_owned(), column)).into();
    config.preparation.table = Some(TablePreparation { columns });
    config.preparation.augment = Some(Augmentation {
        table: Some(TableAugmentation {
            copies: 2,
            crosses: vec![vec!["age".into(), "amount".into()], vec!["city".into(), "vip".into()]],
            perturb: Some(0.1),
            smote: Some(Smote { neighbors: 5, share: 1.0 }),
            windows: None,
        }),
        ..Augmentation::default()
    });
    config
}

/// As [`full`], with texts made of texts.
pub(crate) fn textual(room: &Room, rows: u64) -> PrepareConfig {
    let mut config = full(room, rows);
    let synonyms = room.file("synonyms.txt", "word\tterm\texpression\nrow\tline\n");
    let source = synonyms.path.display().to_string();
    config.preparation.augment = Some(Augmentation {
        text: Some(TextAugmentation {
            copies: 2,
            synonyms: Some(Synonyms { source, share: 0.3 }),
            insert: Some(0.1),
            swap: Some(0.1),
            delete: Some(0.1),
            back_translation: None,
        }),
        ..Augmentation::default()
    });
    config
}

/// Settings for windows over time series, and a source of `rows` rows of seven series.
pub(crate) fn series(room: &Room, rows: u64) -> PrepareConfig {
    let mut text = String::from("at,device,heat,state,label\n");
    for row in 0..rows {
        let random = (row + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let at = rows - row + random % 3;
        let _ =
            writeln!(text, "{at},d{},{}.25,{},{}", row % 7, random % 90, random % 4, random % 2);
    }
    let mut config = room.config(room.file("series.csv", text));
    config.text_fields = Vec::new();
    config.eval_split = Some(0.2);
    config.preparation.split = Some(Split { by: SplitBy::Time, field: Some("at".into()) });
    config.preparation.augment = Some(Augmentation {
        table: Some(TableAugmentation {
            copies: 2,
            crosses: Vec::new(),
            perturb: None,
            smote: None,
            windows: Some(Windows {
                time: "at".into(),
                series: Some("device".into()),
                length: 4,
                stride: 2,
                jitter: Some(0.1),
                scale: Some(0.1),
            }),
        }),
        ..Augmentation::default()
    });
    config
}
