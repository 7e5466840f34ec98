//! Features that join rows.

use hearth_crds::features::{Feature, FeatureJoin, FeatureType};
use hearth_crds::preparation::{Column, Missing, PrepareConfig, TablePreparation};
use serde_json::{Value, json};

use crate::fixture::{Room, bytes, prepare, refusal, rows, small};

const TRANSFERS: &str = "sender,at,label\n007,2026-01-01T10:00:00Z,a\n007,2026-01-01T12:00:00Z,b\n8,2026-01-01T12:00:00Z,a\n";
const ACCOUNTS: &str = r#"{"account": "007", "known": "2026-01-01T09:00:00Z", "sent": 1, "city": "Ulm"}
{"account": "007", "known": "2026-01-01T12:00:00Z", "sent": 3}
{"account": "7", "known": "2026-01-01T09:00:00Z", "sent": 99, "city": "Bonn"}
"#;

fn feature(name: &str, type_: FeatureType, default: Option<&str>) -> Feature {
    let default = default.map(str::to_owned);
    Feature { name: name.to_owned(), field: None, type_, default }
}

fn join() -> FeatureJoin {
    FeatureJoin {
        source: "pvc://data/accounts.jsonl".into(),
        key: "sender".into(),
        time: "at".into(),
        source_key: Some("account".into()),
        source_time: Some("known".into()),
        features: vec![
            feature("sent", FeatureType::Integer, Some("0")),
            feature("city", FeatureType::Text, None),
        ],
        delay_seconds: 0,
        max_age_seconds: None,
    }
}

fn config(room: &Room, accounts: &str, join: FeatureJoin) -> PrepareConfig {
    let mut config = room.config(room.file("train.csv", TRANSFERS));
    config.text_fields = Vec::new();
    config.features = vec![room.file("accounts.jsonl", accounts).path];
    config.preparation.join = vec![join];
    config
}

fn joined(config: &PrepareConfig) -> Vec<Value> {
    let rows = rows(&prepare(config).unwrap(), "train");
    rows.into_iter().map(|row| json!([row["sent"], row["city"]])).collect()
}

#[test]
fn rows_are_joined_by_what_was_known_at_their_time() {
    let room = Room::new();
    let asked = config(&room, ACCOUNTS, join());
    // "007" is not the account "7"; of account 8 nothing is known.
    assert_eq!(joined(&asked), [json!([1, "Ulm"]), json!([3, null]), json!([0, null])]);
    let late = FeatureJoin { delay_seconds: 60, ..join() };
    let asked = config(&room, ACCOUNTS, late);
    assert_eq!(joined(&asked), [json!([1, "Ulm"]), json!([1, "Ulm"]), json!([0, null])]);
    let fresh = FeatureJoin { max_age_seconds: Some(3599), ..join() };
    let asked = config(&room, ACCOUNTS, fresh);
    assert_eq!(joined(&asked), [json!([0, null]), json!([3, null]), json!([0, null])]);
}

#[test]
fn columns_of_features_are_columns_as_others() {
    let room = Room::new();
    let mut asked = config(&room, ACCOUNTS, join());
    asked.preparation.join[0].features[0].default = None;
    let sent = Column { missing: Missing::Mean, ..Column::default() };
    let city = Column { missing: Missing::Drop, ..Column::default() };
    let columns = [("sent".to_owned(), sent), ("city".to_owned(), city)].into();
    asked.preparation.table = Some(TablePreparation { columns });
    assert_eq!(joined(&asked), [json!([1, "Ulm"])]);
}

#[test]
fn several_joins_see_each_their_own() {
    let room = Room::new();
    let mut asked = config(&room, ACCOUNTS, join());
    let second = FeatureJoin {
        features: vec![Feature {
            field: Some("sent".into()),
            ..feature("before", FeatureType::Number, None)
        }],
        delay_seconds: 3600,
        ..join()
    };
    asked.features.push(asked.features[0].clone());
    asked.preparation.join.push(second);
    let made = prepare(&asked).unwrap();
    let before: Vec<_> = rows(&made, "train").iter().map(|row| row["before"].clone()).collect();
    assert_eq!(before, [json!(1.0), json!(1.0), json!(null)]);
    let told: Vec<_> = made.card.sources.iter().map(|of| of.role.as_str()).collect();
    assert_eq!(told, ["train", "join[0]", "join[1]"]);
}

#[test]
fn other_features_are_other_data_and_threads_change_nothing() {
    let room = Room::new();
    let asked = config(&room, ACCOUNTS, join());
    let made = prepare(&asked).unwrap();
    assert!(prepare(&asked).unwrap().known);
    let mut alone = asked.clone();
    alone.output = room.path("alone");
    let again = hearth_prepare::run_with(&alone, &small(1), &mut hearth_prepare::Silent).unwrap();
    assert_eq!(bytes(&made.directory), bytes(&again.directory));
    let other = config(&room, &ACCOUNTS.replace("99", "98"), join());
    let other = prepare(&other).unwrap();
    assert!(!other.known && other.card.id != made.card.id);
}

#[test]
fn rows_without_a_time_are_malformed() {
    let room = Room::new();
    let mut asked = config(&room, ACCOUNTS, join());
    asked.train = room.file("train.csv", format!("{TRANSFERS}007,,a\n,2026-01-01T12:00:00Z,a\n"));
    let told = refusal(&asked);
    assert!(told.contains("train.csv:5: field \"at\" is not a timestamp"), "{told}");
    asked.max_bad_rows = 1;
    // A row without a key has no features.
    assert_eq!(joined(&asked).last(), Some(&json!([0, null])));
    assert_eq!(joined(&asked).len(), 4);
}

#[test]
fn joins_that_cannot_be_are_refused() {
    type Change = fn(&mut FeatureJoin);
    let room = Room::new();
    let cases: [(&str, &str, Change); 6] = [
        ("no column \"nobody\"", ACCOUNTS, |join| join.source_key = Some("nobody".into())),
        ("the rows have a column \"label\" already", ACCOUNTS, |join| {
            join.features[0].name = "label".into();
            join.features[0].field = Some("sent".into());
        }),
        ("data.preparation.join[0]: ", ACCOUNTS, |join| {
            join.features[0].field = Some("city".into());
        }),
        ("no column \"customer\"", ACCOUNTS, |join| join.key = "customer".into()),
        (
            "accounts.jsonl:2: column \"known\" holds what is not a timestamp",
            "{\"account\": 1, \"known\": null, \"sent\": 1, \"city\": \"\"}\n{\"account\": 1, \"known\": \"noon\", \"sent\": 1, \"city\": \"\"}\n",
            |_| (),
        ),
        ("accounts.jsonl:1: ", "{\"account\": 1\n", |_| ()),
    ];
    for (want, accounts, change) in cases {
        let mut join = join();
        change(&mut join);
        let told = refusal(&config(&room, accounts, join));
        assert!(told.contains(want), "{want}: {told}");
    }
    let mut gone = config(&room, ACCOUNTS, join());
    gone.features = vec![room.path("nowhere.parquet")];
    let told = refusal(&gone);
    assert!(told.contains("nowhere.parquet does not exist"), "{told}");
}
