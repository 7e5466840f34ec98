//! Event files for TensorBoard: scalars in Event messages (tensorboard's
//! compat/proto/event.proto and summary.proto), framed as TFRecords
//! (<https://www.tensorflow.org/tutorials/load_data/tfrecord>).
//!
//! A run that goes on writes a new file. Its first event tells readers to drop
//! what a lost attempt wrote from that step on.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crc::{CRC_32_ISCSI, Crc};
use prost::Message as _;

/// CRC32C, as iSCSI has it.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// What every event file begins with.
const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog.START`.
const START: i32 = 1;
/// Names of event files begin so; seconds since 1970, host and process follow.
const PREFIX: &str = "events.out.tfevents.";

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// Optional, so that a 0 is written.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Writes scalars into a folder; the file is made when there is the first.
#[derive(Debug)]
pub struct EventWriter {
    folder: PathBuf,
    /// First step that this attempt makes.
    from_step: i64,
    file: Option<File>,
}

impl EventWriter {
    /// For a run that has done `step` steps. What is in `folder` about later
    /// ones is void once something is written.
    pub fn new(folder: &Path, step: i64) -> Self {
        Self { folder: folder.to_owned(), from_step: step + 1, file: None }
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Adds values of one step by their tags.
    pub fn add(&mut self, step: i64, scalars: &[(String, f64)]) -> io::Result<()> {
        if scalars.is_empty() {
            return Ok(());
        }
        let value = scalars.iter().map(|(tag, value)| Scalar {
            tag: tag.clone(),
            #[expect(clippy::cast_possible_truncation, reason = "the format has 32 bits")]
            simple_value: Some(*value as f32),
        });
        let summary = What::Summary(Summary { value: value.collect() });
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(begin(&self.folder, self.from_step)?),
        };
        file.write_all(&record(step, summary))
    }

    /// Waits until all is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

/// Makes a file that readers take after those that are there: they go by name.
fn begin(folder: &Path, from_step: i64) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let older = fs::read_dir(folder)?
        .filter_map(|entry| seconds_of(entry.ok()?.file_name().to_str()?))
        .max();
    // Clocks of nodes differ, and a second may hold two attempts.
    let seconds = older.map_or_else(now, |older| now().max(older as f64 + 1.0));
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
    let name = format!("{PREFIX}{:010.0}.{host}.{}.0", seconds.floor(), std::process::id());
    let mut file = File::create_new(folder.join(name))?;
    file.write_all(&record(0, What::FileVersion(FILE_VERSION.to_owned())))?;
    if older.is_some() {
        file.write_all(&record(from_step, What::SessionLog(SessionLog { status: START })))?;
    }
    Ok(file)
}

fn seconds_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok()
}

fn record(step: i64, what: What) -> Vec<u8> {
    frame(&Event { wall_time: now(), step, what: Some(what) }.encode_to_vec())
}

/// Length, its checksum, data, its checksum; all little-endian.
fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(data.len() + 16);
    framed.extend(length);
    framed.extend(masked_crc(&length).to_le_bytes());
    framed.extend(data);
    framed.extend(masked_crc(data).to_le_bytes());
    framed
}

/// The checksum of a checksum would be of little use: so it is rotated and
/// shifted (TensorFlow's tsl/lib/hash/crc32c.h).
fn masked_crc(data: &[u8]) -> u32 {
    CRC32C.checksum(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_the_format_says() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(CRC32C.checksum(&[0; 32]), 0x8a91_36aa);
        // The header of every file that TensorFlow writes for a record of 24 bytes.
        assert_eq!(frame(&[0; 24])[..12], [24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn a_zero_is_a_value_too() {
        let scalar = Scalar { tag: "a".into(), simple_value: Some(0.0) };
        assert_eq!(scalar.encode_to_vec(), [10, 1, b'a', 21, 0, 0, 0, 0]);
    }

    #[test]
    fn a_later_file_has_a_later_name_whatever_the_clock_says() {
        let folder = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<String> = fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        EventWriter::new(folder.path(), 0).add(1, &[]).unwrap();
        assert!(names().is_empty(), "nothing to tell, no file");
        let ahead = format!("{PREFIX}9000000000.node.1.0");
        File::create(folder.path().join(&ahead)).unwrap();
        let mut writer = EventWriter::new(folder.path(), 10);
        writer.add(11, &[("train/loss".into(), 0.5)]).unwrap();
        writer.sync().unwrap();
        let names = names();
        assert_eq!(names.len(), 2);
        assert_eq!(names[0], ahead);
        assert!(names[1].starts_with(&format!("{PREFIX}9000000001.")), "{names:?}");
    }
}
