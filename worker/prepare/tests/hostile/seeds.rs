//! Good files.

use std::io::Cursor;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use dicom_core::Tag;
use dicom_core::header::{DataElement, VR};
use dicom_core::value::{DataSetSequence, PixelFragmentSequence, PrimitiveValue, Value};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageFormat, RgbImage, RgbaImage};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;

const SIDE: u32 = 12;

fn jpeg(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 80)).unwrap();
    bytes
}

fn ramp(length: usize) -> Vec<u8> {
    (0..=255).cycle().step_by(7).take(length).collect()
}

pub(crate) fn pictures() -> Vec<Vec<u8>> {
    let pixels = (SIDE * SIDE) as usize;
    let grey = GrayImage::from_raw(SIDE, SIDE, ramp(pixels)).unwrap();
    let rgb = RgbImage::from_raw(SIDE, SIDE, ramp(pixels * 3)).unwrap();
    let images: [DynamicImage; 5] = [
        grey.clone().into(),
        rgb.clone().into(),
        GrayAlphaImage::from_raw(SIDE, SIDE, ramp(pixels * 2)).unwrap().into(),
        RgbaImage::from_raw(SIDE, SIDE, ramp(pixels * 4)).unwrap().into(),
        DynamicImage::from(rgb.clone()).into_rgb16().into(),
    ];
    let png = |image: &DynamicImage| {
        let mut bytes = Vec::new();
        image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
        bytes
    };
    let mut seeds: Vec<Vec<u8>> = images.iter().map(png).collect();
    seeds.push(jpeg(&grey.into()));
    seeds.push(jpeg(&rgb.into()));
    seeds
}

type Object = InMemDicomObject;

fn put(object: &mut Object, tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) {
    object.put(DataElement::new(tag, vr, value.into()));
}

fn object(samples: u16, bits: u16, photometric: &str) -> Object {
    let mut object = Object::new_empty();
    let side = u16::try_from(SIDE).unwrap();
    put(&mut object, tags::MODALITY, VR::CS, "CT");
    put(&mut object, tags::PATIENT_NAME, VR::PN, "Doe^Jane");
    put(&mut object, tags::PATIENT_AGE, VR::AS, "042Y");
    put(&mut object, tags::PIXEL_SPACING, VR::DS, "0.5\\0.5");
    put(&mut object, tags::SAMPLES_PER_PIXEL, VR::US, samples);
    put(&mut object, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "1");
    put(&mut object, tags::ROWS, VR::US, side);
    put(&mut object, tags::COLUMNS, VR::US, side);
    put(&mut object, tags::BITS_ALLOCATED, VR::US, if bits > 8 { 16_u16 } else { 8 });
    put(&mut object, tags::BITS_STORED, VR::US, bits);
    put(&mut object, tags::HIGH_BIT, VR::US, bits - 1);
    put(&mut object, tags::WINDOW_CENTER, VR::DS, "40");
    put(&mut object, tags::WINDOW_WIDTH, VR::DS, "400");
    put(&mut object, tags::RESCALE_INTERCEPT, VR::DS, "-1024");
    put(&mut object, tags::RESCALE_SLOPE, VR::DS, "1.5");
    let mut inner = Object::new_empty();
    put(&mut inner, tags::CODE_VALUE, VR::SH, "113100");
    let mut item = Object::new_empty();
    item.put(DataElement::new(
        tags::CONCEPT_NAME_CODE_SEQUENCE,
        VR::SQ,
        DataSetSequence::from(vec![inner]),
    ));
    let items = DataSetSequence::from(vec![item.clone(), item]);
    object.put(DataElement::new(tags::REFERENCED_PATIENT_SEQUENCE, VR::SQ, items));
    object
}

fn written(object: Object, syntax: &str) -> Vec<u8> {
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(syntax)
        .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.7")
        .media_storage_sop_instance_uid("1.2.3.4");
    let mut bytes = Vec::new();
    object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
    bytes
}

fn encapsulated(mut object: Object, fragments: Vec<Vec<u8>>, syntax: &str) -> Vec<u8> {
    let pixels: PixelFragmentSequence<Vec<u8>> = PixelFragmentSequence::new_fragments(fragments);
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, Value::PixelSequence(pixels)));
    written(object, syntax)
}

/// A frame of RLE whose planes are runs and literals.
fn rle(planes: u32) -> Vec<u8> {
    let plane: Vec<u8> =
        [vec![257_u16.wrapping_sub(100).to_le_bytes()[0], 9, 43], ramp(44)].concat();
    let length = u32::try_from(plane.len()).unwrap();
    let mut header = vec![planes];
    header.extend((0..planes).map(|at| 64 + at * length));
    header.resize(16, 0);
    let header: Vec<u8> = header.iter().flat_map(|number| number.to_le_bytes()).collect();
    [header, plane.repeat(planes as usize)].concat()
}

