use std::io::Cursor;

use dicom_core::header::{DataElement, VR};
use dicom_core::value::{DataSetSequence, PixelFragmentSequence, PrimitiveValue, Value};
use dicom_core::{Tag, dicom_value};
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use image::{GrayImage, RgbImage};

use super::*;

const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const RLE: &str = "1.2.840.10008.1.2.5";
const LOSSLESS: &str = "1.2.840.10008.1.2.4.70";
const BASELINE: &str = "1.2.840.10008.1.2.4.50";

type Object = InMemDicomObject;

fn put(object: &mut Object, tag: Tag, vr: VR, value: impl Into<PrimitiveValue>) {
    object.put(DataElement::new(tag, vr, value.into()));
}

/// A file of one frame without pixels: `(rows, columns, samples)`.
fn object(size: (u16, u16, u16), bits: u16, photometric: &str) -> Object {
    let mut object = Object::new_empty();
    put(&mut object, tags::ROWS, VR::US, size.0);
    put(&mut object, tags::COLUMNS, VR::US, size.1);
    put(&mut object, tags::SAMPLES_PER_PIXEL, VR::US, size.2);
    put(&mut object, tags::BITS_ALLOCATED, VR::US, if bits > 8 { 16_u16 } else { 8 });
    put(&mut object, tags::BITS_STORED, VR::US, bits);
    put(&mut object, tags::HIGH_BIT, VR::US, bits - 1);
    put(&mut object, tags::PIXEL_REPRESENTATION, VR::US, 0_u16);
    put(&mut object, tags::PHOTOMETRIC_INTERPRETATION, VR::CS, photometric);
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

fn native(mut object: Object, pixels: &[u8], syntax: &str) -> Vec<u8> {
    put(&mut object, tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels));
    written(object, syntax)
}

fn encapsulated(mut object: Object, fragments: Vec<Vec<u8>>, syntax: &str) -> Vec<u8> {
    let fragments: PixelFragmentSequence<Vec<u8>> = PixelFragmentSequence::new_fragments(fragments);
    object.put(DataElement::new(tags::PIXEL_DATA, VR::OB, Value::PixelSequence(fragments)));
    written(object, syntax)
}

fn seen(bytes: &[u8]) -> Result<Dicom, DicomError> {
    read(Cursor::new(bytes), DicomOptions::default())
}

fn greys(bytes: &[u8]) -> Vec<u8> {
    seen(bytes).unwrap().frames[0].as_luma8().unwrap().as_raw().clone()
}

