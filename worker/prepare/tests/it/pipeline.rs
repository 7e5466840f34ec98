use std::fs;

use hearth_crds::preparation::{Deduplication, PrepareConfig};
use hearth_prepare::{Manifest, Silent, run_with};
use serde_json::json;

use crate::fixture::{Room, bytes, full, prepare, rows, series, small, tabular, texts, textual};

#[test]
fn what_is_written_does_not_depend_on_the_number_of_threads() {
    let all =
        [("full", full as Make), ("tabular", tabular), ("textual", textual), ("series", series)];
    for (name, make) in all {
        let room = Room::new();
        let mut config = make(&room, 2000);
        let made = prepare(&config).unwrap();
        let want = bytes(&made.directory);
        assert!(want.len() > 5, "{name}: {:?}", want.keys());
        for threads in [1, 3] {
            config.output = room.path(&format!("out-{threads}"));
            let again = run_with(&config, &small(threads), &mut Silent).unwrap();
            assert_eq!(bytes(&again.directory), want, "{name}: {threads} threads");
            assert_eq!(again.card, made.card);
        }
        // The comparison can fail.
        config.preparation.seed += 1;
        let other = prepare(&config).unwrap();
        assert_ne!(bytes(&other.directory), want);
    }
}

type Make = fn(&Room, u64) -> PrepareConfig;

#[test]
fn what_is_known_is_found_and_what_is_damaged_is_made_again() {
    let room = Room::new();
    let config = full(&room, 300);
    let made = prepare(&config).unwrap();
    assert!(!made.known);
    let want = bytes(&made.directory);
    let again = prepare(&config).unwrap();
    assert!(again.known);
    assert_eq!(again.card, made.card);

    let shard = made.directory.join("train/00000.parquet");
    let mut content = fs::read(&shard).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    #[expect(clippy::disallowed_methods, reason = "damage is meant")]
    fs::write(&shard, content).unwrap();
    let repaired = prepare(&config).unwrap();
    assert!(!repaired.known);
    assert_eq!(bytes(&repaired.directory), want);
    let names: Vec<_> = fs::read_dir(&config.output)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, [made.card.id.as_str()], "nothing else is left behind");
}

#[test]
fn the_name_follows_from_content_and_settings_alone() {
    let room = Room::new();
    let config = full(&room, 100);
    let id = |config: &PrepareConfig| prepare(config).unwrap().card.id;
    let want = id(&config);
    let mut same = config.clone();
    same.job.name = "other".into();
    same.output = room.path("elsewhere");
    same.train = room.file("moved/rows.jsonl", fs::read(&config.train.path).unwrap());
    assert_eq!(id(&same), want);
    let mut changed = Vec::new();
    for change in 0..3 {
        let mut other = config.clone();
        match change {
            0 => other.preparation.seed = 1,
            1 => other.max_bad_rows += 1,
            _ => {
                let mut content = fs::read(&config.train.path).unwrap();
                content.extend_from_slice(b"{\"text\":\"new\",\"label\":\"ham\",\"customer\":1}\n");
                other.train = room.file("more/rows.jsonl", content);
            }
        }
        changed.push(id(&other));
    }
    assert!(!changed.contains(&want), "{changed:?}");
}

#[test]
fn the_first_of_equal_rows_stays_and_conflicting_labels_are_told() {
    let room = Room::new();
    let rows = concat!(
        "{\"text\":\"a\",\"label\":\"x\"}\n",
        "{\"text\":\"b\",\"label\":\"x\"}\n",
        "{\"text\":\"a\",\"label\":\"y\"}\n",
        "{\"text\":\"a\",\"label\":\"x\"}\n",
    );
    let mut config = room.config(room.file("rows.jsonl", rows));
    config.preparation.deduplicate = Some(Deduplication::default());
    let made = prepare(&config).unwrap();
    assert_eq!(texts(&made, "train", "text"), ["a", "b"]);
    assert_eq!(made.card.dropped, [("duplicate".to_owned(), 2)].into());
    assert_eq!(made.card.conflicting_labels, 1);
    assert_eq!(made.card.labels, [("x".to_owned(), 2)].into());
}

#[test]
fn rows_of_tables_are_equal_where_all_of_them_is() {
    let room = Room::new();
    let rows = "a,b,label\n1,x,0\n1,x,1\n1,x,0\n1,,0\n";
    let mut config = room.config(room.file("rows.csv", rows));
    config.text_fields = Vec::new();
    config.preparation.deduplicate = Some(Deduplication::default());
    let made = prepare(&config).unwrap();
    assert_eq!(texts(&made, "train", "label"), ["0", "1", "0"]);
    assert_eq!(made.card.dropped, [("duplicate".to_owned(), 1)].into());
}

