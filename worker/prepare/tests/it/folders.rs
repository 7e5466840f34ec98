//! Pictures in directories, and exports of Label Studio.

use std::collections::BTreeMap;
use std::io::Cursor;

use hearth_crds::preparation::PrepareConfig;
use hearth_crds::training_job::DataFormat;
use hearth_prepare::Prepared;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use crate::fixture::{Room, prepare, refusal, rows, texts};

/// A picture that differs from those of other numbers, also in what it shows.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 254")]
pub(crate) fn picture(number: u32) -> DynamicImage {
    let wave = |at: u32, of: u32| f64::from(at * (number * of % 7 + 1) + number * of) * 0.07;
    RgbImage::from_fn(40, 30, |x, y| {
        let part = |of: u32| ((wave(x, of).sin() * wave(y, of + 2).cos() + 1.0) * 127.0) as u8;
        Rgb([part(1), part(2), part(3)])
    })
    .into()
}

pub(crate) fn encode(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    picture.write_to(&mut Cursor::new(&mut bytes), format).unwrap();
    bytes
}

pub(crate) fn png(number: u32) -> Vec<u8> {
    encode(&picture(number), ImageFormat::Png)
}

/// Settings for the pictures below `name`.
pub(crate) fn config(room: &Room, name: &str, format: DataFormat) -> PrepareConfig {
    let mut data = room.file("none", "");
    (data.path, data.format, data.uri) = (room.path(name), format, format!("pvc://data/{name}"));
    let mut config = room.config(data);
    config.text_fields = Vec::new();
    config.image = Some("image".into());
    config
}

pub(crate) fn dropped(rows: &[(&str, u64)]) -> BTreeMap<String, u64> {
    rows.iter().map(|(reason, rows)| ((*reason).to_owned(), *rows)).collect()
}

/// What is prepared once so many rows may be malformed; without, they are refused with `told`.
fn prepared_but(mut config: PrepareConfig, malformed: u64, told: &str) -> Prepared {
    let refused = refusal(&config);
    assert!(refused.contains(told), "{refused}");
    config.max_bad_rows = malformed;
    prepare(&config).unwrap()
}

#[test]
fn a_directory_names_the_class_of_its_pictures() {
    let room = Room::new();
    let jpeg = encode(&picture(3), ImageFormat::Jpeg);
    room.file("pets/dog/b.jpg", &jpeg);
    room.file("pets/cat/deep/a.png", png(1));
    room.file("pets/cat/notes.txt", "no picture");
    room.file("pets/cat/x.webp", "RIFF");
    room.file("pets/top.png", png(2));
    let config = config(&room, "pets", DataFormat::ImageFolder);
    let told = "pets:2: cat/x.webp is neither PNG nor JPEG; convert it";
    let made = prepared_but(config, 1, told);
    let want = [
        json!({"image": {"bytes": png(1), "path": "cat/deep/a.png"}, "label": "cat"}),
        json!({"image": {"bytes": jpeg, "path": "dog/b.jpg"}, "label": "dog"}),
    ];
    assert_eq!(rows(&made, "train"), want);
    let card = &made.card;
    assert_eq!((card.rows, card.malformed, card.train_rows), (4, 1, 2));
    assert_eq!(card.dropped, dropped(&[("unlabelled", 1)]));
    assert_eq!(card.labels, dropped(&[("cat", 1), ("dog", 1)]));
    assert_eq!(card.sources.len(), 1);
    assert_eq!(card.sources[0].bytes, (png(1).len() + jpeg.len()) as u64);
    let widths: Vec<_> = card.widths.iter().map(|of| (of.from, of.to, of.train)).collect();
    let heights: Vec<_> = card.heights.iter().map(|of| (of.from, of.to, of.train)).collect();
    assert_eq!((&widths[..], &heights[..]), (&[(32, 63, 2)][..], &[(16, 31, 2)][..]));
}

#[test]
fn what_is_prepared_follows_from_the_pictures() {
    let room = Room::new();
    room.file("a/x/1.png", png(1));
    room.file("b/x/1.png", png(1));
    let of = |name: &str| {
        prepare(&config(&room, name, DataFormat::ImageFolder)).unwrap().card.id.clone()
    };
    let id = of("a");
    assert_eq!(of("b"), id, "the same pictures elsewhere");
    room.file("b/x/1.png", png(2));
    assert_ne!(of("b"), id, "another picture");
    room.file("a/y/1.png", png(1));
    assert_ne!(of("a"), id, "another class");
}

