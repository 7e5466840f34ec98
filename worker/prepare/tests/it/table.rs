use std::collections::BTreeMap;
use std::fs;

use hearth_crds::preparation::{
    Augmentation, Column, ColumnType, Missing, OutlierAction, OutlierMethod, Outliers,
    PrepareConfig, Smote, TableAugmentation, TablePreparation,
};
use hearth_prepare::table::ColumnValues;
use hearth_prepare::table::rules::TableRules;
use serde_json::{Value, json};

use crate::fixture::{Room, prepare, refusal, rows, series, tabular, texts};

/// Settings for a table with these columns.
fn config(room: &Room, train: &str, columns: &[(&str, Column)]) -> PrepareConfig {
    let mut config = room.config(room.file("train.csv", train));
    config.text_fields = Vec::new();
    let columns = columns.iter().map(|(name, column)| ((*name).to_owned(), column.clone()));
    config.preparation.table = Some(TablePreparation { columns: columns.collect() });
    config
}

fn augmented(config: &mut PrepareConfig, table: TableAugmentation) {
    let augment = Augmentation { table: Some(table), ..Augmentation::default() };
    config.preparation.augment = Some(augment);
}

fn of(missing: Missing) -> Column {
    Column { missing, ..Column::default() }
}

const NOTHING: TableAugmentation =
    TableAugmentation { copies: 1, crosses: Vec::new(), perturb: None, smote: None, windows: None };

#[test]
fn values_that_are_none_of_the_type_are_malformed_rows() {
    let room = Room::new();
    let train = "zip,age,label\n01234,3,a\n1234,x,a\n,4,a\n5,-1,a\n6,2.5,a\n";
    let age = Column { type_: Some(ColumnType::Integer), min: Some(0.0), ..Column::default() };
    let zip = Column { type_: Some(ColumnType::Category), ..Column::default() };
    let mut config = config(&room, train, &[("age", age), ("zip", zip)]);
    let told = refusal(&config);
    assert!(told.contains("train.csv:3: field \"age\" is not a number"), "{told}");
    config.max_bad_rows = 3;
    let made = prepare(&config).unwrap();
    let reasons: Vec<_> =
        made.card.malformed_rows.iter().map(|row| (row.line, row.reason.as_str())).collect();
    let want = [
        (3, "field \"age\" is not a number"),
        (5, "field \"age\" is below min"),
        (6, "field \"age\" is not a whole number"),
    ];
    assert_eq!(reasons, want);
    let left = [
        json!({"zip": "01234", "age": 3, "label": "a"}),
        json!({"zip": null, "age": 4, "label": "a"}),
    ];
    assert_eq!(rows(&made, "train"), left);
}

#[test]
fn what_training_rows_teach_is_done_to_both_sides() {
    let room = Room::new();
    let train = "age,city,amount,label\n10,Ulm,1,a\n,Ulm,2,b\n30,,3,a\n20,Bonn,4,b\n,Kiel,100,a\n";
    let eval = "age,city,amount,label\n,,-50,a\n99999,Kiel,2,b\n99999,Kiel,3,b\n";
    let fences =
        Outliers { method: OutlierMethod::IQR, distance: None, action: OutlierAction::Clip };
    let amount = Column { outliers: Some(fences), ..Column::default() };
    let columns = [("age", of(Missing::Mean)), ("city", of(Missing::Mode)), ("amount", amount)];
    let mut config = config(&room, train, &columns);
    config.eval = Some(room.file("eval.csv", eval));
    let made = prepare(&config).unwrap();
    // Quartiles 2 and 4: fences at -1 and 7.
    let row = |age: i64, city: &str, amount: i64, label: &str| json!({"age": age, "city": city, "amount": amount, "label": label});
    let want = [
        row(10, "Ulm", 1, "a"),
        row(20, "Ulm", 2, "b"),
        row(30, "Ulm", 3, "a"),
        row(20, "Bonn", 4, "b"),
        row(20, "Kiel", 7, "a"),
    ];
    assert_eq!(rows(&made, "train"), want);
    let want = [row(20, "Ulm", -1, "a"), row(99999, "Kiel", 2, "b"), row(99999, "Kiel", 3, "b")];
    assert_eq!(rows(&made, "eval"), want);

    let card = &made.card;
    let told = |name: &str| {
        let column = &card.mended[name];
        (column.filled, column.capped, column.dropped, column.rule.as_str())
    };
    assert_eq!(told("age"), (3, 0, 0, "missing becomes 20"));
    assert_eq!(told("city"), (2, 0, 0, "missing becomes the text in table.json"));
    assert_eq!(told("amount"), (0, 2, 0, "capped at -1 and 7"));
    let text = fs::read_to_string(made.directory.join("card.md")).unwrap();
    assert!(text.contains("## Mended columns") && text.contains("missing becomes 20"), "{text}");

    // A server mends requests by the same file.
    let rules = fs::read(made.directory.join("table.json")).unwrap();
    let rules: TableRules = serde_json::from_slice(&rules).unwrap();
    let mut request: BTreeMap<String, ColumnValues> =
        [("age".to_owned(), ColumnValues::Number(vec![None]))].into();
    let applied = rules.apply(&mut request, 1);
    assert_eq!(request["age"], ColumnValues::Number(vec![Some(20.0)]));
    assert_eq!(applied.keep, [true]);
}