#[test]
fn training_rows_that_are_for_evaluation_too_go() {
    let room = Room::new();
    let line = |text: &str| format!("{{\"text\":\"{text}\",\"label\":\"x\"}}\n");
    let train = ["a", "b", "c", "a"].map(line).concat();
    let mut config = room.config(room.file("train.jsonl", train));
    config.eval = Some(room.file("eval.jsonl", ["b", "d", "d"].map(line).concat()));
    let made = prepare(&config).unwrap();
    assert_eq!(texts(&made, "train", "text"), ["a", "c", "a"]);
    assert_eq!(texts(&made, "eval", "text"), ["b", "d", "d"], "nobody asked to deduplicate");
    assert_eq!(made.card.dropped, [("also in eval".to_owned(), 1)].into());
    assert_eq!((made.card.rows, made.card.train_rows, made.card.eval_rows), (7, 3, 3));
}

#[test]
fn rows_that_say_nearly_the_same_go_and_those_of_evaluation_stay() {
    let room = Room::new();
    let words = |from: u32| {
        let words: Vec<String> = (from..from + 200).map(|word| format!("w{word}")).collect();
        words.join(" ")
    };
    let line = |text: String| format!("{{\"text\":\"{text}\",\"label\":\"x\"}}\n");
    // One word of 200 differs: five of 196 sequences.
    let nearly = |from: u32| words(from).replace(&format!("w{} ", from + 50), "another ");
    let train = [words(0), nearly(0), words(1000), words(2000), nearly(3000)].map(line).concat();
    let mut config = room.config(room.file("train.jsonl", train));
    config.eval = Some(room.file("eval.jsonl", [words(3000), words(4000)].map(line).concat()));
    config.preparation.deduplicate =
        Some(Deduplication { near: Some(0.8), ..Deduplication::default() });
    let made = prepare(&config).unwrap();
    assert_eq!(texts(&made, "train", "text"), [words(0), words(1000), words(2000)]);
    assert_eq!(texts(&made, "eval", "text"), [words(3000), words(4000)]);
    let want =
        [("near duplicate", 1), ("also in eval", 1)].map(|(why, rows)| (why.to_owned(), rows));
    assert_eq!(made.card.dropped, want.into());
}

#[test]
fn the_card_tells_what_became_of_rows_and_nothing_of_their_texts() {
    let room = Room::new();
    let mut config = full(&room, 1000);
    config.preparation.deduplicate = Some(Deduplication::default());
    let made = prepare(&config).unwrap();
    let card = &made.card;
    assert_eq!((card.rows, card.malformed), (1000, 20));
    assert_eq!(card.malformed_rows[1].line, 100);
    let dropped: u64 = card.dropped.values().sum();
    assert_eq!(card.rows, card.malformed + dropped + card.train_rows + card.eval_rows);
    assert_eq!(card.labels.values().sum::<u64>(), card.train_rows);
    assert_eq!(card.eval_labels.values().sum::<u64>(), card.eval_rows);
    assert_eq!(card.lengths.iter().map(|length| length.train).sum::<u64>(), card.train_rows);
    let price = card.columns.iter().find(|column| column.name == "price").unwrap();
    let numbers = price.numbers.as_ref().unwrap();
    assert_eq!((numbers.min, numbers.max, price.missing), (0.5, 98.5, 0));
    assert!((numbers.median - 49.5).abs() < 5.0, "{numbers:?}");
    for name in ["card.json", "card.md"] {
        let text = fs::read_to_string(made.directory.join(name)).unwrap();
        assert!(text.contains("spam") && !text.contains("word word"), "{text}");
    }
    assert!(card.recipe.get("job").is_none() && card.recipe["train"].get("path").is_none());
    assert!(Manifest::verified(&made.directory, &card.id).is_some());
}

#[test]
fn rows_keep_their_order_fields_and_values() {
    let room = Room::new();
    let given = concat!(
        "{\"text\":\"a\",\"label\":\"x\",\"n\":1,\"o\":{\"p\":[1,2]},\"mixed\":7}\n",
        "{\"label\":\"y\",\"text\":\"b\",\"n\":2.5,\"mixed\":{\"q\":null}}\n",
    );
    let made = prepare(&room.config(room.file("rows.jsonl", given))).unwrap();
    assert_eq!(
        rows(&made, "train"),
        [
            json!({"text": "a", "label": "x", "n": 1.0, "o": {"p": [1, 2]}, "mixed": "7"}),
            json!({"text": "b", "label": "y", "n": 2.5, "o": null, "mixed": "{\"q\":null}"}),
        ]
    );
}

#[test]
fn two_at_a_time_make_it_once() {
    let room = Room::new();
    let config = full(&room, 2000);
    let known: Vec<bool> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| prepare(&config).unwrap())).collect();
        runs.into_iter().map(|run| run.join().unwrap().known).collect()
    });
    assert_eq!(known.iter().filter(|known| !**known).count(), 1, "{known:?}");
}
