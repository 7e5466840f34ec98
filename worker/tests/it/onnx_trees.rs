//! Trees in ONNX Runtime, beside the same ones in LightGBM.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use hearth_tabular::{
    FeatureOptions, Fit, FitConfig, Learner, Model, Table, Task, TreesConfig, fit,
};
use hearth_worker::serve::onnx::{Place, Provider};
use hearth_worker::serve::onnx_tables;

use crate::serve_onnx::library;

const ROWS: u32 = 3000;
const CITIES: u32 = 45;

/// Rows with `amount` (some missing), `age` and `city`, and what depends on them.
fn batch() -> RecordBatch {
    let city = |row: u32| row * 7 % CITIES;
    let amount = |row: u32| f64::from(row * 37 % 1000) / 10.0;
    let age = |row: u32| f64::from(row * 11 % 60);
    let size = |row: u32| amount(row) + 2.0 * f64::from(city(row) % 9) + age(row) / 4.0;
    let kind = |row| match size(row) {
        low if low < 45.0 => "low",
        middle if middle < 80.0 => "middle",
        _ => "high",
    };
    let all = || 0..ROWS;
    let columns: [(&str, ArrayRef); 5] = [
        (
            "amount",
            Arc::new(
                all().map(|row| (row % 13 != 0).then(|| amount(row))).collect::<Float64Array>(),
            ),
        ),
        ("age", Arc::new(Float64Array::from_iter_values(all().map(age)))),
        (
            "city",
            Arc::new(StringArray::from_iter_values(all().map(|row| format!("city {}", city(row))))),
        ),
        ("kind", Arc::new(StringArray::from_iter_values(all().map(kind)))),
        ("size", Arc::new(Float64Array::from_iter_values(all().map(|row| 1e4 * size(row))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Learns a column, and writes the model.
fn learn(task: Task, label: &str, directory: &Path) {
    let batch = batch();
    let other = if label == "kind" { "size" } else { "kind" };
    let options = FeatureOptions { excluded: vec![other.to_owned()], ..FeatureOptions::default() };
    let mut learner = Learner::new(task, label, &batch.schema(), &options).unwrap();
    learner.add(&batch).unwrap();
    let mut table = Table::new(Arc::new(learner.finish().unwrap()));
    table.add(&batch).unwrap();
    let of = Fit { train: &table, held_out: None, rules: None, checkpoint: None };
    let trees = TreesConfig { n_estimators: 120, ..TreesConfig::default() };
    let config = FitConfig { trees, ..FitConfig::default() };
    fit(&of, &config, |_| ControlFlow::Continue(())).unwrap().save(directory).unwrap();
}

/// Values of features, `[rows, 3]`, that training rows had and had not.
fn values() -> Vec<f64> {
    let row = |row: u32| {
        let known = [f64::from(row % 100), f64::from(row % 60), f64::from(row % CITIES)];
        match row % 10 {
            0 => [f64::NAN, known[1], known[2]],
            1 => [known[0], f64::NAN, f64::NAN],
            2 => [1e300, -1e300, f64::from(CITIES)],
            3 => [known[0], known[1], 60_000.0],
            4 => [f64::INFINITY, f64::NEG_INFINITY, -3.0],
            _ => known,
        }
    };
    // More than are computed at a time.
    (0..1500).flat_map(row).collect()
}

fn agree(task: Task, label: &str, classes: usize) {
    let home = tempfile::tempdir().unwrap();
    learn(task, label, home.path());
    let own = Model::load(home.path()).unwrap();
    let place = Place { library: library(), threads: 2, provider: Provider::Cpu };
    let onnx = onnx_tables::load(home.path(), &place).unwrap();
    let values = values();
    for rows in [&values[..], &values[..3], &values[3..6]] {
        let [wanted, given] = [&own, &onnx].map(|model| model.raw_scores(rows).unwrap());
        assert_eq!(given.len(), rows.len() / 3 * classes);
        for (given, wanted) in given.iter().zip(&wanted) {
            // Scores are 32-bit floats in the end.
            let apart = (given - wanted).abs() / wanted.abs().max(1e-3);
            assert!(apart < 1e-6, "{label}: {given} is not {wanted}");
        }
    }
}

// One runtime a process: a test each.
#[test]
fn onnx_runtime_computes_trees_of_three_labels() {
    agree(Task::TabularClassification, "kind", 3);
}

#[test]
fn onnx_runtime_computes_trees_of_a_regression() {
    agree(Task::TabularRegression, "size", 1);
}
