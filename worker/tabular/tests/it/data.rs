//! Rows that tell something.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use hearth_tabular::{FeatureOptions, Features, Fit, FitConfig, Learner, Model, Table, Task, fit};
use serde_json::{Map, Value, json};

/// A number from 0 to 1 that depends on both.
fn uniform(seed: u64, number: u64) -> f64 {
    let hash = blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat());
    let [a, b, c, d, ..] = *hash.as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / f64::from(u32::MAX)
}

/// Rows with `amount` (some missing), `age`, `city`, `night`, `code`, `id` and `constant`; by `label`
/// about a fifth is fraud, `kind` has three labels, and `price` is a number.
pub(crate) fn batch(rows: u64, seed: u64) -> RecordBatch {
    const CITIES: [&str; 4] = ["Ulm", "Kiel", "Bonn", "Jena"];
    let of = |column: u64| move |row: u64| uniform(seed * 100 + column, row);
    let all = || 0..rows;
    let amount = |row| 100.0 * of(0)(row);
    let night = |row| of(1)(row) < 0.5;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 3")]
    let city = |row| (of(2)(row) * 3.999) as usize;
    #[expect(clippy::cast_possible_truncation, reason = "18 to 80")]
    let age = |row| 18 + (of(3)(row) * 62.0) as i64;
    let risk = |row: u64| {
        let base = amount(row) / 100.0 + if night(row) { 0.3 } else { 0.0 };
        base + if city(row) == 1 { 0.4 } else { 0.0 } + 0.5 * (of(4)(row) - 0.5)
    };
    let kind = |row| match risk(row) {
        low if low < 0.5 => "low",
        middle if middle < 0.9 => "middle",
        _ => "high",
    };
    let missing = |row| (row % 17 != 0).then(|| amount(row));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("amount", Arc::new(all().map(missing).collect::<Float64Array>())),
        ("age", Arc::new(all().map(|row| Some(age(row))).collect::<Int64Array>())),
        ("city", Arc::new(StringArray::from_iter_values(all().map(|row| CITIES[city(row)])))),
        ("night", Arc::new(all().map(|row| Some(night(row))).collect::<BooleanArray>())),
        ("code", Arc::new(all().map(|row| Some(age(row) % 5)).collect::<Int64Array>())),
        ("id", Arc::new(StringArray::from_iter_values(all().map(|row| format!("row {row}"))))),
        ("constant", Arc::new(all().map(|_| Some(1)).collect::<Int64Array>())),
        (
            "label",
            Arc::new(StringArray::from_iter_values(
                all().map(|row| if risk(row) > 1.05 { "fraud" } else { "clean" }),
            )),
        ),
        ("kind", Arc::new(StringArray::from_iter_values(all().map(kind)))),
        ("price", Arc::new(all().map(|row| Some(10.0 * risk(row))).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Options for rows of [`batch`] with that label.
pub(crate) fn options(label: &str) -> FeatureOptions {
    let labels = ["label", "kind", "price"].into_iter().filter(|name| *name != label);
    FeatureOptions {
        excluded: labels.map(str::to_owned).collect(),
        categories: vec!["code".to_owned()],
        labels: (label == "label").then(|| vec!["clean".to_owned(), "fraud".to_owned()]),
        ..FeatureOptions::default()
    }
}

pub(crate) fn task(label: &str) -> Task {
    if label == "price" { Task::TabularRegression } else { Task::TabularClassification }
}

pub(crate) fn learned(batch: &RecordBatch, label: &str) -> Arc<Features> {
    let schema = batch.schema();
    let mut learner = Learner::new(task(label), label, &schema, &options(label)).unwrap();
    learner.add(batch).unwrap();
    Arc::new(learner.finish().unwrap())
}

pub(crate) fn table(features: &Arc<Features>, batch: &RecordBatch) -> Table {
    let mut table = Table::new(Arc::clone(features));
    table.add(batch).unwrap();
    table
}

/// Training and held-out rows.
pub(crate) fn tables(label: &str, rows: u64) -> (Table, Table) {
    let train = batch(rows, 1);
    let features = learned(&train, label);
    (table(&features, &train), table(&features, &batch(rows, 2)))
}

pub(crate) fn model(label: &str, config: &FitConfig) -> Model {
    let (train, held_out) = tables(label, 3000);
    let of = Fit { train: &train, held_out: Some(&held_out), rules: None, checkpoint: None };
    fit(&of, config, |_| std::ops::ControlFlow::Continue(())).unwrap()
}

/// A row that the model of [`batch`] takes.
pub(crate) fn row() -> Map<String, Value> {
    let row = json!({"amount": 93.5, "age": 30, "city": "Kiel", "night": true, "code": 0});
    row.as_object().unwrap().clone()
}