fn words(values: &[i16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn eight_bits_stay_as_they_are() {
    let object = object((2, 2, 1), 8, "MONOCHROME2");
    for syntax in [EXPLICIT, "1.2.840.10008.1.2"] {
        let bytes = native(object.clone(), &[0, 7, 200, 255], syntax);
        assert_eq!(greys(&bytes), [0, 7, 200, 255], "{syntax}");
    }
}

#[test]
fn values_are_rescaled_and_cut_to_the_window() {
    let mut ct = object((1, 5, 1), 12, "MONOCHROME2");
    put(&mut ct, tags::RESCALE_SLOPE, VR::DS, "1");
    put(&mut ct, tags::RESCALE_INTERCEPT, VR::DS, "-1024");
    put(&mut ct, tags::WINDOW_CENTER, VR::DS, "40\\-600");
    put(&mut ct, tags::WINDOW_WIDTH, VR::DS, "400\\1500");
    // -1024, -160, 40, 239 and 2976 Hounsfield units; the highest bits are no part of the values.
    let bytes = native(ct.clone(), &words(&[0, 864, 1064, 1263, 0x7FA0]), EXPLICIT);
    assert_eq!(greys(&bytes), [0, 0, 128, 255, 255]);
    let window = Some(Window { center: -600.0, width: 1500.0, shape: Shape::Linear });
    let options = DicomOptions { window, ..DicomOptions::default() };
    let lung = read(Cursor::new(&bytes), options).unwrap();
    assert_eq!(lung.frames[0].as_luma8().unwrap().as_raw()[..3], [55, 202, 236]);
    put(&mut ct, tags::WINDOW_WIDTH, VR::DS, "0");
    let refused = seen(&native(ct, &words(&[0; 5]), EXPLICIT)).unwrap_err();
    assert!(refused.to_string().contains("window"), "{refused}");
}

#[test]
fn signed_values_and_frames_without_a_window_are_stretched() {
    let mut object = object((1, 3, 1), 16, "MONOCHROME2");
    put(&mut object, tags::PIXEL_REPRESENTATION, VR::US, 1_u16);
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "2");
    let bytes = native(object, &words(&[-1000, 0, 1000, 5, 5, 7]), EXPLICIT);
    let frames = seen(&bytes).unwrap().frames;
    let greys: Vec<&[u8]> = frames.iter().map(DynamicImage::as_bytes).collect();
    assert_eq!(greys, [[0, 128, 255], [0, 0, 255]]);
}

#[test]
fn monochrome1_is_inverted() {
    let bytes = native(object((1, 2, 1), 8, "MONOCHROME1"), &[0, 200], EXPLICIT);
    assert_eq!(greys(&bytes), [255, 55]);
}

#[test]
fn big_endian_words_are_swapped() {
    let mut object = object((1, 2, 1), 16, "MONOCHROME2");
    put(&mut object, tags::WINDOW_CENTER, VR::DS, "128");
    put(&mut object, tags::WINDOW_WIDTH, VR::DS, "256");
    let words: PrimitiveValue = dicom_value!(U16, [0, 200]);
    put(&mut object, tags::PIXEL_DATA, VR::OW, words);
    assert_eq!(greys(&written(object, "1.2.840.10008.1.2.2")), [0, 200]);
}

#[test]
fn colours_lie_by_pixel_or_by_plane() {
    let colours = [1, 2, 3, 101, 102, 103];
    let by_pixel = native(object((1, 2, 3), 8, "RGB"), &colours, EXPLICIT);
    let mut planes = object((1, 2, 3), 8, "RGB");
    put(&mut planes, tags::PLANAR_CONFIGURATION, VR::US, 1_u16);
    let by_plane = native(planes, &[1, 101, 2, 102, 3, 103], EXPLICIT);
    let want = RgbImage::from_raw(2, 1, colours.to_vec()).unwrap();
    for bytes in [by_pixel, by_plane] {
        assert_eq!(seen(&bytes).unwrap().frames, [DynamicImage::from(want.clone())]);
    }
    // Red, by the formulas of PS3.3.
    let red = native(object((1, 1, 3), 8, "YBR_FULL"), &[76, 85, 255], EXPLICIT);
    assert_eq!(seen(&red).unwrap().frames[0].as_bytes(), [254, 0, 0]);
}

/// A frame of RLE: each plane as literals of one byte.
fn rle(planes: &[&[u8]]) -> Vec<u8> {
    let packed: Vec<Vec<u8>> =
        planes.iter().map(|plane| plane.iter().flat_map(|byte| [0, *byte]).collect()).collect();
    let mut header = vec![u32::try_from(planes.len()).unwrap()];
    let mut at = 64;
    for plane in &packed {
        header.push(at);
        at += u32::try_from(plane.len()).unwrap();
    }
    header.resize(16, 0);
    let header: Vec<u8> = header.iter().flat_map(|number| number.to_le_bytes()).collect();
    [header, packed.concat()].concat()
}

#[test]
fn rle_is_unpacked() {
    let mut two = object((1, 3, 1), 8, "MONOCHROME2");
    put(&mut two, tags::NUMBER_OF_FRAMES, VR::IS, "2");
    let bytes = encapsulated(two, vec![rle(&[&[1, 2, 3]]), rle(&[&[4, 5, 6]])], RLE);
    let frames = seen(&bytes).unwrap().frames;
    assert_eq!((frames[0].as_bytes(), frames[1].as_bytes()), (&[1, 2, 3][..], &[4, 5, 6][..]));
    let mut words = object((1, 2, 1), 16, "MONOCHROME2");
    put(&mut words, tags::WINDOW_CENTER, VR::DS, "32768");
    put(&mut words, tags::WINDOW_WIDTH, VR::DS, "65536");
    let bytes = encapsulated(words, vec![rle(&[&[0x80, 0xFF], &[0x80, 0xFF]])], RLE);
    assert_eq!(greys(&bytes), [128, 255]);
    let rgb =
        encapsulated(object((1, 2, 3), 8, "RGB"), vec![rle(&[&[1, 4], &[2, 5], &[3, 6]])], RLE);
    assert_eq!(seen(&rgb).unwrap().frames[0].as_bytes(), [1, 2, 3, 4, 5, 6]);
}

fn jpeg(image: &GrayImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100)
        .encode_image(image)
        .unwrap();
    bytes
}

