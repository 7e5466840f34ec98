use std::fs::{self, File};
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, Int32Array, RecordBatch, StringArray};
use hearth_crds::training_job::DataFormat;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::fixture::{Room, prepare, refusal, rows, texts};

fn parquet(columns: Vec<(&str, ArrayRef)>, group: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

fn labelled(texts: &[&str]) -> Vec<(&'static str, ArrayRef)> {
    let labels = vec![1; texts.len()];
    vec![
        ("text", Arc::new(StringArray::from(texts.to_vec())) as ArrayRef),
        ("label", Arc::new(Int32Array::from(labels))),
    ]
}

#[test]
fn columns_of_csv_have_the_types_of_their_values() {
    let room = Room::new();
    let csv =
        "text;label;n;zip;flag\n\"a;\"\"b\"\"\";1;1;01099;true\n\"two\nlines\";2;;99999;false\n";
    let config = room.config(room.file("rows.csv", csv));
    let made = prepare(&config).unwrap();
    assert_eq!(
        rows(&made, "train"),
        [
            json!({"text": "a;\"b\"", "label": 1, "n": 1, "zip": "01099", "flag": true}),
            json!({"text": "two\nlines", "label": 2, "n": null, "zip": "99999", "flag": false}),
        ]
    );
}

#[test]
fn texts_of_digits_are_texts_in_csv() {
    let room = Room::new();
    let config = room.config(room.file("rows.csv", "text,label\n123,1.5\n456,2\n"));
    let made = prepare(&config).unwrap();
    assert_eq!(
        rows(&made, "train"),
        [json!({"text": "123", "label": "1.5"}), json!({"text": "456", "label": "2"})]
    );
}

#[test]
fn a_line_of_text_is_a_row() {
    let room = Room::new();
    let mut config = room.config(room.file("rows.txt", "one\n\n two\n"));
    config.label = None;
    assert_eq!(
        rows(&prepare(&config).unwrap(), "train"),
        [json!({"text": "one"}), json!({"text": " two"})]
    );
}

#[test]
fn a_directory_is_read_file_by_file_and_its_fields_are_all_of_them() {
    let room = Room::new();
    room.file("rows/b.jsonl", "{\"text\":\"2\",\"label\":\"x\",\"more\":true}\n");
    room.file("rows/a.jsonl", "{\"text\":\"1\",\"label\":7}\n");
    let mut data = room.file("rows/README.md", "no rows");
    data.path = room.path("rows");
    let made = prepare(&room.config(data)).unwrap();
    assert_eq!(
        rows(&made, "train"),
        [
            json!({"text": "1", "label": "7", "more": null}),
            json!({"text": "2", "label": "x", "more": true}),
        ]
    );
    let names: Vec<_> = made.card.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["a.jsonl", "b.jsonl"]);
}

#[test]
fn parquet_is_read_group_by_group_and_bytes_are_texts_where_they_should_be() {
    let room = Room::new();
    let many: Vec<String> = (0..100).map(|row| format!("text {row}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let config = room.config(room.file("rows.parquet", parquet(labelled(&many), 7)));
    assert_eq!(texts(&prepare(&config).unwrap(), "train", "text"), many);

    let bytes: Vec<Option<&[u8]>> = vec![Some(b"fine"), Some(b"\xff"), None];
    let mut columns = labelled(&["", "", ""]);
    columns[0].1 = Arc::new(BinaryArray::from(bytes));
    let mut config = room.config(room.file("bytes.parquet", parquet(columns, 10)));
    config.max_bad_rows = 2;
    let made = prepare(&config).unwrap();
    assert_eq!(texts(&made, "train", "text"), ["fine"]);
    let told: Vec<_> =
        made.card.malformed_rows.iter().map(|row| (row.line, row.reason.as_str())).collect();
    assert_eq!(told, [(2, "field \"text\" is not UTF-8"), (3, "field \"text\" is missing")]);
}

#[test]
fn what_was_prepared_can_be_prepared_again() {
    let room = Room::new();
    let row = r#"{"m":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"id":1}"#;
    let mut config = room.config(room.file("rows.jsonl", format!("{row}\n")));
    config.text_fields = vec!["m".into()];
    config.label = None;
    let made = prepare(&config).unwrap();
    let want = json!({
        "m": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 1
    });
    assert_eq!(rows(&made, "train"), std::slice::from_ref(&want));
    config.train.path = made.directory.join("train/00000.parquet");
    config.train.format = DataFormat::Parquet;
    let again = prepare(&config).unwrap();
    assert_eq!(rows(&again, "train"), [want]);
}

#[test]
fn a_file_cut_off_anywhere_is_refused_and_nothing_panics() {
    let room = Room::new();
    let whole = parquet(labelled(&["one", "two", "three"]), 2);
    for length in 0..whole.len() {
        let mut config = room.config(room.file("cut.parquet", &whole[..length]));
        config.max_bad_rows = 100;
        let told = refusal(&config);
        assert!(told.contains("not a Parquet file that can be read"), "{length}: {told}");
    }
}

#[test]
fn flipped_bits_do_not_make_it_panic() {
    let room = Room::new();
    let whole = parquet(labelled(&["one", "two", "three", "four"]), 2);
    let (mut refused, mut read) = (0, 0);
    for place in (0..whole.len()).step_by(11) {
        let mut content = whole.clone();
        content[place] ^= 1 << (place % 8);
        let mut config = room.config(room.file("flipped.parquet", content));
        config.max_bad_rows = 100;
        match prepare(&config) {
            Ok(made) => {
                read += 1;
                fs::remove_dir_all(made.directory).unwrap();
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20 && read > 2, "{refused} refused, {read} read");
}

#[test]
fn a_page_that_claims_gigabytes_is_refused_before_there_is_room_for_it() {
    let room = Room::new();
    let whole = parquet(labelled(&["one", "two", "three"]), 10);
    // The first page's header: type 0, then its size unpacked as a varint, after PAR1.
    let place = 4;
    assert_eq!(whole[place..place + 2], [0x15, 0x04], "a dictionary's header");
    let mut lying = whole.clone();
    assert_eq!(lying[place + 2], 0x15);
    assert!(lying[place + 3] < 0x80, "a varint of one byte");
    // Not a byte longer: the size becomes negative.
    lying[place + 3] = 0x7f;
    let told = refusal(&room.config(room.file("lying.parquet", lying)));
    assert!(told.contains("claims"), "{told}");
    assert!(File::open(room.path("lying.parquet")).is_ok());
}
