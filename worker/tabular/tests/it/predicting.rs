//! Rows as JSON: what is said of them, and which are refused.

use std::collections::BTreeMap;
use std::time::Instant;

use hearth_prepare::table::rules::TableRules;
use hearth_tabular::drift::{Drift, SCORE};
use hearth_tabular::{
    CalibrationMethod, Child, Fit, FitConfig, Forest, Model, Parts, Prediction, Test,
    ThresholdTarget, Tree, TreesConfig, fit,
};
use serde_json::{Map, Value, json};

use crate::data::{model, row, tables};

fn with(name: &str, value: Value) -> Map<String, Value> {
    let mut row = row();
    row.insert(name.to_owned(), value);
    row
}

fn small() -> FitConfig {
    FitConfig {
        trees: TreesConfig { n_estimators: 20, ..TreesConfig::default() },
        ..FitConfig::default()
    }
}

#[test]
fn a_row_has_a_label_with_its_probability_and_its_reasons() {
    let config = FitConfig {
        calibration: Some(CalibrationMethod::Sigmoid),
        threshold: Some(ThresholdTarget::Recall(0.8)),
        ..small()
    };
    let model = model("label", &config);
    let rows = model.encode(&[row(), with("amount", Value::Null), with("city", json!("Rome"))]);
    let rows = rows.unwrap();
    let threshold = model.parts().threshold.as_ref().unwrap().value;
    for prediction in model.predict_rows(&rows, 2).unwrap() {
        let Prediction::Label(said) = prediction else { panic!("a label") };
        let sum: f64 = said.probabilities.values().sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!(said.label == "fraud", said.probabilities["fraud"] >= threshold);
        assert_eq!(said.score.to_bits(), said.probabilities[&said.label].to_bits());
        assert_eq!(said.threshold, Some(threshold));
        let why = said.explanation.unwrap();
        assert_eq!((why.contributions.len(), why.label.as_deref()), (2, Some("fraud")));
        let sum: f64 = why.contributions.iter().map(|of| of.contribution).sum();
        assert!((why.base + sum + why.others - why.raw_score).abs() < 1e-9, "{why:?}");
        let sizes: Vec<f64> = why.contributions.iter().map(|of| of.contribution.abs()).collect();
        assert!(sizes[0] >= sizes[1]);
    }
    let said = serde_json::to_value(&model.predict(&[row()]).unwrap()[0]).unwrap();
    assert_eq!(said["label"], "fraud");
    assert!(said.get("explanation").is_none());
}

#[test]
fn many_labels_and_numbers_are_explained_too() {
    let kinds = model("kind", &small());
    let rows = kinds.encode(&[row()]).unwrap();
    let Prediction::Label(said) = kinds.predict_rows(&rows, 9).unwrap().remove(0) else {
        panic!("a label")
    };
    assert_eq!((said.label.as_str(), said.threshold), ("high", None));
    let names: Vec<&String> = said.probabilities.keys().collect();
    assert_eq!(names, ["high", "low", "middle"]);
    let why = said.explanation.unwrap();
    let sum: f64 = why.contributions.iter().map(|of| of.contribution).sum();
    assert!((why.base + sum - why.raw_score).abs() < 1e-9 && why.others == 0.0);

    let prices = model("price", &small());
    let rows = prices.encode(&[row()]).unwrap();
    let Prediction::Number(said) = prices.predict_rows(&rows, 9).unwrap().remove(0) else {
        panic!("a number")
    };
    let why = said.explanation.unwrap();
    assert_eq!(why.raw_score.to_bits(), said.value.to_bits());
    assert!((14.0..18.0).contains(&said.value), "{}", said.value);
}