#[test]
fn metadata_says_what_pictures_show() {
    let room = Room::new();
    room.file("pets/1.png", png(1));
    room.file("pets/deep/2.png", png(2));
    let lines = concat!(
        "{\"file_name\": \"deep/2.png\", \"label\": 7, \"age\": 3, \"tags\": [\"a\"]}\n",
        "{\"file_name\": \"1.png\", \"label\": \"cat\", \"age\": 2.5}\n",
        "{\"file_name\": \"../1.png\", \"label\": \"cat\"}\n",
        "{\"file_name\": \"1.png\", \"label\": 1.5}\n",
        "{\"file_name\": \"1.png\"}\n",
    );
    room.file("pets/metadata.jsonl", lines);
    let config = config(&room, "pets", DataFormat::ImageFolder);
    let told = "metadata.jsonl:3: file_name leads out of the directory";
    let made = prepared_but(config, 3, told);
    let want = [
        json!({"image": {"bytes": png(2), "path": "deep/2.png"}, "label": "7", "age": 3.0, "tags": ["a"]}),
        json!({"image": {"bytes": png(1), "path": "1.png"}, "label": "cat", "age": 2.5, "tags": null}),
    ];
    assert_eq!(rows(&made, "train"), want);
    let lines: Vec<_> = made.card.malformed_rows.iter().map(|row| row.line).collect();
    assert_eq!(lines, [3, 4, 5]);
}

#[test]
fn rows_that_name_pictures_become_rows_that_hold_them() {
    let room = Room::new();
    room.file("data/deep/1.png", png(1));
    let lines = concat!(
        "{\"image\": \"deep/1.png\", \"label\": \"cat\", \"age\": 3}\n",
        "{\"image\": \"deep/2.png\", \"label\": \"cat\"}\n",
        "{\"image\": \"/etc/passwd\", \"label\": \"cat\"}\n",
    );
    room.file("data/rows.jsonl", lines);
    let mut config = config(&room, "data/rows.jsonl", DataFormat::JSONL);
    let told = "rows.jsonl:2: image names no file below the directory";
    let made = prepared_but(config.clone(), 2, told);
    config.max_bad_rows = 2;
    let want = json!({"image": {"bytes": png(1), "path": "deep/1.png"}, "label": "cat", "age": 3});
    assert_eq!(rows(&made, "train"), [want]);
    room.file("data/deep/1.png", png(2));
    assert_ne!(prepare(&config).unwrap().card.id, made.card.id, "another picture");
}

fn task(number: u32, choice: Option<&str>) -> Value {
    let annotations: Vec<Value> = choice
        .iter()
        .map(|choice| {
            json!({"completed_by": 1, "result": [
                {"from_name": "label", "type": "choices", "value": {"choices": [choice]}},
            ]})
        })
        .collect();
    let image = format!("/data/upload/1/{number}.png");
    json!({"id": number, "data": {"text": format!("text {number}"), "image": image}, "annotations": annotations})
}

#[test]
fn exports_of_label_studio_become_rows() {
    let room = Room::new();
    let tasks =
        json!([task(1, Some("cat")), task(2, None), task(3, Some("dog")), task(1, Some("cat"))]);
    room.file("export/project.json", tasks.to_string());
    room.file("export/upload/1/1.png", png(1));
    room.file("export/upload/1/3.png", png(3));
    let mut pictures = config(&room, "export", DataFormat::LabelStudio);
    pictures.preparation.deduplicate = Some(hearth_crds::preparation::Deduplication::default());
    let made = prepare(&pictures).unwrap();
    let row = |number: u32, label: &str| {
        let path = format!("upload/1/{number}.png");
        json!({"image": {"bytes": png(number), "path": path}, "text": format!("text {number}"), "label": label})
    };
    assert_eq!(rows(&made, "train"), [row(1, "cat"), row(3, "dog")]);
    assert_eq!(made.card.dropped, dropped(&[("duplicate", 1), ("unlabelled", 1)]));

    let mut of_texts = pictures.clone();
    (of_texts.image, of_texts.text_fields) = (None, vec!["text".into()]);
    of_texts.train.path = room.path("export/project.json");
    let made = prepare(&of_texts).unwrap();
    assert_eq!(texts(&made, "train", "text"), ["text 1", "text 3"]);
    assert_eq!(texts(&made, "train", "label"), ["cat", "dog"]);

    room.file("export/upload/1/3.png", "");
    std::fs::remove_file(room.path("export/upload/1/3.png")).unwrap();
    let told = refusal(&pictures);
    assert!(told.contains("project.json:3: ") && told.contains("not below"), "{told}");
}

#[test]
fn sources_of_another_kind_are_refused_with_a_way_out() {
    let room = Room::new();
    room.file("one.png", png(1));
    room.file("many/a.json", "[]");
    room.file("many/b.json", "[]");
    room.file("rows.csv", "image,label\none.png,1\n");
    for (name, format, want) in [
        ("one.png", DataFormat::ImageFolder, "no directory, and ImageFolder is one"),
        ("none", DataFormat::ImageFolder, "no directory"),
        ("gone", DataFormat::DICOM, "gone does not exist"),
        ("many", DataFormat::LabelStudio, "2 files that end in .json; name the export"),
        ("many", DataFormat::ImageFolder, "holds no row to use"),
        ("rows.csv", DataFormat::CSV, "format: ImageFolder"),
    ] {
        let told = refusal(&config(&room, name, format));
        assert!(told.contains(want), "{name}: {told}");
    }
    let mut table = config(&room, "many", DataFormat::ImageFolder);
    table.image = None;
    let told = refusal(&table);
    assert!(told.contains("the task reads none"), "{told}");
}
