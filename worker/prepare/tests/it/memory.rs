use std::fmt::Write as _;
use std::fs;
use std::io::{BufWriter, Write as _};
use std::time::Duration;

use hearth_crds::preparation::{
    Augmentation, Column, Deduplication, Missing, PrepareConfig, TableAugmentation,
    TablePreparation, TextAugmentation,
};
use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::DataFile;

use crate::fixture::{Room, full};
use crate::folders::config;
use crate::resume::{finish, start};

/// `megabytes` of rows that all differ.
fn rows(room: &Room, name: &str, megabytes: usize) -> DataFile {
    let data = room.file(name, "");
    let mut out = BufWriter::new(fs::File::create(&data.path).unwrap());
    let (mut text, mut written, mut number) = (String::new(), 0, 0_u64);
    while written < megabytes << 20 {
        text.clear();
        for word in 0..60_u64 {
            let of = (number * 60 + word).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
            let _ = write!(text, "w{of} ");
        }
        let row = format!(
            "{{\"text\":\"{text}\",\"label\":\"{}\",\"customer\":{},\"at\":{number}}}\n",
            number % 3,
            number % 1000
        );
        out.write_all(row.as_bytes()).unwrap();
        written += row.len();
        number += 1;
    }
    out.flush().unwrap();
    data
}

/// Most memory that the program took, in KiB.
fn peak(config: &PrepareConfig, room: &Room, name: &str, megabytes: usize) -> u64 {
    let config = PrepareConfig { train: rows(room, name, megabytes), ..config.clone() };
    peak_of(room, &config, name)
}

fn peak_of(room: &Room, config: &PrepareConfig, name: &str) -> u64 {
    let (peak, ended) = watched(room, config, name);
    ended.unwrap();
    peak
}

/// Most memory that the program took, in KiB, and what it said where it failed.
pub(crate) fn watched(
    room: &Room,
    config: &PrepareConfig,
    name: &str,
) -> (u64, Result<(), String>) {
    let sizes = ["--part-bytes", "1048576", "--chunk-bytes", "65536", "--shard-bytes", "2097152"];
    let more = [&sizes[..], &["--threads", "2", "--sort-bytes", "262144"]].concat();
    let mut child = start(room, config, &room.path(&format!("out-{name}")), &more);
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let told = line.and_then(|line| line.trim().strip_suffix(" kB")).map(str::parse);
        peak = peak.max(told.and_then(Result::ok).unwrap_or(0));
        if child.try_wait().unwrap().is_some() {
            return (peak, finish(child));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn memory_does_not_grow_with_the_source() {
    let room = Room::new();
    let config = full(&room, 1);
    let of = |name, megabytes| peak(&config, &room, name, megabytes);
    let (small, large) = (of("small.jsonl", 3), of("large.jsonl", 33));
    assert!(small > 1000, "{small} KiB is too little to be true");
    // 30 MiB more, and 75,000 rows: some bytes a row are allowed for, what allocators keep, and what waits
    // between stages on a busy machine.
    assert!(large < small + (15 << 10), "{small} KiB for 3 MiB, {large} KiB for 33 MiB");
    assert!(large < 80 << 10, "{large} KiB");
}

#[test]
fn memory_does_not_grow_where_columns_are_mended_and_rows_made() {
    let room = Room::new();
    let mut config = full(&room, 1);
    let median = Column { missing: Missing::Median, ..Column::default() };
    let columns = [("at".to_owned(), median)].into();
    config.preparation.table = Some(TablePreparation { columns });
    config.preparation.augment = Some(Augmentation {
        text: Some(TextAugmentation {
            copies: 1,
            synonyms: None,
            insert: None,
            swap: Some(0.1),
            delete: None,
            back_translation: None,
        }),
        image: None,
        table: Some(TableAugmentation {
            copies: 1,
            crosses: vec![vec!["at".into(), "customer".into()]],
            perturb: Some(0.1),
            smote: None,
            windows: None,
        }),
    });
    let of = |name, megabytes| peak(&config, &room, name, megabytes);
    let (small, large) = (of("small.jsonl", 2), of("large.jsonl", 10));
    // 8 MiB more in 20,000 rows, each of which is there three times in the end.
    assert!(large < small + (6 << 10), "{small} KiB for 2 MiB, {large} KiB for 10 MiB");
    assert!(large < 96 << 10, "{large} KiB");
}

/// Most memory for so many pictures of noise, 196 KiB each.
fn peak_of_pictures(room: &Room, count: u32) -> u64 {
    let name = format!("pictures-{count}");
    for number in 0..count {
        let mut state = u64::from(number) + 1;
        let noise = image::RgbImage::from_fn(256, 256, |_, _| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let [.., a, b, c] = state.to_le_bytes();
            image::Rgb([a, b, c])
        });
        let bytes = crate::folders::encode(&noise.into(), image::ImageFormat::Png);
        room.file(&format!("{name}/noise/{number}.png"), bytes);
    }
    let mut config = config(room, &name, DataFormat::ImageFolder);
    config.preparation.deduplicate =
        Some(Deduplication { hash_distance: Some(4), ..Deduplication::default() });
    peak_of(room, &config, &name)
}

#[test]
fn memory_does_not_grow_with_the_number_of_pictures() {
    let room = Room::new();
    let (few, many) = (peak_of_pictures(&room, 30), peak_of_pictures(&room, 180));
    assert!(few > 1000, "{few} KiB is too little to be true");
    // 29 MiB more of pictures.
    assert!(many < few + (12 << 10), "{few} KiB for 30 pictures, {many} KiB for 180");
}