#[test]
fn fields_that_are_wrong_are_refused_with_their_row() {
    let model = model("label", &small());
    for (bad, told) in [
        (with("amounts", json!(1)), "row 1: field \"amounts\" is no column that the model knows"),
        (with("age", json!("30")), "row 1: field \"age\" is a text; write a number"),
        (with("night", json!(2)), "row 1: field \"night\" is a number; write true or false"),
        (with("city", json!(["Ulm"])), "row 1: field \"city\" is a list; write a text"),
        (
            with("age", Value::Null),
            "row 1: field \"age\" is missing, and every training row had it",
        ),
    ] {
        let error = model.predict(&[row(), bad]).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
    // Columns that are no features, a value that training rows missed too, and 0 for false.
    for good in [
        with("id", json!("row 3")),
        with("label", json!("fraud")),
        with("amount", Value::Null),
        with("night", json!(0)),
        with("code", json!(77)),
        with("code", json!(3.0)),
    ] {
        assert!(model.predict(&[good]).is_ok());
    }
    assert_eq!(model.predict(&[]).unwrap(), []);
}

/// The rules are those that the preparation writes: see hearth-prepare's own tests.
fn rules() -> TableRules {
    let rules = json!({
        "columns": {
            "age": {"type": "Integer", "min": 0.0, "rule": {"missing": {"Number": 40.0}, "bounds": {"least": 18.0, "greatest": 70.0, "action": "Clip"}}},
            "city": {"type": "Category", "rule": {"missing": {"Category": "Kiel"}}},
            "night": {"type": "Boolean", "rule": {"missing": "Keep"}}
        },
        "crosses": []
    });
    serde_json::from_value(rules).unwrap()
}

#[test]
fn rows_are_mended_as_training_rows_were() {
    let (train, held_out) = tables("label", 2000);
    let rules = rules();
    let of =
        Fit { train: &train, held_out: Some(&held_out), rules: Some(&rules), checkpoint: None };
    let model = fit(&of, &small(), |_| std::ops::ControlFlow::Continue(())).unwrap();
    let said = |row: Map<String, Value>| model.encode(&[row]).unwrap();
    let without = |name: &str| {
        let mut row = row();
        row.remove(name);
        row
    };
    assert_eq!(said(without("age")), said(with("age", json!(40))));
    assert_eq!(said(without("city")), said(row()));
    assert_eq!(said(with("age", json!(99))), said(with("age", json!(70))));
    for (bad, told) in [
        (with("age", json!(-1)), "field \"age\" is below min"),
        (with("age", json!(30.5)), "field \"age\" is not a whole number"),
        (without("night"), "field \"night\" is missing"),
    ] {
        let error = model.predict(&[bad]).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn columns_made_of_others_are_made_of_a_row_too() {
    use arrow_array::{Float64Array, RecordBatch, StringArray};
    use std::sync::Arc;
    let count: u32 = 400;
    let of = |row: u32, by: u32| f64::from(row * by % 97);
    let batch = RecordBatch::try_from_iter([
        (
            "a",
            Arc::new((0..count).map(|row| Some(of(row, 7))).collect::<Float64Array>())
                as arrow_array::ArrayRef,
        ),
        ("b", Arc::new((0..count).map(|row| Some(of(row, 13))).collect::<Float64Array>())),
        (
            "a_x_b",
            Arc::new(
                (0..count).map(|row| Some(of(row, 7) * of(row, 13))).collect::<Float64Array>(),
            ),
        ),
        (
            "label",
            Arc::new(StringArray::from_iter_values(
                (0..count).map(|row| if of(row, 7) * of(row, 13) > 2000.0 { "yes" } else { "no" }),
            )),
        ),
    ])
    .unwrap();
    let options = hearth_tabular::FeatureOptions {
        features: Some(vec!["a_x_b".to_owned()]),
        ..Default::default()
    };
    let task = hearth_tabular::Task::TabularClassification;
    let mut learner =
        hearth_tabular::Learner::new(task, "label", &batch.schema(), &options).unwrap();
    learner.add(&batch).unwrap();
    let features = Arc::new(learner.finish().unwrap());
    let train = crate::data::table(&features, &batch);
    let rules: TableRules =
        serde_json::from_value(json!({"columns": {}, "crosses": [["a", "b"]]})).unwrap();
    let of = Fit { train: &train, held_out: None, rules: Some(&rules), checkpoint: None };
    let model = fit(&of, &small(), |_| std::ops::ControlFlow::Continue(())).unwrap();
    let row = |value: Value| value.as_object().unwrap().clone();
    let said =
        model.predict(&[row(json!({"a": 90, "b": 90})), row(json!({"a": 1, "b": 2}))]).unwrap();
    let label = |said: &Prediction| serde_json::to_value(said).unwrap()["label"].clone();
    assert_eq!((label(&said[0]), label(&said[1])), (json!("yes"), json!("no")));
    assert!(model.predict(&[row(json!({"a": 90}))]).is_err());
}

#[test]
fn a_saved_model_says_the_same_and_has_the_same_bytes() {
    for label in ["label", "kind", "price"] {
        let mut config = small();
        if label != "price" {
            config.calibration = Some(CalibrationMethod::Isotonic);
        }
        let model = model(label, &config);
        let directory = tempfile::tempdir().unwrap();
        model.save(directory.path()).unwrap();
        let loaded = Model::load(directory.path()).unwrap();
        let rows = [row(), with("amount", json!(3))];
        assert_eq!(loaded.predict(&rows).unwrap(), model.predict(&rows).unwrap());
        assert_eq!(loaded.parts(), model.parts());
        let bytes = || -> BTreeMap<_, _> {
            let entries = std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap);
            entries.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
        };
        let before = bytes();
        assert_eq!(before.len(), 2, "{:?}", before.keys());
        loaded.save(directory.path()).unwrap();
        assert!(before == bytes(), "{label}: other bytes");
        let config: Value =
            serde_json::from_slice(&before[std::ffi::OsStr::new("config.json")]).unwrap();
        assert_eq!(config["architectures"], json!(["GradientBoostedTrees"]));
        assert_eq!(config["model_type"], "hearth-tabular");
    }
}

#[test]
fn served_rows_are_compared_with_training_rows() {
    let model = model("label", &small());
    let reference = model.parts().reference.as_ref().unwrap();
    let psi = |rows: &[Map<String, Value>]| -> BTreeMap<String, f64> {
        let encoded = model.encode(rows).unwrap();
        let said = model.predict_rows(&encoded, 0).unwrap();
        let mut drift = Drift::by(reference.histograms());
        for (values, score) in model.compared(&encoded, &said) {
            drift.count(reference.histograms().zip(values.iter().copied().chain([score])));
        }
        let names = model.parts().features.features.iter().map(|feature| feature.name.clone());
        let shifts = drift.apart(reference.histograms());
        names.chain([SCORE.to_owned()]).zip(shifts.iter().map(|shift| shift.psi)).collect()
    };
    let rows: Vec<_> = (0..4000_u32)
        .map(|number| {
            let part = f64::from(number.wrapping_mul(2_654_435_761) >> 16) / 65536.0;
            let city = ["Ulm", "Kiel", "Bonn", "Jena"][number as usize % 4];
            let amount = if number % 17 == 0 { Value::Null } else { json!(100.0 * part) };
            let mut row = with("amount", amount);
            row.insert("city".into(), json!(city));
            row
        })
        .collect();
    let alike = psi(&rows);
    let far: Vec<_> = rows
        .into_iter()
        .map(|mut row| {
            row.insert("amount".into(), json!(99.0));
            row
        })
        .collect();
    let moved = psi(&far);
    assert!(alike["amount"] < 0.02 && alike["city"] < 0.02, "{alike:?}");
    assert!(moved["amount"] > 0.25 && moved["score"] > 0.25, "{moved:?}");
}

#[test]
fn threads_share_a_model() {
    let model = model("label", &small());
    let want = model.predict(&[row()]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert_eq!(model.predict(&[row()]).unwrap(), want);
                    let rows = model.encode(&[row()]).unwrap();
                    model.predict_rows(&rows, 3).unwrap();
                }
            });
        }
    });
}