pub(crate) fn dicom() -> Vec<Vec<u8>> {
    let pixels = (SIDE * SIDE) as usize;
    let native = |mut object: Object, length: usize, syntax| {
        put(&mut object, tags::PIXEL_DATA, VR::OW, PrimitiveValue::from(ramp(length).as_slice()));
        written(object, syntax)
    };
    let mut words = object(1, 16, "MONOCHROME2");
    let values: Vec<u16> = (0..SIDE * SIDE).map(|at| u16::try_from(at * 17).unwrap()).collect();
    put(&mut words, tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(values.into()));
    let grey = GrayImage::from_raw(SIDE, SIDE, ramp(pixels)).unwrap();
    let rgb = RgbImage::from_raw(SIDE, SIDE, ramp(pixels * 3)).unwrap();
    let (baseline, rle_lossless) = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5");
    let mut planar = object(3, 8, "RGB");
    put(&mut planar, tags::PLANAR_CONFIGURATION, VR::US, 1_u16);
    vec![
        native(object(1, 8, "MONOCHROME2"), pixels, "1.2.840.10008.1.2.1"),
        native(object(1, 12, "MONOCHROME1"), pixels * 2, "1.2.840.10008.1.2"),
        native(planar, pixels * 3, "1.2.840.10008.1.2.1"),
        native(object(3, 8, "YBR_FULL"), pixels * 3, "1.2.840.10008.1.2.1"),
        written(words, "1.2.840.10008.1.2.2"),
        encapsulated(object(1, 8, "MONOCHROME2"), vec![rle(1)], rle_lossless),
        encapsulated(object(1, 16, "MONOCHROME2"), vec![rle(2)], rle_lossless),
        encapsulated(object(3, 8, "RGB"), vec![rle(3)], rle_lossless),
        encapsulated(object(1, 8, "MONOCHROME2"), vec![jpeg(&grey.into())], baseline),
        encapsulated(object(3, 8, "YBR_FULL_422"), vec![jpeg(&rgb.into())], baseline),
        encapsulated(object(1, 16, "MONOCHROME2"), vec![lossless()], "1.2.840.10008.1.2.4.70"),
    ]
}

/// A lossless JPEG (ITU-T T.81, process 14, selection value 1) of 16 bits, all of whose values are
/// the first prediction, 2^15: the difference 0 has the one code of one bit.
fn lossless() -> Vec<u8> {
    let side = u8::try_from(SIDE).unwrap();
    let mut bytes = vec![0xFF, 0xD8];
    bytes.extend([0xFF, 0xC4, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0xFF, 0xC3, 0, 11, 16, 0, side, 0, side, 1, 1, 0x11, 0]);
    bytes.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 1, 0, 0]);
    bytes.extend(vec![0; (SIDE * SIDE) as usize / 8]);
    bytes.extend([0xFF, 0xD9]);
    bytes
}

pub(crate) fn label_studio() -> Vec<Vec<u8>> {
    let task = json!({
        "id": 1, "data": {"text": "To have faith", "image": "/data/upload/1/ab-%20x.png"},
        "annotations": [
            {"id": 7, "completed_by": 1, "was_cancelled": false, "ground_truth": false, "result": [
                {"from_name": "sentiment", "type": "choices", "value": {"choices": ["Positive"]}},
                {"from_name": "box", "type": "rectanglelabels", "value": {"x": 1.5, "y": -2e3}},
            ]},
            {"id": 8, "was_cancelled": true, "result": []},
        ],
        "predictions": [{"result": [{"value": {"choices": ["Negative"]}}], "score": 0.5}],
    });
    let min = json!({
        "text": "To \"have\" \\ faith é", "id": 1, "sentiment": "Positive", "annotator": 1,
        "image": "s3://bucket/key.png", "lead_time": 4.2,
    });
    [json!([task, task]), json!([min, min, {"text": "x"}]), task, json!([])]
        .iter()
        .map(|document| document.to_string().into_bytes())
        .collect()
}

pub(crate) fn metadata() -> Vec<Vec<u8>> {
    let line = r#"{"file_name": "1.png", "label": "cat", "more": [1, {"a": null}]}"#;
    vec![format!("{line}\n{line}\n").into_bytes(), line.as_bytes().to_vec()]
}

pub(crate) fn jsonl() -> Vec<Vec<u8>> {
    [
        "{\"text\": \"a \\u00e9\", \"label\": 1, \"o\": {\"p\": [1, 2.5, null]}}\n\n{\"text\": \"b\", \"label\": \"x\"}\n",
        "{\"text\": [{\"role\": \"user\", \"content\": \"q\"}], \"label\": 2}\n",
    ]
    .map(|rows| rows.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn csv() -> Vec<Vec<u8>> {
    [
        "text,label,n\n\"a,\"\"b\"\"\nc\",1,2.5\nd,2,\n\"e\",x,007\n",
        "text;label;flag\r\n\"a\r\nb\";x;true\r\nc;y;false\r\n",
    ]
    .map(|rows| rows.as_bytes().to_vec())
    .to_vec()
}

pub(crate) fn text() -> Vec<Vec<u8>> {
    vec![b"\xef\xbb\xbfone\r\n\n two \nthree".to_vec(), b"one\ntwo\n".to_vec()]
}

pub(crate) fn parquet() -> Vec<Vec<u8>> {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("one"), Some("two"), None]));
    let labels: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let columns = [("text", texts), ("label", labels)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd]
        .map(|compression| {
            let properties = WriterProperties::builder()
                .set_compression(compression)
                .set_max_row_group_row_count(Some(2))
                .build();
            let mut out = Vec::new();
            let mut writer =
                ArrowWriter::try_new(&mut out, batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
            out
        })
        .to_vec()
}
