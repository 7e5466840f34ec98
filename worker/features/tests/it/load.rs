//! Files into the store.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use hearth_crds::features::FeatureView;
use hearth_features::{Access, LoadError, LoadOptions, LoadReport, Store, load};
use serde_json::json;
use tempfile::tempdir;
use tokio::task::JoinHandle;

use crate::server::{Server, free_port, settings};
use crate::tables::{columns, parquet, table, view};

const MANY: i64 = 10_000;

/// Customers from 0 on, all of one time in milliseconds, who have spent this much.
fn customers(time: i64, spent: f64) -> RecordBatch {
    table(vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..MANY)) as ArrayRef),
        ("at", Arc::new(Int64Array::from_iter_values((0..MANY).map(|_| time)))),
        ("spent", Arc::new(Float64Array::from_iter_values((0..MANY).map(|_| spent)))),
    ])
}

fn spent_view() -> FeatureView {
    view(&json!([{"name": "spent"}]))
}

fn hash(server: &Server, entity: &str) -> HashMap<String, String> {
    server.command(&["HGETALL", &format!("hearth:customer:{entity}")])
}

/// How many entities are there, and how many of them have spent this much.
fn counted(server: &Server, spent: &str) -> (i64, usize) {
    let all: i64 = server.command(&["DBSIZE"]);
    let have = (0..MANY).step_by(97).filter(|id| hash(server, &id.to_string())["spent"] == spent);
    (all, have.count())
}

/// As many as [`counted`] looks at.
const LOOKED_AT: usize = 104;

async fn load_all(server: &Server, files: &[PathBuf]) -> Result<LoadReport, LoadError> {
    load(&server.store(), files, &spent_view(), &columns(), &LoadOptions::default()).await
}

#[tokio::test]
async fn the_newest_row_stays_however_files_come() {
    let (server, dir) = (Server::start(), tempdir().unwrap());
    let [middle, newer, older] = [("m", 2000, 0.2), ("n", 3000, 0.3), ("o", 1000, 0.1)]
        .map(|(name, time, spent)| parquet(dir.path(), name, &customers(time, spent)));
    let many = u64::try_from(MANY).unwrap();
    let none = LoadReport { rows: many, ..LoadReport::default() };
    for (file, want, spent) in [
        (&middle, LoadReport { created: many, ..none }, "0.2"),
        (&older, LoadReport { older: many, ..none }, "0.2"),
        (&newer, LoadReport { replaced: many, ..none }, "0.3"),
        (&newer, LoadReport { replaced: many, ..none }, "0.3"),
        (&middle, LoadReport { older: many, ..none }, "0.3"),
    ] {
        let report = load_all(&server, std::slice::from_ref(file)).await.unwrap();
        assert_eq!((report, counted(&server, spent)), (want, (MANY, LOOKED_AT)));
    }
    server.command::<()>(&["FLUSHALL"]);
    let report = load_all(&server, &[newer, older, middle]).await.unwrap();
    let want = LoadReport { rows: 3 * many, created: many, older: 2 * many, ..none };
    assert_eq!((report, counted(&server, "0.3")), (want, (MANY, LOOKED_AT)));
}

#[tokio::test]
async fn loads_at_once_leave_the_newest() {
    let (server, dir) = (Server::start(), tempdir().unwrap());
    let newer = parquet(dir.path(), "n", &customers(3000, 0.3));
    let older = parquet(dir.path(), "o", &customers(1000, 0.1));
    let (newer, older) = ([newer], [older]);
    let (a, b, c) = tokio::join!(
        load_all(&server, &older),
        load_all(&server, &newer),
        load_all(&server, &older)
    );
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(counted(&server, "0.3"), (MANY, LOOKED_AT));
}

/// Begins a load of small batches, and returns once some of it is written.
async fn begun(server: &Server, file: PathBuf) -> JoinHandle<Result<LoadReport, LoadError>> {
    let store = server.store();
    let options = LoadOptions { batch_rows: 20, ..LoadOptions::default() };
    let begun =
        tokio::spawn(
            async move { load(&store, &[file], &spent_view(), &columns(), &options).await },
        );
    while server.command::<i64>(&["DBSIZE"]) < 300 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun
}

#[tokio::test]
async fn a_load_that_was_killed_is_done_again() {
    let (server, dir) = (Server::start(), tempdir().unwrap());
    let file = parquet(dir.path(), "f", &customers(2000, 0.2));
    let begun = begun(&server, file.clone()).await;
    begun.abort();
    assert!(begun.await.is_err());
    let there: i64 = server.command(&["DBSIZE"]);
    assert!((300..MANY).contains(&there), "{there}");
    load_all(&server, &[file]).await.unwrap();
    assert_eq!(counted(&server, "0.2"), (MANY, LOOKED_AT));
}

#[tokio::test]
async fn a_server_that_forgets_the_script_is_told_it_again() {
    let (server, dir) = (Server::start(), tempdir().unwrap());
    let file = parquet(dir.path(), "f", &customers(2000, 0.2));
    let begun = begun(&server, file).await;
    server.command::<()>(&["SCRIPT", "FLUSH"]);
    begun.await.unwrap().unwrap();
    let told: String = server.command(&["INFO", "commandstats"]);
    assert!(told.contains("cmdstat_script|load:calls=2,"), "{told}");
    assert_eq!(counted(&server, "0.2"), (MANY, LOOKED_AT));
}

