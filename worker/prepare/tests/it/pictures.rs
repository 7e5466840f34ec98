//! Which pictures stay, and what is made of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_crds::preparation::{
    Augmentation, Deduplication, Flip, ImageAugmentation, ImageFilter, PrepareConfig,
};
use hearth_crds::training_job::DataFormat;
use hearth_prepare::picture::decode::decode;
use hearth_prepare::{Prepared, Silent, run_with};
use image::ImageFormat;
use image::imageops::FilterType;
use serde_json::Value;

use crate::fixture::{Room, bytes, prepare, refusal, rows, small};
use crate::folders::{config, dropped, encode, picture, png};
use crate::resume::{finish, result, start, whole_files};

fn paths(made: &Prepared, side: &str) -> Vec<String> {
    let path = |row: &Value| row["image"]["path"].as_str().unwrap().to_owned();
    rows(made, side).iter().map(path).collect()
}

fn content(row: &Value) -> Vec<u8> {
    serde_json::from_value(row["image"]["bytes"].clone()).unwrap()
}

fn copies(count: i32) -> Augmentation {
    let image = ImageAugmentation {
        copies: count,
        rotate: Some(20.0),
        scale: None,
        flip: vec![Flip::Horizontal],
        color_jitter: None,
        crop: Some(0.6),
    };
    Augmentation { image: Some(image), ..Augmentation::default() }
}

