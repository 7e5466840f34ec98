//! Features as of rows' times.

use std::error::Error as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{
    Array as _, ArrayRef, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use hearth_features::{Fill, History, HistoryOptions, TableError};
use parquet::file::metadata::ParquetMetaDataReader;
use proptest::prelude::*;
use serde_json::json;
use tempfile::tempdir;

use crate::tables::{columns, parquet, table, view};

/// An entity, a time in milliseconds, and a value.
type Seen = (u8, i64, Option<i64>);

fn features(rows: &[Seen]) -> RecordBatch {
    table(vec![
        (
            "id",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0.into()))) as ArrayRef,
        ),
        ("at", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
        ("value", Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>())),
    ])
}

fn training(rows: &[(u8, i64)]) -> RecordBatch {
    table(vec![
        (
            "id",
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0.into()))) as ArrayRef,
        ),
        ("at", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)))),
    ])
}

fn joined(
    batches: &[&[Seen]],
    rows: &[(u8, i64)],
    max_age: Option<i32>,
    fill: Fill,
) -> Vec<Option<i64>> {
    let mut view = view(&json!([{"name": "value", "type": "Integer", "default": "-1"}]));
    view.max_age_seconds = max_age;
    let options = HistoryOptions { fill, ..HistoryOptions::default() };
    let mut builder = History::builder(&view, columns(), &options).unwrap();
    for batch in batches {
        builder.add(&features(batch)).unwrap();
    }
    let joined = builder.finish().join(&training(rows), &columns()).unwrap();
    let values = joined.rows.column_by_name("value").unwrap();
    values.as_primitive::<Int64Type>().iter().collect()
}

/// Every row with every feature: the newest at or before its time, the last of those.
fn naive(seen: &[Seen], rows: &[(u8, i64)], max_age: Option<i64>) -> Vec<Option<i64>> {
    let of_row = |&(entity, time): &(u8, i64)| {
        let mut best: Option<Seen> = None;
        for &candidate in seen {
            let fits = candidate.0 == entity && candidate.1 <= time;
            if fits && best.is_none_or(|best| candidate.1 >= best.1) {
                best = Some(candidate);
            }
        }
        let best = best.filter(|best| max_age.is_none_or(|age| time - best.1 <= age * 1000));
        best.and_then(|best| best.2)
    };
    rows.iter().map(of_row).collect()
}

fn seen() -> impl Strategy<Value = Vec<Seen>> {
    // Few entities and times, so that they meet.
    prop::collection::vec((0..4u8, 0..6000i64, prop::option::weighted(0.9, any::<i32>())), 0..60)
        .prop_map(|rows| {
            rows.into_iter()
                .map(|(id, at, value)| (id, at / 500 * 500, value.map(i64::from)))
                .collect()
        })
}

proptest! {
    #[test]
    fn the_join_is_that_of_comparing_all_with_all(
        seen in seen(),
        rows in prop::collection::vec((0..5u8, 0..7000i64), 0..40),
        max_age in prop::option::of(1..4i32),
        cut in 0..60usize,
    ) {
        let (one, two) = seen.split_at(cut.min(seen.len()));
        let got = joined(&[one, two], &rows, max_age, Fill::Nulls);
        prop_assert_eq!(got, naive(&seen, &rows, max_age.map(i64::from)));
    }

    #[test]
    fn nothing_written_later_is_ever_seen(
        seen in seen(),
        rows in prop::collection::vec((0..4u8, 0..6000i64), 1..20),
        late in seen(),
    ) {
        // What comes after the last row's time may be anything, in any place of the file.
        let last = rows.iter().map(|row| row.1).max().unwrap_or(0);
        let late: Vec<Seen> = late.into_iter().map(|(id, at, value)| (id, last + 1 + at, value)).collect();
        let without = joined(&[&seen], &rows, None, Fill::Nulls);
        prop_assert_eq!(&joined(&[&late, &seen], &rows, None, Fill::Nulls), &without);
        prop_assert_eq!(&joined(&[&seen, &late], &rows, None, Fill::Nulls), &without);
    }
}

#[test]
fn edges_of_time() {
    for (name, seen, row, want) in [
        ("at the same time", vec![(1, 1000, Some(7))], (1, 1000), Some(7)),
        ("a millisecond too late", vec![(1, 1001, Some(7))], (1, 1000), None),
        ("the last of equal times", vec![(1, 5, Some(7)), (1, 5, Some(8))], (1, 9), Some(8)),
        ("as old as may be", vec![(1, 0, Some(7))], (1, 2000), Some(7)),
        ("older than that", vec![(1, 0, Some(7))], (1, 2001), None),
        ("the newest, which is null", vec![(1, 5, Some(7)), (1, 6, None)], (1, 9), None),
        ("another's", vec![(2, 5, Some(7))], (1, 9), None),
    ] {
        assert_eq!(joined(&[&seen], &[row], Some(2), Fill::Nulls), [want], "{name}");
        let filled = joined(&[&seen], &[row], Some(2), Fill::Defaults);
        assert_eq!(filled, [want.or(Some(-1))], "{name}, filled");
    }
}

