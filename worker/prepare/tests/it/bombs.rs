//! Small files that hold much.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, GzipLevel, ZstdLevel};
use parquet::file::properties::{WriterProperties, WriterVersion};

use crate::fixture::{Room, refusal};
use crate::memory::watched;

/// Bytes of the text in a file.
const HELD: usize = 128 << 20;
/// Bytes that its page says it holds.
const CLAIMED: usize = 1000;
/// What the program may take, in KiB: less than the text.
const MOST_KIB: u64 = 64 << 10;

/// A row group of a short text, and one of a text of [`HELD`] bytes.
fn parquet(compression: Compression, version: WriterVersion) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_writer_version(version)
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .set_max_row_group_row_count(Some(1))
        .build();
    let long = "a".repeat(HELD);
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["short", long.as_str()]));
    let labels: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let batch = RecordBatch::try_from_iter([("text", texts), ("label", labels)]).unwrap();
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    out
}

/// A whole number as Thrift's compact protocol writes it, in `length` bytes.
fn varint(number: usize, length: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((number * 2) >> (7 * at) & 0x7f).unwrap();
    (0..length).map(|at| byte(at) | if at + 1 < length { 0x80 } else { 0 }).collect()
}

fn place(content: &[u8], of: &[u8]) -> usize {
    content.windows(of.len()).position(|window| window == of).unwrap()
}

/// As `content`, in which the long text's page says that it holds [`CLAIMED`] bytes.
fn lying(mut content: Vec<u8>) -> Vec<u8> {
    // The text and its length, in the page's header behind the field of its type.
    let held = [vec![0x15], varint(HELD + 4, 5)].concat();
    let at = place(&content, &held) + 1;
    content.splice(at..at + 5, varint(CLAIMED, 5));
    content
}

#[test]
fn a_page_that_holds_more_than_it_says_is_refused_before_there_is_room_for_it() {
    let gzip = Compression::GZIP(GzipLevel::try_new(1).unwrap());
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let (first, second) = (WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0);
    for (name, compression, version, want) in [
        ("gzip", gzip, first, "claims 1000 bytes unpacked, and holds more"),
        ("gzip2", gzip, second, "claims 1000 bytes unpacked, and holds more"),
        ("lz4", Compression::LZ4, first, "row group 1: "),
        ("lz4raw", Compression::LZ4_RAW, first, "row group 1: "),
        ("snappy", Compression::SNAPPY, first, "row group 1: "),
        ("zstd", zstd, first, "row group 1: "),
    ] {
        let room = Room::new();
        let content = lying(parquet(compression, version));
        assert!(content.len() < HELD / 10, "{name}: {} bytes are no bomb", content.len());
        let config = room.config(room.file(&format!("{name}.parquet"), content));
        let (peak, ended) = watched(&room, &config, name);
        let told = ended.unwrap_err();
        let file = format!("{name}.parquet:0: ");
        for want in [&file, "row group 1: ", want, "write it again"] {
            assert!(told.contains(want), "{name}: {want} is not in {told}");
        }
        assert!((1000..MOST_KIB).contains(&peak), "{name}: {peak} KiB");
    }
}

#[test]
fn what_is_packed_with_brotli_is_refused_with_a_way_out() {
    let room = Room::new();
    let gzip = Compression::GZIP(GzipLevel::default());
    let properties = WriterProperties::builder().set_compression(gzip).build();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["one"]));
    let labels: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let batch = RecordBatch::try_from_iter([("text", texts), ("label", labels)]).unwrap();
    let mut content = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut content, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    // The column's path in the footer, and the field of its codec behind it: 2 is gzip, 4 Brotli.
    let codec = b"\x19\x18\x04text\x15\x04";
    let at = place(&content, codec) + codec.len() - 1;
    content[at] = 0x08;
    let told = refusal(&room.config(room.file("brotli.parquet", content)));
    assert!(
        told.contains("column \"text\": it is packed with BROTLI, which is not read"),
        "{told}"
    );
}

#[test]
fn an_archive_is_no_file_of_rows() {
    let room = Room::new();
    // The end of an empty archive of zip, after its only file's header.
    let archive = [&b"PK\x03\x04\x14\0\0\0\x08\0"[..], &[0; 40], b"PK\x05\x06", &[0; 18]].concat();
    for (name, want) in [
        ("rows.jsonl", "rows.jsonl:1: "),
        ("rows.parquet", "not a Parquet file that can be read"),
        ("rows.csv", "it has no column \"text\""),
    ] {
        let told = refusal(&room.config(room.file(name, &archive)));
        assert!(told.contains(want), "{name}: {told}");
    }
}