#[test]
fn pictures_that_are_no_use_go_and_are_counted_by_why() {
    let room = Room::new();
    let small = encode(&picture(5).resize_exact(31, 40, FilterType::Nearest), ImageFormat::Png);
    // A PNG of 60,000 by 60,000 pixels in 60 bytes, as its header has it.
    let mut bomb = png(1);
    bomb[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
    let crc = {
        let mut crc = flate2::Crc::new();
        crc.update(&bomb[12..29]);
        crc.sum()
    };
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut large = bomb.clone();
    large[16..24].copy_from_slice(&[0, 0, 0x1F, 0xFF, 0, 0, 0x1F, 0xFF]);
    let mut crc = flate2::Crc::new();
    crc.update(&large[12..29]);
    large[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let half = png(2);
    for (name, content) in [
        ("good.png", png(1)),
        ("small.png", small),
        ("bomb.png", bomb),
        ("large.png", large),
        ("half.png", half[..half.len() / 2].to_vec()),
        ("gif.png", b"GIF89a".to_vec()),
    ] {
        room.file(&format!("pets/cat/{name}"), content);
    }
    let mut config = config(&room, "pets", DataFormat::ImageFolder);
    let made = prepare(&config).unwrap();
    assert_eq!(paths(&made, "train"), ["cat/good.png", "cat/small.png"]);
    let decoded = ("picture cannot be decoded", 2);
    let (format, large) =
        (("neither PNG nor JPEG", 1), ("picture of more pixels than are decoded", 1));
    assert_eq!(made.card.dropped, dropped(&[decoded, format, large]));
    config.preparation.images = Some(ImageFilter { min_side: Some(30) });
    assert_eq!(paths(&prepare(&config).unwrap(), "train").len(), 2);
    config.preparation.images = Some(ImageFilter { min_side: Some(32) });
    let told = refusal(&config);
    assert!(
        told.contains("no row to use")
            && told.contains("2 picture smaller than minSide; look at data.preparation.images"),
        "{told}"
    );
}

#[test]
fn equal_pixels_are_duplicates_and_what_shows_the_same_is_near() {
    let room = Room::new();
    let rgb = picture(1);
    let again = encode(&rgb.to_rgba8().into(), ImageFormat::Png);
    assert_ne!(again, png(1));
    let scaled = encode(&rgb.resize_exact(80, 60, FilterType::Triangle), ImageFormat::Jpeg);
    for (name, content) in [
        ("a/1.png", png(1)),
        ("a/2.png", png(2)),
        ("b/1.png", again),
        ("b/scaled.jpg", scaled.clone()),
    ] {
        room.file(&format!("pets/{name}"), content);
    }
    let mut config = config(&room, "pets", DataFormat::ImageFolder);
    assert_eq!(prepare(&config).unwrap().card.train_rows, 4);
    config.preparation.deduplicate = Some(Deduplication::default());
    let made = prepare(&config).unwrap();
    assert_eq!(paths(&made, "train"), ["a/1.png", "a/2.png", "b/scaled.jpg"]);
    assert_eq!(
        (made.card.dropped, made.card.conflicting_labels),
        (dropped(&[("duplicate", 1)]), 1)
    );
    config.preparation.deduplicate =
        Some(Deduplication { hash_distance: Some(8), ..Deduplication::default() });
    let made = prepare(&config).unwrap();
    assert_eq!(paths(&made, "train"), ["a/1.png", "a/2.png"]);
    assert_eq!(made.card.dropped, dropped(&[("duplicate", 1), ("near duplicate", 1)]));

    room.file("held/a/scaled.jpg", scaled);
    let mut data = config.train.clone();
    data.path = room.path("held");
    config.eval = Some(data);
    let made = prepare(&config).unwrap();
    assert_eq!(paths(&made, "train"), ["a/2.png"]);
    assert_eq!(paths(&made, "eval"), ["a/scaled.jpg"]);
    assert_eq!(made.card.dropped, dropped(&[("also in eval", 2), ("duplicate", 1)]));

    for (bits, want) in [(17, "17 of 64 bits; write 0 to 16"), (-1, "write 0 to 16")] {
        let deduplicate = Deduplication { hash_distance: Some(bits), ..Deduplication::default() };
        config.preparation.deduplicate = Some(deduplicate);
        assert!(refusal(&config).contains(want), "{}", refusal(&config));
    }
}

#[test]
fn settings_for_pictures_need_pictures() {
    let room = Room::new();
    let texts = room.config(room.file("rows.jsonl", "{\"text\":\"a\",\"label\":\"x\"}\n"));
    for name in ["images", "deduplicate.hashDistance", "augment.image"] {
        let mut config = texts.clone();
        match name {
            "images" => config.preparation.images = Some(ImageFilter::default()),
            "augment.image" => config.preparation.augment = Some(copies(1)),
            _ => {
                let asked = Deduplication { hash_distance: Some(4), ..Deduplication::default() };
                config.preparation.deduplicate = Some(asked);
            }
        }
        let told = refusal(&config);
        assert!(
            told.contains(&format!("data.preparation.{name}: rows have no field of pictures")),
            "{told}"
        );
    }
}

/// Settings that use all of what there is for pictures.
fn all(room: &Room, count: u32) -> PrepareConfig {
    for number in 0..count {
        let of = number - u32::from(number % 10 == 9);
        let (format, ending) = match number % 3 {
            0 => (ImageFormat::Jpeg, "jpg"),
            _ => (ImageFormat::Png, "png"),
        };
        let content =
            if number % 20 == 7 { b"none".to_vec() } else { encode(&picture(of), format) };
        room.file(&format!("pets/class {}/{number}.{ending}", number % 4), content);
    }
    let mut config = config(room, "pets", DataFormat::ImageFolder);
    config.eval_split = Some(0.2);
    config.preparation.images = Some(ImageFilter { min_side: Some(8) });
    config.preparation.deduplicate =
        Some(Deduplication { hash_distance: Some(4), ..Deduplication::default() });
    config.preparation.augment = Some(copies(2));
    config
}

#[test]
fn copies_are_made_of_training_pictures_alone_in_their_format() {
    let room = Room::new();
    let config = all(&room, 40);
    let made = prepare(&config).unwrap();
    let card = &made.card;
    let (train, eval) = (rows(&made, "train"), rows(&made, "eval"));
    assert_eq!((train.len() as u64, eval.len() as u64), (card.train_rows, card.eval_rows));
    assert_eq!(card.augmented, [("picture".to_owned(), card.train_rows / 3 * 2)].into());
    let dropped: u64 = card.dropped.values().sum();
    assert_eq!(card.rows, dropped + card.train_rows / 3 + card.eval_rows);
    let is_source = |row: &&Value| {
        let path = room.path("pets").join(row["image"]["path"].as_str().unwrap());
        std::fs::read(path).unwrap() == content(row)
    };
    assert_eq!(train.iter().filter(is_source).count() as u64, card.train_rows / 3);
    assert!(eval.iter().all(|row| is_source(&row)));
    for row in &train {
        let of = content(row);
        let path = row["image"]["path"].as_str().unwrap();
        let is_jpeg = image::guess_format(&of).unwrap() == ImageFormat::Jpeg;
        assert_eq!(path.split('.').next_back() == Some("jpg"), is_jpeg, "{path}");
        assert_eq!(decode(&of).unwrap().dimensions(), (40, 30));
        let class = path.split('/').next().unwrap();
        assert_eq!(row["label"], class);
    }
    let samples = std::fs::read(made.directory.join("samples.json")).unwrap();
    let samples: Value = serde_json::from_slice(&samples).unwrap();
    let shown = samples["picture"].as_array().unwrap();
    assert_eq!(shown.len(), 3);
    for sample in shown {
        let [before, after] = ["before", "after"].map(|side| {
            let told = sample[side].as_str().unwrap();
            let told = told.strip_prefix("data:image/png;base64,").unwrap();
            decode(&STANDARD.decode(told).unwrap()).unwrap()
        });
        assert_eq!((before.dimensions(), after.dimensions()), ((40, 30), (40, 30)));
        assert_ne!(before, after);
    }
    let mut other = config.clone();
    other.preparation.seed = 1;
    other.eval_split = None;
    let mut same = config;
    same.eval_split = None;
    assert_ne!(rows(&prepare(&other).unwrap(), "train"), rows(&prepare(&same).unwrap(), "train"));
}

#[test]
fn pictures_do_not_depend_on_the_number_of_threads() {
    let room = Room::new();
    let mut config = all(&room, 60);
    let made = prepare(&config).unwrap();
    let want = bytes(&made.directory);
    assert!(want.len() > 6, "{:?}", want.keys());
    for threads in [1, 3] {
        config.output = room.path(&format!("out-{threads}"));
        let again = run_with(&config, &small(threads), &mut Silent).unwrap();
        assert_eq!(bytes(&again.directory), want, "{threads} threads");
    }
}

#[test]
fn a_run_over_pictures_that_is_killed_goes_on_and_writes_the_same_bytes() {
    let room = Room::new();
    let config = all(&room, 200);
    let output = room.path("whole");
    finish(start(&room, &config, &output, &["--threads", "2"])).unwrap();
    let want = bytes(&result(&output));
    let mut killed = 0;
    for (index, stop_at) in [1, 20, 60, 100, 160].into_iter().enumerate() {
        let output = room.path(&format!("killed-{index}"));
        for stop_at in [stop_at, stop_at + 9] {
            let mut child = start(&room, &config, &output, &["--threads", "2"]);
            while child.try_wait().unwrap().is_none() && whole_files(&output) < stop_at {
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            killed += usize::from(child.try_wait().unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let threads = if index % 2 == 0 { "1" } else { "2" };
        finish(start(&room, &config, &output, &["--threads", threads])).unwrap();
        assert_eq!(bytes(&result(&output)), want, "killed at {stop_at} files");
    }
    assert!(killed >= 5, "{killed} runs were killed before they ended");
}

#[test]
fn what_was_prepared_of_pictures_can_be_prepared_again() {
    let room = Room::new();
    room.file("pets/cat/1.png", png(1));
    room.file("pets/dog/2.png", png(2));
    let mut config = config(&room, "pets", DataFormat::ImageFolder);
    let made = prepare(&config).unwrap();
    config.train.path = made.directory.join("train");
    config.train.format = DataFormat::Parquet;
    let again = prepare(&config).unwrap();
    assert_eq!(rows(&again, "train"), rows(&made, "train"));
}
