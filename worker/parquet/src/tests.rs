use std::io::Write as _;
use std::sync::Arc;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;

/// A file of two row groups with a number and a text.
fn written(compression: Compression, text: &str) -> Vec<u8> {
    let schema = "message rows { required int64 number; required binary text (UTF8); }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(false)
        .build();
    let mut out = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut out, schema, Arc::new(properties)).unwrap();
    for group in 0..2 {
        let mut group_writer = writer.next_row_group().unwrap();
        let mut column = group_writer.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[group, 7], None, None).unwrap();
        column.close().unwrap();
        let mut column = group_writer.next_column().unwrap().unwrap();
        let texts = [ByteArray::from(text), ByteArray::from("short")];
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        group_writer.close().unwrap();
    }
    writer.close().unwrap();
    out
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Reads all that is left after the checks.
fn rows(content: &[u8]) -> Result<usize, Fault> {
    let opened = Opened::new(file(content))?;
    opened.check_all(|_| true)?;
    let metadata = opened.arrow()?;
    let mut reader = guarded(|| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(opened.into_file(), metadata).build()
    })?;
    let mut rows = 0;
    while let Some(batch) = guarded(|| reader.next().transpose().map_err(ParquetError::from))? {
        rows += batch.num_rows();
    }
    Ok(rows)
}

fn gzip() -> Compression {
    Compression::GZIP(GzipLevel::default())
}

#[test]
fn a_whole_file_is_read_and_one_that_is_cut_off_is_not() {
    let whole = written(gzip(), "some text");
    assert_eq!(rows(&whole).unwrap(), 4);
    let told = rows(&whole[..whole.len() - 1]).unwrap_err().to_string();
    assert!(told.contains("truncated?") && told.contains("write it again"), "{told}");
    // The middle is gone: the footer's places lie beyond the end.
    let cut = [&whole[..4], &whole[whole.len() / 2..]].concat();
    assert!(rows(&cut).is_err());
    assert!(rows(b"").is_err() && rows(b"PAR1").is_err());
}

#[test]
fn of_columns_that_nobody_wants_no_page_is_checked() {
    let mut content = written(gzip(), "some text");
    let opened = Opened::new(file(&content)).unwrap();
    let text = opened.metadata().row_group(1).column(1).data_page_offset();
    content[usize::try_from(text).unwrap()] = 0xff;
    let opened = Opened::new(file(&content)).unwrap();
    opened.check_all(|column| column == "number").unwrap();
    let told = opened.check_all(|column| column == "text").unwrap_err().to_string();
    assert!(told.contains(r#"row group 1: column "text": no page header"#), "{told}");
    assert!(opened.check(2, |_| true).is_err());
}

proptest! {
    #[test]
    fn damage_is_told_and_never_panics(
        packed in prop_oneof![
            Just(Compression::UNCOMPRESSED),
            Just(gzip()),
            Just(Compression::ZSTD(ZstdLevel::default()))
        ],
        harm in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut content = written(packed, &"many words ".repeat(50));
        for (place, byte) in harm {
            let place = place.index(content.len());
            content[place] = byte;
        }
        let _ = rows(&content);
    }
}
