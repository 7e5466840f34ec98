use std::collections::{BTreeMap, BTreeSet};

use hearth_crds::preparation::{Split, SplitBy};

use crate::fixture::{Room, full, jsonl, prepare, refusal, texts};

#[test]
fn each_label_gives_the_same_share() {
    let room = Room::new();
    let mut config = full(&room, 1000);
    config.preparation.split = None;
    config.preparation.deduplicate = None;
    let made = prepare(&config).unwrap();
    let count = |side: &str| {
        texts(&made, side, "label").into_iter().fold(BTreeMap::new(), |mut counts, label| {
            *counts.entry(label).or_insert(0) += 1;
            counts
        })
    };
    let (train, eval) = (count("train"), count("eval"));
    let left = made.card.dropped.get("also in eval").copied().unwrap_or(0);
    assert!(left < 4, "equal rows are drawn together: {:?}", made.card.dropped);
    for label in ["spam", "ham"] {
        let share = f64::from(eval[label]) / f64::from(eval[label] + train[label]);
        assert!((share - 0.1).abs() < 0.01, "{label}: {share}");
    }
    let both: BTreeSet<String> = texts(&made, "train", "text").into_iter().collect();
    assert!(texts(&made, "eval", "text").iter().all(|text| !both.contains(text)));
}

#[test]
fn groups_are_on_one_side() {
    let room = Room::new();
    let config = full(&room, 1000);
    let made = prepare(&config).unwrap();
    let groups = |side| texts(&made, side, "customer").into_iter().collect::<BTreeSet<_>>();
    let (train, eval) = (groups("train"), groups("eval"));
    assert!(train.is_disjoint(&eval), "{train:?} {eval:?}");
    let share = made.card.eval_rows as f64 / (made.card.eval_rows + made.card.train_rows) as f64;
    assert!((0.07..=0.1).contains(&share), "{share}");
}

#[test]
fn the_latest_are_for_evaluation() {
    let room = Room::new();
    let mut config = full(&room, 500);
    config.preparation.split = Some(Split { by: SplitBy::Time, field: Some("at".into()) });
    let made = prepare(&config).unwrap();
    let times = |side| -> Vec<u32> {
        texts(&made, side, "at").iter().map(|time| time.parse().unwrap()).collect()
    };
    assert!(times("train").iter().max() < times("eval").iter().min());
}

#[test]
fn what_cannot_be_divided_is_refused() {
    let room = Room::new();
    let mut config = full(&room, 10);
    config.train = room.file("one.jsonl", jsonl(1));
    let told = refusal(&config);
    assert!(told.contains("all rows are of one group"), "{told}");
    config.preparation.split = None;
    let told = refusal(&config);
    assert!(told.contains("too few rows to hold some out"), "{told}");
    config.preparation.split = Some(Split { by: SplitBy::Time, field: Some("text".into()) });
    config.max_bad_rows = 0;
    let told = refusal(&config);
    assert!(told.contains(":1: field \"text\" is neither a number nor a time"), "{told}");
}