#[tokio::test]
async fn a_server_that_starts_anew_meanwhile_gets_the_rest() {
    let (mut server, dir) = (Server::start(), tempdir().unwrap());
    let file = parquet(dir.path(), "f", &customers(2000, 0.2));
    let begun = begun(&server, file).await;
    server.kill();
    server.start_again();
    let report = begun.await.unwrap().unwrap();
    assert_eq!((report.rows, report.created), (MANY.unsigned_abs(), MANY.unsigned_abs()));
    // What was written before is gone with the server, which keeps nothing on disk.
    let there: i64 = server.command(&["DBSIZE"]);
    assert!((1..=MANY - 300).contains(&there), "{there}");
}

#[tokio::test]
async fn rows_are_replaced_whole_and_live_as_long_as_told() {
    let (server, dir) = (Server::start(), tempdir().unwrap());
    let micros = |times: Vec<Option<i64>>| Arc::new(TimestampMicrosecondArray::from(times));
    let first = table(vec![
        (
            "id",
            Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("b"), Some("a")]))
                as ArrayRef,
        ),
        ("at", micros(vec![Some(2_000_999), Some(1), Some(1), None, Some(2_000_001)])),
        ("spent", Arc::new(Float64Array::from(vec![Some(9.0), None, None, None, Some(1e21)]))),
        ("city", Arc::new(StringArray::from(vec!["x", "x", "x", "x", "Łódź"]))),
    ]);
    let second = table(vec![
        ("id", Arc::new(StringArray::from(vec!["a"])) as ArrayRef),
        ("at", Arc::new(StringArray::from(vec!["1970-01-01T01:00:03+01:00"]))),
        ("spent", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ("city", Arc::new(StringArray::from(vec!["y"]))),
    ]);
    let view = view(&json!([{"name": "spent"}, {"name": "city", "type": "Text"}]));
    let files = [parquet(dir.path(), "1", &first), parquet(dir.path(), "2", &second)];
    let options = LoadOptions { time_to_live: Some(Duration::from_mins(1)), batch_rows: 1000 };
    let report = load(&server.store(), &files[..1], &view, &columns(), &options).await.unwrap();
    let want =
        LoadReport { rows: 5, created: 1, older: 1, without_key: 2, without_time: 1, replaced: 0 };
    assert_eq!(report, want);
    let pairs = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    };
    assert_eq!(
        hash(&server, "a"),
        pairs(&[("__time", "2000"), ("spent", "1e+21"), ("city", "Łódź")])
    );
    let life: i64 = server.command(&["PTTL", "hearth:customer:a"]);
    assert!((50_000..=60_000).contains(&life), "{life}");
    load(&server.store(), &files[1..], &view, &columns(), &LoadOptions::default()).await.unwrap();
    assert_eq!(hash(&server, "a"), pairs(&[("__time", "3000"), ("city", "y")]));
    assert_eq!(server.command::<i64>(&["PTTL", "hearth:customer:a"]), -1);
}

#[tokio::test]
async fn what_cannot_be_loaded_is_told() {
    let (server, dir) = (Server::start(), tempdir().unwrap());
    let good = parquet(dir.path(), "good", &customers(2000, 0.2));
    let torn = dir.path().join("torn");
    std::fs::copy(&good, &torn).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&torn).unwrap();
    file.set_len(1000).unwrap();
    let text = view(&json!([{"name": "spent", "type": "Text"}]));
    let whole = view(&json!([{"name": "spent", "type": "Integer"}]));
    let other = view(&json!([{"name": "earned"}]));
    for (file, view, want) in [
        (&dir.path().join("none"), spent_view(), "cannot read"),
        (&torn, spent_view(), "whole Parquet file"),
        (&good, other, "no column \"earned\"; there are \"id\", \"at\", \"spent\""),
        (&good, text, "holds Float64, and a text is needed"),
        (&good, whole, "row 0: a value that is not a whole number"),
    ] {
        let files = [file.clone()];
        let (store, options) = (server.store(), LoadOptions::default());
        let loaded = load(&store, &files, &view, &columns(), &options).await;
        let error = loaded.unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let said = format!("{error}: {cause}");
        assert!(said.contains(want), "{want}: {said}");
    }
    assert_eq!(server.command::<i64>(&["DBSIZE"]), 0);
    server.command::<i64>(&["RPUSH", "hearth:customer:5", "x"]);
    let said = load_all(&server, std::slice::from_ref(&good)).await.unwrap_err().to_string();
    assert!(said.contains("hearth:customer:5") && said.contains("WRONGTYPE"), "{said}");

    let away = settings(free_port(), &json!({}));
    let away = Store::new(&away, Access::default()).unwrap();
    let start = Instant::now();
    let loaded = load(&away, &[good], &spent_view(), &columns(), &LoadOptions::default()).await;
    assert!(matches!(loaded, Err(LoadError::Down { rows: 0, .. })));
    assert!(start.elapsed() < Duration::from_secs(20));
}
