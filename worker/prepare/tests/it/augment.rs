use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_crds::preparation::{Augmentation, BackTranslation, PrepareConfig, TextAugmentation};
use serde_json::{Value, json};

use crate::fixture::{Room, prepare, refusal, rows, texts, textual};
use crate::resume::{finish, start};

const NOTHING: TextAugmentation = TextAugmentation {
    copies: 1,
    synonyms: None,
    insert: None,
    swap: None,
    delete: None,
    back_translation: None,
};

fn augmented(config: &mut PrepareConfig, text: TextAugmentation) {
    config.preparation.augment = Some(Augmentation { text: Some(text), ..Augmentation::default() });
}

#[test]
fn texts_are_made_of_training_rows_alone_and_shown_beside_the_card() {
    let room = Room::new();
    let config = textual(&room, 1000);
    let made = prepare(&config).unwrap();
    let mut plain = config.clone();
    plain.preparation.augment = None;
    let before = prepare(&plain).unwrap();
    assert_eq!(rows(&made, "eval"), rows(&before, "eval"));

    let kind = "synonyms+insert+swap+delete";
    let new = made.card.augmented[kind];
    assert_eq!(made.card.train_rows, before.card.train_rows + new);
    assert!(new > before.card.train_rows, "two copies of most: {new}");
    let told: u64 = made.card.not_augmented.values().sum();
    assert_eq!(new + told, 2 * before.card.train_rows);
    let all = texts(&made, "train", "text");
    let known: BTreeSet<String> = texts(&before, "train", "text").into_iter().collect();
    let eval: BTreeSet<String> = texts(&made, "eval", "text").into_iter().collect();
    assert_eq!(all.iter().filter(|text| !known.contains(*text)).count() as u64, new);
    assert!(all.iter().all(|text| !eval.contains(text)));
    assert!(all.iter().any(|text| text.contains("expression")));

    let samples = fs::read(made.directory.join("samples.json")).unwrap();
    let samples: Value = serde_json::from_slice(&samples).unwrap();
    let shown = samples[kind].as_array().unwrap();
    assert_eq!(shown.len(), 3);
    assert!(shown.iter().all(|sample| {
        let of = |side: &str| sample[side].as_str().unwrap().to_owned();
        known.contains(&of("before")) && all.contains(&of("after")) && of("before") != of("after")
    }));
    let card = fs::read_to_string(made.directory.join("card.md")).unwrap();
    assert!(card.contains(kind) && card.contains("samples.json"), "{card}");
    let json = fs::read_to_string(made.directory.join("card.json")).unwrap();
    assert!(!card.contains("expression") && !json.contains("expression"), "no texts in the card");
}

#[test]
fn the_content_of_synonyms_decides_on_the_name_and_their_place_does_not() {
    let room = Room::new();
    let mut config = textual(&room, 200);
    let id = |config: &PrepareConfig| prepare(config).unwrap().card.id;
    let want = id(&config);
    config.synonyms =
        Some(room.file("moved/synonyms.txt", "word\tterm\texpression\nrow\tline\n").path);
    assert_eq!(id(&config), want);
    config.synonyms = Some(room.file("other/synonyms.txt", "word\tterm\nrow\tline\n").path);
    assert_ne!(id(&config), want);
    config.synonyms = Some(room.file("none.txt", "word\n").path);
    let told = refusal(&config);
    assert!(told.contains("synonyms.source") && told.contains("has no synonyms"), "{told}");
    config.synonyms = Some(room.path("gone.txt"));
    let told = refusal(&config);
    assert!(told.contains("gone.txt does not exist"), "{told}");
}

#[test]
fn a_text_that_is_for_evaluation_is_not_made() {
    let room = Room::new();
    let line = |text: &str| format!("{{\"text\":\"{text}\",\"label\":\"x\"}}\n");
    let mut config = room.config(room.file("train.jsonl", line("one two")));
    config.eval = Some(room.file("eval.jsonl", line("two one")));
    augmented(&mut config, TextAugmentation { swap: Some(0.5), copies: 3, ..NOTHING });
    let made = prepare(&config).unwrap();
    assert_eq!(texts(&made, "train", "text"), ["one two"]);
    assert_eq!(made.card.not_augmented, [("also in eval".to_owned(), 3)].into());
    assert!(!made.directory.join("samples.json").exists());
}

