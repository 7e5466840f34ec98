//! What LightGBM's Python package and scikit-learn say of the same tables: tests/parity/tables.py.

use std::path::Path;
use std::sync::Arc;

use hearth_tabular::{
    Calibration, CalibrationMethod, ClassificationMetrics, Feature, Features, Model, Parts,
    Prediction, Recipe, RegressionMetrics, Rows, Task, TreesConfig, ValueType, average_precision,
    roc_auc,
};
use serde_json::{Map, Value, json};

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/parity").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn expected() -> Value {
    serde_json::from_str(&file("expected.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn near(found: f64, want: f64, within: f64, what: &str) {
    assert!((found - want).abs() <= within, "{what}: {found} where {want} is expected");
}

/// The model that Python trained.
fn python(task: &str) -> Model {
    let feature = |name: &str, values: Option<usize>| Feature {
        name: name.to_owned(),
        type_: if values.is_some() { ValueType::Text } else { ValueType::Number },
        missing: true,
        vocabulary: values.map(|values| (0..values).map(|value| value.to_string()).collect()),
    };
    let labels: &[&str] = match task {
        "binary" => &["no", "yes"],
        "multiclass" => &["a", "b", "c"],
        _ => &[],
    };
    let features = Features {
        task: if labels.is_empty() { Task::TabularRegression } else { Task::TabularClassification },
        label: "label".to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        features: vec![feature("x", None), feature("y", None), feature("category", Some(6))],
        left_out: Vec::new(),
        lists: Vec::new(),
    };
    let parts = Parts {
        features: Arc::new(features),
        recipe: Recipe::Trees(TreesConfig::default()),
        rules: None,
        calibration: None,
        threshold: None,
        metrics: None,
        reference: None,
    };
    Model::new(file(&format!("{task}.txt")), parts).unwrap()
}

fn rows(model: &Model, values: &Value) -> Rows {
    let row = |row: &Value| -> Map<String, Value> {
        let category = row[2].as_f64().unwrap();
        let row = json!({"x": row[0], "y": row[1], "category": category.to_string()});
        row.as_object().unwrap().clone()
    };
    let rows: Vec<_> = values.as_array().unwrap().iter().map(row).collect();
    model.encode(&rows).unwrap()
}

#[test]
fn predictions_and_contributions_are_pythons() {
    let expected = expected();
    for task in ["binary", "multiclass", "regression"] {
        let (model, want) = (python(task), &expected[task]);
        let rows = rows(&model, &want["rows"]);
        let said = model.predict_rows(&rows, 3).unwrap();
        assert_eq!(said.len(), 40);
        for (number, said) in said.iter().enumerate() {
            let (predicted, contributed) =
                (&want["predictions"][number], numbers(&want["contributions"][number]));
            let (why, class) = match said {
                Prediction::Number(said) => {
                    near(said.value, predicted.as_f64().unwrap(), 1e-12, task);
                    (said.explanation.as_ref().unwrap(), 0)
                }
                Prediction::Label(said) if task == "binary" => {
                    near(said.probabilities["yes"], predicted.as_f64().unwrap(), 1e-12, task);
                    (said.explanation.as_ref().unwrap(), 0)
                }
                Prediction::Label(said) => {
                    for (found, want) in said.probabilities.values().zip(numbers(predicted)) {
                        near(*found, want, 1e-12, task);
                    }
                    let class = said.probabilities.get_index_of(&said.label).unwrap();
                    (said.explanation.as_ref().unwrap(), class)
                }
            };
            let contributed = &contributed[class * 4..][..4];
            near(why.base, contributed[3], 1e-12, task);
            for of in &why.contributions {
                let place = ["x", "y", "category"].iter().position(|name| *name == of.feature);
                near(of.contribution, contributed[place.unwrap()], 1e-12, &of.feature);
            }
        }
    }
}

#[test]
fn calibrations_are_scikit_learns() {
    let expected = expected();
    let want = &expected["calibration"];
    let scores = numbers(&want["scores"]);
    let truths: Vec<usize> =
        numbers(&want["labels"]).iter().map(|of| usize::from(*of > 0.5)).collect();
    let both: Vec<f64> = scores.iter().flat_map(|score| [1.0 - score, *score]).collect();
    let calibrated = |method, scores: &[f64]| -> Vec<f64> {
        let fit = Calibration::fit(method, &both, &truths, 2).unwrap();
        let one = |score: &f64| {
            let mut row = [1.0 - score, *score];
            fit.apply(&mut row);
            row[1]
        };
        scores.iter().map(one).collect()
    };
    let grid = numbers(&want["grid"]);
    let isotonic = calibrated(CalibrationMethod::Isotonic, &grid);
    for (found, want) in isotonic.iter().zip(numbers(&want["isotonic"])) {
        near(*found, want, 1e-9, "isotonic");
    }
    let sigmoid = calibrated(CalibrationMethod::Sigmoid, &scores);
    for (found, want) in sigmoid.iter().zip(numbers(&want["sigmoid"])) {
        near(*found, want, 1e-9, "sigmoid");
    }
}

#[test]
fn metrics_are_scikit_learns() {
    let expected = expected();
    let want = &expected["calibration"];
    let scores = numbers(&want["scores"]);
    let truths: Vec<usize> =
        numbers(&want["labels"]).iter().map(|of| usize::from(*of > 0.5)).collect();
    let given: Vec<usize> = scores.iter().map(|score| usize::from(*score >= 0.5)).collect();
    let both: Vec<f64> = scores.iter().flat_map(|score| [1.0 - score, *score]).collect();
    let found = ClassificationMetrics::of(&both, &given, &truths, 2);
    let pairs: Vec<_> =
        scores.iter().copied().zip(truths.iter().map(|truth| *truth == 1)).collect();
    assert_eq!(found.roc_auc, roc_auc(pairs.clone()));
    assert_eq!(found.average_precision, average_precision(pairs));
    for (found, name) in [
        (found.roc_auc.unwrap(), "rocAuc"),
        (found.average_precision.unwrap(), "averagePrecision"),
        (found.brier, "brier"),
        (found.log_loss, "logLoss"),
        (found.accuracy, "accuracy"),
        (found.macro_f1, "macroF1"),
    ] {
        near(found, want["metrics"][name].as_f64().unwrap(), 1e-9, name);
    }

    let want = &expected["several"];
    let several: Vec<f64> =
        want["probabilities"].as_array().unwrap().iter().flat_map(numbers).collect();
    let truths: Vec<usize> = want["labels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| usize::try_from(of.as_u64().unwrap()).unwrap())
        .collect();
    let likeliest =
        |row: &[f64]| (0..3).max_by(|one, other| row[*one].total_cmp(&row[*other])).unwrap();
    let given: Vec<usize> = several.chunks_exact(3).map(likeliest).collect();
    let found = ClassificationMetrics::of(&several, &given, &truths, 3);
    for (found, name) in [
        (found.roc_auc.unwrap(), "rocAuc"),
        (found.log_loss, "logLoss"),
        (found.macro_f1, "macroF1"),
        (found.brier, "brier"),
    ] {
        near(found, want[name].as_f64().unwrap(), 1e-9, name);
    }

    let want = &expected["numbers"];
    let found = RegressionMetrics::of(&numbers(&want["predictions"]), &numbers(&want["truths"]));
    for (found, name) in [(found.rmse, "rmse"), (found.mae, "mae"), (found.r2.unwrap(), "r2")] {
        near(found, want[name].as_f64().unwrap(), 1e-9, name);
    }
}