#[test]
fn rows_without_a_value_and_outliers_go_and_are_counted() {
    let room = Room::new();
    let train = "age,amount,label\n,1,a\n1,2,a\n2,3,a\n3,4,b\n4,5,b\n5,100,b\n";
    let drop = Outliers { method: OutlierMethod::IQR, distance: None, action: OutlierAction::Drop };
    let amount = Column { outliers: Some(drop), ..Column::default() };
    let config = config(&room, train, &[("age", of(Missing::Drop)), ("amount", amount)]);
    let made = prepare(&config).unwrap();
    assert_eq!(texts(&made, "train", "amount"), ["2", "3", "4", "5"]);
    let want = [("no value of \"age\"", 1), ("outlier of \"amount\"", 1)];
    assert_eq!(made.card.dropped, want.map(|(why, rows)| (why.to_owned(), rows)).into());
    assert_eq!((made.card.rows, made.card.train_rows), (6, 4));
}

#[test]
fn columns_that_do_not_fit_are_refused_with_what_to_do() {
    let room = Room::new();
    let train = "age,city,label\n1,Ulm,a\n2,Bonn,b\n";
    let told = |columns: &[(&str, Column)]| refusal(&config(&room, train, columns));
    let told_of = told(&[("size", Column::default())]);
    assert!(told_of.contains("no column \"size\""), "{told_of}");
    let told_of = told(&[("city", of(Missing::Mean))]);
    let want = "data.preparation.table.columns.city.missing: no mean of texts; write Fill";
    assert!(told_of.contains(want), "{told_of}");

    let mut other = config(&room, train, &[("age", Column::default())]);
    other.eval = Some(room.file("eval.csv", "age,city,label\n1.5,Ulm,a\n"));
    let told_of = refusal(&other);
    assert!(
        told_of.contains("columns.age.type: rows for training and for evaluation"),
        "{told_of}"
    );

    let mut cross = config(&room, train, &[]);
    augmented(
        &mut cross,
        TableAugmentation { crosses: vec![vec!["age".into(), "age2".into()]], ..NOTHING },
    );
    let told_of = refusal(&cross);
    assert!(told_of.contains("no column \"age2\""), "{told_of}");
}

#[test]
fn crosses_are_on_both_sides_and_noise_on_training_rows_alone() {
    let room = Room::new();
    let rows_of = |from: u32| {
        let rows: Vec<String> =
            (from..from + 20).map(|row| format!("{row}.5,{row},c{row},x")).collect();
        format!("a,b,c,label\n{}\n", rows.join("\n"))
    };
    let b = Column { max: Some(19.0), ..Column::default() };
    let mut config = config(&room, &rows_of(0), &[("b", b.clone())]);
    config.preparation.table = Some(TablePreparation { columns: [("b".to_owned(), b)].into() });
    config.eval = Some(room.file("eval.csv", "a,b,c,label\n2.5,3,z,x\n"));
    augmented(
        &mut config,
        TableAugmentation {
            copies: 2,
            crosses: vec![vec!["a".into(), "b".into()], vec!["c".into(), "b".into()]],
            perturb: Some(0.5),
            ..NOTHING
        },
    );
    let made = prepare(&config).unwrap();
    let eval = rows(&made, "eval");
    assert_eq!(
        eval,
        [json!({"a": 2.5, "b": 3, "c": "z", "label": "x", "a_x_b": 7.5, "c_x_b": "z_3"})]
    );
    let train = rows(&made, "train");
    assert_eq!((train.len(), made.card.train_rows, made.card.augmented["perturb"]), (60, 60, 40));
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap();
    let mut noisy = 0;
    for row in &train {
        assert!((number(row, "a_x_b") - number(row, "a") * number(row, "b")).abs() < 1e-9);
        assert!(number(row, "b") <= 19.0 && row["b"].is_i64(), "whole, and within bounds: {row}");
        let own: f64 = row["c"].as_str().unwrap()[1..].parse().unwrap();
        let away = (number(row, "a") - own - 0.5).abs();
        noisy += u32::from(away > 1e-9);
        assert!(away < 5.0 * 0.5 * 5.8, "{row}");
    }
    assert_eq!(noisy, 40);
    let samples = fs::read(made.directory.join("samples.json")).unwrap();
    let samples: Value = serde_json::from_slice(&samples).unwrap();
    let perturbed = samples["perturb"].as_array().unwrap();
    assert_eq!(perturbed.len(), 3);
    assert_eq!(perturbed[0]["before"]["a"], 0.5);
    assert_ne!(perturbed[0]["after"]["a"], 0.5);
}