#[test]
fn jpeg_is_decoded_over_fragments_and_frames() {
    let image =
        GrayImage::from_fn(16, 8, |x, y| image::Luma([u8::try_from(x * 10 + y * 5).unwrap()]));
    let frame = jpeg(&image);
    let near = |image: &DynamicImage, other: &GrayImage| {
        image.as_bytes().iter().zip(other.as_raw()).all(|(a, b)| a.abs_diff(*b) < 6)
    };
    let one = object((8, 16, 1), 8, "MONOCHROME2");
    let (begin, end) = frame.split_at((frame.len() / 2) & !1);
    let bytes = encapsulated(one.clone(), vec![begin.to_vec(), end.to_vec()], BASELINE);
    assert!(near(&seen(&bytes).unwrap().frames[0], &image));
    let mut two = one.clone();
    put(&mut two, tags::NUMBER_OF_FRAMES, VR::IS, "2");
    let flat = GrayImage::from_pixel(16, 8, image::Luma([90]));
    let bytes = encapsulated(two, vec![frame.clone(), jpeg(&flat)], BASELINE);
    assert!(near(&seen(&bytes).unwrap().frames[1], &flat));
    let smaller = encapsulated(object((8, 8, 1), 8, "MONOCHROME2"), vec![frame], BASELINE);
    assert!(seen(&smaller).unwrap_err().to_string().contains("not of the size"));
}

#[test]
fn nothing_of_the_patient_is_told() {
    let mut object = object((1, 1, 1), 8, "MONOCHROME2");
    for (tag, vr, value) in [
        (tags::PATIENT_NAME, VR::PN, "Doe^Jane"),
        (tags::PATIENT_ID, VR::LO, "4711"),
        (tags::PATIENT_BIRTH_DATE, VR::DA, "19310401"),
        (tags::STUDY_DATE, VR::DA, "20240102"),
        (tags::INSTITUTION_NAME, VR::LO, "St. Elsewhere"),
        (Tag(0x0009, 0x0010), VR::LO, "PRIVATE"),
        (Tag(0x0009, 0x1001), VR::LO, "Jane again"),
        (tags::MODALITY, VR::CS, "DX"),
        (tags::BODY_PART_EXAMINED, VR::CS, "Jane Doe"),
        (tags::VIEW_POSITION, VR::CS, "PA"),
        (tags::PATIENT_SEX, VR::CS, "F"),
        (tags::PATIENT_AGE, VR::AS, "093Y"),
        (tags::PIXEL_SPACING, VR::DS, "0.2\\0.3"),
        (tags::BURNED_IN_ANNOTATION, VR::CS, "YES"),
    ] {
        put(&mut object, tag, vr, value);
    }
    let mut item = Object::new_empty();
    put(&mut item, tags::PATIENT_NAME, VR::PN, "Doe^John");
    let items = DataSetSequence::from(vec![item]);
    object.put(DataElement::new(tags::REFERENCED_PATIENT_SEQUENCE, VR::SQ, items));
    let bytes = native(object, &[9], EXPLICIT);
    let told = seen(&bytes).unwrap().attributes;
    let want = Attributes {
        modality: Some("DX".into()),
        view: Some("PA".into()),
        pixel_spacing: Some([0.2, 0.3]),
        burned_in: Some(true),
        ..Attributes::default()
    };
    assert_eq!(told, want);
    let options = DicomOptions { patient_characteristics: true, ..DicomOptions::default() };
    let told = read(Cursor::new(&bytes), options).unwrap().attributes;
    assert_eq!(told, Attributes { sex: Some("F".into()), age_decade: Some(90), ..want });
}

