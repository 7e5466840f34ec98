//! Trees: what is learned, the same each time, and from a checkpoint on.

use std::ops::ControlFlow;

use arrow_array::{RecordBatch, TimestampSecondArray};
use hearth_tabular::{
    CalibrationMethod, ClassWeight, Fit, FitConfig, Learner, Metrics, Objective, Reason,
    TabularError, ThresholdTarget, TreesConfig, fit, resume, train,
};
use std::sync::Arc;

use crate::data::{batch, learned, model, options, table, tables, task};

fn go(_: hearth_tabular::Iteration<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn trees(iterations: u32) -> TreesConfig {
    TreesConfig { n_estimators: iterations, ..TreesConfig::default() }
}

#[test]
fn columns_that_tell_nothing_are_left_out_with_a_note() {
    let features = learned(&batch(500, 1), "label");
    let names: Vec<&str> = features.features.iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!(names, ["amount", "age", "city", "night", "code"]);
    let left: Vec<_> =
        features.left_out.iter().map(|column| (column.name.as_str(), column.reason)).collect();
    assert_eq!(
        left,
        [
            ("id", Reason::Identifier),
            ("constant", Reason::Constant),
            ("kind", Reason::Excluded),
            ("price", Reason::Excluded)
        ]
    );
    assert!(features.left_out[0].note().contains("as an identifier does"));
    let missing: Vec<bool> = features.features.iter().map(|feature| feature.missing).collect();
    assert_eq!(missing, [true, false, false, false, false]);
    assert_eq!(features.labels, ["clean", "fraud"]);
    let codes = features.features[4].vocabulary.as_ref().unwrap();
    assert_eq!(codes.len(), 5);
}

#[test]
fn columns_that_do_not_fit_are_refused_by_name() {
    let rows = batch(50, 1);
    let told = |label: &str, change: &dyn Fn(&mut hearth_tabular::FeatureOptions)| {
        let mut options = options("label");
        change(&mut options);
        let learner = Learner::new(task(label), label, &rows.schema(), &options);
        learner.and_then(|mut learner| {
            learner.add(&rows)?;
            learner.finish()
        })
    };
    let text = |result: Result<_, TabularError>| result.unwrap_err().to_string();
    assert!(text(told("answer", &|_| {})).contains("column \"answer\": no row has this label"));
    let unknown =
        |options: &mut hearth_tabular::FeatureOptions| options.categories.push("x".into());
    assert!(text(told("label", &unknown)).contains("categories: no row has a column \"x\""));
    let labels =
        |options: &mut hearth_tabular::FeatureOptions| options.labels = Some(vec!["a".into()]);
    assert!(text(told("label", &labels)).contains("labels: the training rows have"));

    let times: TimestampSecondArray = (0..50).map(Some).collect();
    let rows = RecordBatch::try_from_iter([
        ("when", Arc::new(times) as arrow_array::ArrayRef),
        ("label", rows.column_by_name("label").unwrap().clone()),
    ])
    .unwrap();
    let options = hearth_tabular::FeatureOptions::default();
    let told = Learner::new(task("label"), "label", &rows.schema(), &options).unwrap_err();
    assert!(told.to_string().contains("column \"when\": it holds times"), "{told}");
}

#[test]
fn the_same_rows_and_seed_give_the_same_bytes() {
    let (rows, held_out) = tables("label", 1500);
    let config = TreesConfig {
        subsample: 0.7,
        subsample_freq: 2,
        colsample_bytree: 0.6,
        seed: 5,
        ..trees(12)
    };
    let once = train(&rows, Some(&held_out), &config, go).unwrap();
    assert_eq!(train(&rows, Some(&held_out), &config, go).unwrap(), once);
    let other = TreesConfig { seed: 6, ..config };
    assert_ne!(train(&rows, None, &other, go).unwrap().model, once.model);
}

#[test]
fn training_goes_on_from_a_checkpoint_as_if_it_had_not_ended() {
    let drawn = |iterations| TreesConfig {
        subsample: 0.6,
        subsample_freq: 3,
        colsample_bytree: 0.6,
        early_stopping_rounds: Some(50),
        ..trees(iterations)
    };
    for (label, config) in [
        ("label", trees(14)),
        ("label", drawn(14)),
        ("label", TreesConfig { class_weight: ClassWeight::Balanced, ..drawn(14) }),
        ("kind", drawn(9)),
        ("price", drawn(14)),
        ("price", TreesConfig { objective: Objective::L1, ..trees(14) }),
    ] {
        let (rows, held_out) = tables(label, 1200);
        let mut losses = Vec::new();
        let mut checkpoint = None;
        let whole = train(&rows, Some(&held_out), &config, |iteration| {
            losses.push((iteration.train_loss, iteration.eval_loss));
            if iteration.number == 4 {
                checkpoint = Some(iteration.checkpoint().unwrap());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        let mut again = Vec::new();
        let mut second = None;
        resume(checkpoint.as_ref(), (&rows, Some(&held_out)), &config, |iteration| {
            again.push((iteration.train_loss, iteration.eval_loss));
            if iteration.number == 8 {
                second = Some(iteration.checkpoint().unwrap());
            }
            if iteration.number == 8 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        let resumed = resume(second.as_ref(), (&rows, Some(&held_out)), &config, |iteration| {
            again.push((iteration.train_loss, iteration.eval_loss));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(losses[4..], again, "{label} {config:?}");
        assert!(resumed == whole, "{label} {config:?}: another model");
    }
}

#[test]
fn training_stops_early_at_the_lowest_loss() {
    let (rows, held_out) = tables("label", 600);
    let config = TreesConfig { early_stopping_rounds: Some(5), learning_rate: 0.4, ..trees(300) };
    let mut losses = Vec::new();
    let trained = train(&rows, Some(&held_out), &config, |iteration| {
        losses.extend(iteration.eval_loss);
        ControlFlow::Continue(())
    })
    .unwrap();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(trained.best.unwrap().loss.to_bits(), best.to_bits());
    assert_eq!(losses.len(), trained.iterations as usize + 5);
    let counted = trained.model.matches("\nTree=").count();
    assert_eq!(counted, trained.iterations as usize);
    let told = train(&rows, None, &config, go).unwrap_err().to_string();
    assert!(told.starts_with("earlyStoppingRounds: there are no held-out rows"), "{told}");
}

#[test]
fn rows_that_cannot_be_split_are_refused() {
    let (rows, _) = tables("label", 30);
    let told = train(&rows, None, &trees(5), go).unwrap_err().to_string();
    assert!(told.contains("no split is possible"), "{told}");
    let weights = ClassWeight::ByLabel([("fraudd".to_owned(), 2.0)].into());
    let told = train(&rows, None, &TreesConfig { class_weight: weights, ..trees(5) }, go);
    assert!(told.unwrap_err().to_string().contains("classWeight: there is no label \"fraudd\""));
}

#[test]
fn a_model_knows_how_good_it_is_on_rows_that_chose_nothing() {
    let config = FitConfig {
        trees: TreesConfig { early_stopping_rounds: Some(10), ..trees(80) },
        calibration: Some(CalibrationMethod::Isotonic),
        threshold: Some(ThresholdTarget::FalsePositiveRate(0.05)),
    };
    let model = model("label", &config);
    let Some(Metrics::Classification(metrics)) = &model.parts().metrics else {
        panic!("no metrics")
    };
    assert!(metrics.roc_auc.unwrap() > 0.85, "{metrics:?}");
    assert!(metrics.brier < 0.12 && metrics.log_loss < 1.0, "{metrics:?}");
    let chosen = &model.parts().threshold.as_ref().unwrap().chosen_on;
    assert!(chosen.false_positive_rate.unwrap().value <= 0.05);
    let reported = metrics.confusion.as_ref().unwrap();
    assert!(reported.false_positive_rate.unwrap().low < 0.05, "{reported:?}");
    // Halves, not the same rows.
    let of = |counts: hearth_tabular::Counts| {
        counts.true_positives
            + counts.false_positives
            + counts.true_negatives
            + counts.false_negatives
    };
    assert_eq!(of(chosen.counts) + of(reported.counts), 3000);
    assert_eq!(metrics.rows, of(reported.counts));
}

#[test]
fn settings_that_do_not_go_with_the_rows_are_refused() {
    let (rows, held_out) = tables("price", 200);
    let of = Fit { train: &rows, held_out: Some(&held_out), rules: None, checkpoint: None };
    let calibrated =
        FitConfig { calibration: Some(CalibrationMethod::Sigmoid), ..FitConfig::default() };
    assert!(fit(&of, &calibrated, go).unwrap_err().to_string().starts_with("calibration: "));
    let chosen =
        FitConfig { threshold: Some(ThresholdTarget::Recall(0.9)), ..FitConfig::default() };
    assert!(fit(&of, &chosen, go).unwrap_err().to_string().starts_with("threshold: "));
    let (rows, _) = tables("label", 200);
    let none = Fit { train: &rows, held_out: None, rules: None, checkpoint: None };
    assert!(fit(&none, &chosen, go).unwrap_err().to_string().contains("hold some out"));
    let strange = table(&learned(&batch(40, 3), "label"), &batch(40, 3));
    let told = train(&rows, Some(&strange), &trees(3), go).unwrap_err().to_string();
    assert!(told.contains("other features"), "{told}");
}