#[test]
fn of_conversations_what_users_say_changes_alone() {
    let room = Room::new();
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let (system, answer) = ("be kind and brief", "here is what you asked for");
    let row = |number: u32| {
        let asked = said("user", &format!("please tell me number {number} of many"));
        json!({"text": [said("system", system), asked, said("assistant", answer)], "label": "x"})
    };
    let lines: Vec<String> = (0..20).map(|number| row(number).to_string()).collect();
    let mut config = room.config(room.file("rows.jsonl", lines.join("\n")));
    augmented(&mut config, TextAugmentation { swap: Some(0.3), delete: Some(0.3), ..NOTHING });
    let made = prepare(&config).unwrap();
    let train = rows(&made, "train");
    assert!(train.len() > 30, "{}", train.len());
    for row in &train {
        let messages = row["text"].as_array().unwrap();
        assert_eq!(
            (&messages[0]["content"], &messages[2]["content"]),
            (&json!(system), &json!(answer))
        );
    }
}

#[test]
fn texts_are_needed() {
    let room = Room::new();
    let mut config = room.config(room.file("rows.csv", "a,label\n1,2\n"));
    config.text_fields = Vec::new();
    augmented(&mut config, TextAugmentation { swap: Some(0.3), ..NOTHING });
    let told = refusal(&config);
    assert!(told.contains("augment.text: rows have no field of texts"), "{told}");
}

#[test]
fn shares_that_are_none_are_refused() {
    let room = Room::new();
    let mut config = room.config(room.file("rows.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n"));
    augmented(&mut config, TextAugmentation { delete: Some(1.5), ..NOTHING });
    let told = refusal(&config);
    assert!(told.contains("augment.text.delete: it is a share of words"), "{told}");
    augmented(&mut config, TextAugmentation { insert: Some(0.1), ..NOTHING });
    let told = refusal(&config);
    assert!(told.contains("augment.text.insert: it puts in synonyms"), "{told}");
}

type Asked = Arc<Mutex<BTreeMap<String, u32>>>;

/// A model that says something else each time, after a while; and how often it was asked what.
fn model() -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Asked::default();
    let counts = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counts = Arc::clone(&counts);
            std::thread::spawn(move || answer(&stream, &counts));
        }
    });
    (url, asked)
}

fn answer(mut stream: &TcpStream, asked: &Asked) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(told) = line.to_lowercase().strip_prefix("content-length: ") {
                length = told.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body: Value = serde_json::from_slice(&body).unwrap();
        let text = body["messages"][1]["content"].as_str().unwrap().to_owned();
        let time = {
            let mut asked = asked.lock().unwrap();
            *asked.entry(text.clone()).or_default() += 1;
            asked.values().sum::<u32>()
        };
        std::thread::sleep(Duration::from_millis(2));
        let said = format!("{text} said {time}");
        let answer = json!({"choices": [{"message": {"content": said}}]}).to_string();
        let length = answer.len();
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}").ok()?;
    }
}

fn back_translated(room: &Room, url: String, count: usize) -> PrepareConfig {
    let row = |row: usize| {
        let text = format!("the weather was very nice on day {row} and so we went to the park");
        json!({"text": text, "label": "x"}).to_string()
    };
    let lines: Vec<String> = (0..count).map(row).collect();
    let mut config = room.config(room.file("rows.jsonl", lines.join("\n")));
    let back = BackTranslation { url, model: "m".into(), language: "German".into() };
    augmented(&mut config, TextAugmentation { back_translation: Some(back), ..NOTHING });
    config
}

#[test]
fn a_model_is_asked_once_though_runs_are_killed() {
    let room = Room::new();
    let (url, asked) = model();
    let config = back_translated(&room, url, 300);
    let output = room.path("killed");
    let count = || asked.lock().unwrap().values().sum::<u32>();
    for stop_at in [150, 350] {
        let mut child = start(&room, &config, &output, &["--threads", "2"]);
        while count() < stop_at {
            assert!(child.try_wait().unwrap().is_none(), "{} were asked", count());
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    finish(start(&room, &config, &output, &["--threads", "2"])).unwrap();
    // There and back, and what was under way on two threads when each run died.
    assert!((600..=608).contains(&count()), "{}", count());
    let made = prepare(&PrepareConfig { output, ..config }).unwrap();
    assert!(made.known);
    assert_eq!(made.card.augmented, [("backTranslation".to_owned(), 300)].into());
    assert_eq!(
        texts(&made, "train", "text").iter().filter(|text| text.contains(" said ")).count(),
        300
    );
}

#[test]
fn a_model_that_is_not_there_is_told_with_what_to_do() {
    let room = Room::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = back_translated(&room, format!("http://{free}/v1"), 1);
    let error = prepare(&config).unwrap_err();
    let told = error.sentence();
    assert!(
        told.contains("backTranslation: no translation") && told.contains("no answer from"),
        "{told}"
    );
    assert_eq!(error.reason(), "ReadFailed");
}