#[test]
fn claimed_sizes_cost_nothing() {
    let mut huge = object((65_535, 65_535, 1), 16, "MONOCHROME2");
    put(&mut huge, tags::NUMBER_OF_FRAMES, VR::IS, "4294967295");
    let refused = seen(&native(huge, &[0; 4], EXPLICIT)).unwrap_err();
    assert!(matches!(refused, DicomError::TooLarge { frames: u32::MAX, .. }), "{refused}");
    for (rows, want) in [(8192, "cut short"), (8193, "split it")] {
        let large = native(object((rows, 8192, 1), 8, "MONOCHROME2"), &[0; 4], EXPLICIT);
        let told = seen(&large).unwrap_err().to_string();
        assert!(told.contains(want), "{rows} rows: {told}");
    }
    // A value of 4 GB that is not there: the last element's length is its header's last 4 bytes.
    let mut bytes = native(object((1, 1, 1), 8, "MONOCHROME2"), &[0, 0], EXPLICIT);
    let at = bytes.len() - 6;
    bytes[at..at + 4].copy_from_slice(&[0xF0, 0xFF, 0xFF, 0xFF]);
    assert!(seen(&bytes).unwrap_err().to_string().contains("longer than the file"));
    // Sequences in sequences, without end.
    let mut deep = native(object((1, 1, 1), 8, "MONOCHROME2"), &[0, 0], EXPLICIT);
    let sequence = b"\x08\x00\x40\x11SQ\0\0\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF";
    deep.truncate(deep.len() - 14);
    deep.extend(sequence.repeat(100_000));
    assert!(seen(&deep).unwrap_err().to_string().contains("too deep"));
}

#[test]
fn what_is_not_read_is_refused_with_a_way_out() {
    let flat = |photometric| native(object((1, 1, 1), 8, photometric), &[0, 0], EXPLICIT);
    let compressed = |syntax| {
        let object = object((1, 1, 1), 8, "MONOCHROME2");
        encapsulated(object, vec![vec![0, 0]], syntax)
    };
    for (bytes, want) in [
        (b"GIF89a".to_vec(), "DICM"),
        (flat("PALETTE COLOR"), "convert"),
        (compressed("1.2.840.10008.1.2.4.90"), "JPEG 2000"),
        (compressed("1.2.840.10008.1.2.4.80"), "JPEG-LS"),
        (compressed(LOSSLESS), "JPEG frame cannot be decoded"),
        (compressed(RLE), "cut short"),
        (written(object((1, 1, 1), 8, "MONOCHROME2"), EXPLICIT), "no pixels"),
    ] {
        let told = seen(&bytes).unwrap_err().to_string();
        assert!(told.contains(want), "{want}: {told}");
    }
    let mut lut = object((1, 1, 1), 8, "MONOCHROME2");
    let items = DataSetSequence::from(vec![Object::new_empty()]);
    lut.put(DataElement::new(tags::MODALITY_LUT_SEQUENCE, VR::SQ, items));
    let told = seen(&native(lut, &[0, 0], EXPLICIT)).unwrap_err().to_string();
    assert!(told.contains("modality look-up table"), "{told}");
}