#[test]
fn features_are_seen_once_their_delay_is_over() {
    let view = view(&json!([{"name": "value", "type": "Integer"}]));
    let options = HistoryOptions { delay: Duration::from_secs(2), ..HistoryOptions::default() };
    let mut builder = History::builder(&view, columns(), &options).unwrap();
    builder.add(&features(&[(1, 0, Some(7)), (1, 1000, Some(8))])).unwrap();
    let rows = training(&[(1, 1999), (1, 2000), (1, 2999), (1, 3000)]);
    let joined = builder.finish().join(&rows, &columns()).unwrap();
    let values: Vec<_> = joined.rows.column(2).as_primitive::<Int64Type>().iter().collect();
    assert_eq!(values, [None, Some(7), Some(7), Some(8)]);
}

#[test]
fn a_nanosecond_is_too_late_and_times_of_all_kinds_meet() {
    let view = view(&json!([{"name": "value"}]));
    let mut builder = History::builder(&view, columns(), &HistoryOptions::default()).unwrap();
    let seen = table(vec![
        ("id", Arc::new(StringArray::from(vec!["1", "1"])) as ArrayRef),
        (
            "at",
            Arc::new(TimestampNanosecondArray::from(vec![86_400_000_000_000, 86_400_000_000_001])),
        ),
        ("value", Arc::new(Float64Array::from(vec![0.5, 99.0]))),
    ]);
    builder.add(&seen).unwrap();
    let rows = table(vec![
        ("id", Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef),
        ("at", Arc::new(Date32Array::from(vec![1, 1]))),
    ]);
    let joined = builder.finish().join(&rows, &columns()).unwrap();
    let values: Vec<_> = joined.rows.column(2).as_primitive::<Float64Type>().iter().collect();
    assert_eq!(values, [Some(0.5), None]);
}

#[test]
fn what_cannot_be_joined_is_told() {
    let view = view(&json!([{"name": "value", "type": "Integer"}]));
    let small = HistoryOptions { max_bytes: 5000, ..HistoryOptions::default() };
    let mut builder = History::builder(&view, columns(), &small).unwrap();
    builder.add(&features(&[(1, 1, Some(1))])).unwrap();
    let many: Vec<Seen> = (0..200).map(|at| (1, at, Some(at))).collect();
    let error = builder.add(&features(&many)).unwrap_err();
    assert!(matches!(error, TableError::TooLarge { limit: 5000, rows: 201 }), "{error}");

    let mut builder = History::builder(&view, columns(), &HistoryOptions::default()).unwrap();
    builder.add(&features(&[(1, 1, Some(1))])).unwrap();
    let history = builder.finish();
    let double = history.join(&features(&[(1, 1, None)]), &columns()).unwrap_err();
    assert!(matches!(double, TableError::Double { .. }), "{double}");
    let timeless = table(vec![
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("at", Arc::new(Int64Array::from(vec![None]))),
    ]);
    let timeless = history.join(&timeless, &columns()).unwrap();
    let [(0, flaw)] = &timeless.flaws[..] else { panic!("{:?}", timeless.flaws) };
    assert!(flaw.contains("\"at\" is not a timestamp"), "{flaw}");
    assert!(timeless.rows.column(2).is_null(0));
    let empty = history.join(&training(&[]), &columns()).unwrap();
    assert_eq!((empty.rows.num_rows(), empty.rows.num_columns()), (0, 3));
}

#[test]
fn files_are_taken_and_rows_without_a_key_counted() {
    let dir = tempdir().unwrap();
    let seen = table(vec![
        ("id", Arc::new(StringArray::from(vec![Some("1"), None])) as ArrayRef),
        ("at", Arc::new(Int64Array::from(vec![1, 1]))),
        ("more", Arc::new(Int64Array::from(vec![1, 1]))),
        ("value", Arc::new(Int64Array::from(vec![Some(5), Some(6)]))),
    ]);
    let file = parquet(dir.path(), "f", &seen);
    let view = view(&json!([{"name": "value", "type": "Integer"}]));
    let mut builder = History::builder(&view, columns(), &HistoryOptions::default()).unwrap();
    builder.add_file(&file).unwrap();
    let history = builder.finish();
    assert_eq!(history.passed_over(), 1);
    let joined = history.join(&training(&[(1, 2), (2, 2)]), &columns()).unwrap();
    assert_eq!(joined.rows.column(2).as_primitive::<Int64Type>().value(0), 5);
    assert!(joined.rows.column(2).is_null(1));
}

#[test]
fn a_file_whose_pages_lie_is_refused_before_they_are_unpacked() {
    let dir = tempdir().unwrap();
    let file = parquet(dir.path(), "f", &features(&[(1, 1, Some(5))]));
    let whole = std::fs::read(&file).unwrap();
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&File::open(&file).unwrap());
    let metadata = metadata.unwrap();
    let page = metadata.row_group(0).column(2).data_page_offset();
    let mut harmed = whole.clone();
    harmed[usize::try_from(page).unwrap()] = 0xff;
    let harmed = file_of(&dir.path().join("harmed"), &harmed);
    let view = view(&json!([{"name": "value", "type": "Integer"}]));
    let mut builder = History::builder(&view, columns(), &HistoryOptions::default()).unwrap();
    let mut refused =
        |file: &Path| builder.add_file(file).unwrap_err().source().unwrap().to_string();
    let told = refused(&harmed);
    assert!(told.contains(r#"row group 0: column "value": no page header"#), "{told}");
    let told = refused(&file_of(&dir.path().join("cut"), &whole[..whole.len() - 1]));
    assert!(told.contains("truncated?"), "{told}");
    builder.add_file(&file).unwrap();
}

fn file_of(path: &Path, content: &[u8]) -> PathBuf {
    File::create(path).unwrap().write_all(content).unwrap();
    path.to_owned()
}
