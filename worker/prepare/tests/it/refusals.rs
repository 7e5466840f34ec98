use hearth_crds::preparation::{Cleaning, TextFilter};

use crate::fixture::{Room, prepare, refusal};

const GOOD: &str = "{\"text\":\"a\",\"label\":\"x\"}\n";

#[test]
fn malformed_rows_are_counted_and_refused_past_the_permitted_number() {
    let room = Room::new();
    let rows =
        [GOOD, "{\"text\":1}\n", "[1]\n", GOOD, "{\"label\":\"x\"}\n", GOOD, "{\"te"].concat();
    let mut config = room.config(room.file("rows.jsonl", rows));
    for (max, line, reason) in [
        (0, 2, "field \"text\" is a number, neither a string nor an array of messages"),
        (1, 2, "2 malformed row(s) so far, 1 permitted"),
        (3, 2, "4 malformed row(s) so far, 3 permitted: repair them or raise data.maxBadRows"),
    ] {
        config.max_bad_rows = max;
        let told = refusal(&config);
        assert!(told.contains(&format!("rows.jsonl:{line}: ")) && told.contains(reason), "{told}");
    }
    config.max_bad_rows = 4;
    let made = prepare(&config).unwrap();
    let lines: Vec<_> = made.card.malformed_rows.iter().map(|row| row.line).collect();
    assert_eq!((made.card.malformed, made.card.train_rows, lines), (4, 3, vec![2, 3, 5, 7]));
    assert!(made.card.malformed_rows[3].reason.contains("truncated"), "{:?}", made.card);
}

#[test]
fn each_kind_of_useless_source_is_named_with_its_place() {
    let room = Room::new();
    let wide = format!("{}\n", vec!["c"; 100_000].join(","));
    for (name, content, want) in [
        ("none.jsonl", String::new(), "holds no row to use: there are no rows in it"),
        ("header.csv", "text,label\n".to_owned(), "there are no rows in it"),
        ("empty.csv", String::new(), ":1: no header"),
        ("twice.csv", "text,text\n".to_owned(), ":1: column \"text\" stands twice in the header"),
        ("lacks.csv", "text,b\nx,y\n".to_owned(), "no column \"label\", only text, b"),
        ("ragged.csv", "text,label\na\n".to_owned(), ":2: 1 field(s), and the header has 2"),
        (
            "open.csv",
            "text,label\n\"a,x\nb,x\nc,x\n".to_owned(),
            ":2: a quote that opens in this row",
        ),
        ("wide.csv", wide, ":1: the header cannot be used: more than 10000 columns"),
        ("no.parquet", "PAR1 no PAR1".to_owned(), "not a Parquet file that can be read"),
        (
            "blank.jsonl",
            "{\"text\":\" \",\"label\":\"x\"}\n".to_owned(),
            ":1: field \"text\" is empty",
        ),
        (
            "null.jsonl",
            "{\"text\":\"a\",\"label\":null}\n".to_owned(),
            ":1: field \"label\" is missing",
        ),
        ("lacks.jsonl", "{\"label\":\"x\"}\n".to_owned(), ":1: field \"text\" is missing"),
        (
            "mixed.jsonl",
            format!(
                "{GOOD}{{\"text\":[{{\"role\":\"user\",\"content\":\"a\"}}],\"label\":\"x\"}}\n"
            ),
            ":2: field \"text\" holds messages, and a string in other rows",
        ),
    ] {
        let told = refusal(&room.config(room.file(name, content)));
        assert!(told.contains(want), "{name}: {told}");
    }
    let mut missing = room.config(room.file("x.jsonl", GOOD));
    missing.train.path = room.path("y.jsonl");
    assert!(refusal(&missing).contains("y.jsonl does not exist"), "{}", refusal(&missing));
}

#[test]
fn a_hundred_thousand_fields_are_refused_with_their_row() {
    let room = Room::new();
    let fields: Vec<String> = (0..100_000).map(|field| format!("\"f{field}\":1")).collect();
    let rows = format!("{GOOD}{{\"text\":\"a\",\"label\":\"x\",{}}}\n", fields.join(","));
    let told = refusal(&room.config(room.file("rows.jsonl", rows)));
    assert!(told.contains("rows.jsonl:2: ") && told.contains("10000 are read"), "{told}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let room = Room::new();
    let mut config = room.config(room.file("rows.csv", "a,label\n1,2\n"));
    config.text_fields = Vec::new();
    config.preparation.filter = Some(TextFilter::default());
    let told = refusal(&config);
    assert!(told.contains("data.preparation.filter: rows have no field of texts"), "{told}");
    config.preparation.filter = None;
    config.cleaning = Cleaning::default();
    assert!(prepare(&config).is_ok());
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let room = Room::new();
    let mut config = room.config(room.file("rows.jsonl", GOOD));
    config.output = room.path("rows.jsonl");
    let told = refusal(&config);
    assert!(told.contains("cannot write") && told.contains("rows.jsonl"), "{told}");
}