/// Speed, for whoever asks: `cargo test … -- --ignored --nocapture microseconds`.
#[test]
#[ignore = "measures, and asserts nothing"]
fn microseconds_a_row() {
    let config = FitConfig {
        trees: TreesConfig { n_estimators: 200, ..TreesConfig::default() },
        ..FitConfig::default()
    };
    let started = Instant::now();
    let model = model("label", &config);
    println!("trained 200 trees on 3000 rows in {:?}", started.elapsed());
    let rows = vec![row(); 1000];
    for (name, explain) in [("plain", 0), ("explained", 5)] {
        let started = Instant::now();
        for row in &rows {
            let one = model.encode(std::slice::from_ref(row)).unwrap();
            model.predict_rows(&one, explain).unwrap();
        }
        println!("{name}, one at a time: {:?} a row", started.elapsed() / 1000);
        let started = Instant::now();
        model.predict_rows(&model.encode(&rows).unwrap(), explain).unwrap();
        println!("{name}, a thousand at once: {:?} a row", started.elapsed() / 1000);
    }
}

#[test]
fn parts_that_do_not_go_with_the_trees_are_refused() {
    let (label, price) = (model("label", &small()), model("price", &small()));
    let swapped = Model::new(label.text().unwrap().to_owned(), price.parts().clone());
    assert!(swapped.unwrap_err().to_string().contains("another task"));
    let parts = Parts { threshold: None, calibration: None, ..label.parts().clone() };
    assert!(Model::new(label.text().unwrap().to_owned(), parts).is_ok());
}