#[test]
fn rare_labels_get_rows_between_their_own_and_evaluation_stays() {
    let room = Room::new();
    let mut config = tabular(&room, 1000);
    let table = config.preparation.augment.as_mut().unwrap().table.as_mut().unwrap();
    table.perturb = None;
    let made = prepare(&config).unwrap();
    let labels = &made.card.labels;
    assert_eq!(labels["fraud"], labels["fine"], "{labels:?}");
    assert_eq!(made.card.eval_rows, made.card.eval_labels.values().sum::<u64>());
    assert!(made.card.eval_labels["fraud"] < made.card.eval_labels["fine"]);
    let made_rows = made.card.augmented["smote"];
    let train = rows(&made, "train");
    assert_eq!(train.len() as u64, made.card.train_rows);
    let (given, new) = train.split_at(train.len() - usize::try_from(made_rows).unwrap());
    assert!(new.iter().all(|row| row["label"] == "fraud" && row["age"].is_i64()));
    let range = |rows: &[Value]| {
        let ages = rows.iter().map(|row| row["age"].as_i64().unwrap());
        (ages.clone().min().unwrap(), ages.max().unwrap())
    };
    let (known, between) = (range(given), range(new));
    assert!(known.0 <= between.0 && between.1 <= known.1, "{known:?} {between:?}");
}

#[test]
fn smote_of_no_classes_and_of_texts_is_refused() {
    let room = Room::new();
    let smote = TableAugmentation { smote: Some(Smote { neighbors: 3, share: 1.0 }), ..NOTHING };
    let lines: Vec<String> = (0..1500).map(|row| format!("{row},{row}.5")).collect();
    let mut config = config(&room, &format!("a,label\n{}\n", lines.join("\n")), &[]);
    augmented(&mut config, smote);
    let told = refusal(&config);
    assert!(told.contains("augment.table.smote: there are over 1000 labels"), "{told}");
    config.label = None;
    let told = refusal(&config);
    assert!(told.contains("rows have no label"), "{told}");
    config.text_fields = vec!["label".into()];
    config.label = Some("a".into());
    let told = refusal(&config);
    assert!(told.contains("smote"), "{told}");
}

#[test]
fn windows_are_of_one_series_in_the_order_of_time_and_new_ones_are_for_training() {
    let room = Room::new();
    let config = series(&room, 700);
    let made = prepare(&config).unwrap();
    let (train, eval) = (rows(&made, "train"), rows(&made, "eval"));
    let new = made.card.augmented["windows"];
    assert_eq!(train.len() as u64 * 2, new * 3, "two new ones of each");
    let list = |row: &Value, name: &str| -> Vec<f64> {
        row[name].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    for row in train.iter().chain(&eval) {
        assert!(list(row, "at").is_sorted() && list(row, "heat").len() == 4, "{row}");
        assert!(row["device"].is_string() && row["label"].is_i64(), "{row}");
    }
    let is_given =
        |row: &&Value| list(row, "heat").iter().all(|heat| (heat.fract() - 0.25).abs() < 1e-12);
    assert_eq!(train.iter().filter(is_given).count() as u64, train.len() as u64 - new);
    assert!(eval.iter().all(|row| is_given(&row)));
    let samples = fs::read(made.directory.join("samples.json")).unwrap();
    let samples: Value = serde_json::from_slice(&samples).unwrap();
    assert_eq!(samples["windows"][0]["before"]["heat"].as_array().unwrap().len(), 4);

    let mut other = config.clone();
    other.preparation.split = None;
    let told = refusal(&other);
    assert!(
        told.contains("windows: rows for evaluation would be drawn out of the middle"),
        "{told}"
    );
    let mut other = config;
    let table = other.preparation.augment.as_mut().unwrap().table.as_mut().unwrap();
    table.windows.as_mut().unwrap().length = 1000;
    let told = refusal(&other);
    assert!(told.contains("no series of the rows for training has 1000 rows"), "{told}");
}