/// What a tree adds for a row.
fn leaf(tree: &Tree, row: &[f64]) -> f64 {
    let mut at = if tree.splits.is_empty() { Child::Leaf(0) } else { Child::Split(0) };
    loop {
        let split = match at {
            Child::Leaf(place) => return tree.leaves[place],
            Child::Split(place) => &tree.splits[place],
        };
        let value = row[split.feature];
        let left = match &split.test {
            Test::AtMost { threshold, missing } => {
                if value.is_nan() {
                    *missing
                } else {
                    value <= *threshold
                }
            }
            Test::Among(members) => {
                members.iter().any(|member| f64::from(*member).to_bits() == value.to_bits())
            }
        };
        at = if left { split.left } else { split.right };
    }
}

/// Scores of rows, `[rows, classes]`.
fn walked(forest: &Forest, rows: &[f64], features: usize) -> Vec<f64> {
    let mut scores = Vec::new();
    for row in rows.chunks_exact(features) {
        let start = scores.len();
        scores.resize(start + forest.classes, 0.0);
        for (number, tree) in forest.trees.iter().enumerate() {
            scores[start + number % forest.classes] += leaf(tree, row);
        }
    }
    scores
}

#[test]
fn trees_as_data_give_what_lightgbm_gives() {
    for label in ["label", "kind", "price"] {
        let model = model(label, &small());
        let forest = model.forest().unwrap().unwrap();
        let tests = || forest.trees.iter().flat_map(|tree| &tree.splits).map(|split| &split.test);
        assert!(tests().any(|test| matches!(test, Test::Among(_))), "{label}: no sets");
        assert!(tests().any(|test| matches!(test, Test::AtMost { missing: true, .. })));
        assert!(tests().any(|test| matches!(test, Test::AtMost { missing: false, .. })));
        let (rows, _) = tables(label, 400);
        let features = rows.features().features.len();
        let mut values = rows.values().to_vec();
        // Values that training rows never had, of each feature: none, one below all, one above.
        for (place, value) in values.iter_mut().enumerate() {
            match place % 11 {
                3 => *value = f64::NAN,
                7 => *value = -2.0,
                9 => *value = 1e9,
                _ => {}
            }
        }
        let wanted = model.raw_scores(&values).unwrap();
        let got = walked(&forest, &values, features);
        assert_eq!(got.len(), wanted.len());
        for (got, wanted) in got.iter().zip(&wanted) {
            assert!((got - wanted).abs() < 1e-9, "{label}: {got} is not {wanted}");
        }
    }
}
