//! Files of scanners.

use dicom_core::Tag;
use dicom_core::header::{DataElement, VR};
use dicom_core::value::PrimitiveValue;
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use hearth_crds::training_job::DataFormat;
use serde_json::{Value, json};

use crate::fixture::{Room, bytes, prepare, refusal, rows};
use crate::folders::config;

/// A file of 4 by 2 pixels, a frame of each of these values times the column.
fn file(frames: &[u8]) -> Vec<u8> {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: PrimitiveValue| {
        object.put(DataElement::new(tag, vr, value));
    };
    put(tags::PATIENT_NAME, VR::PN, "Doe^Jane".into());
    put(tags::PATIENT_ID, VR::LO, "SECRET-4711".into());
    put(tags::INSTITUTION_NAME, VR::LO, "St. Elsewhere".into());
    put(tags::MODALITY, VR::CS, "CT".into());
    put(tags::BODY_PART_EXAMINED, VR::CS, "CHEST".into());
    put(tags::PIXEL_SPACING, VR::DS, "0.5\\0.25".into());
    put(tags::BURNED_IN_ANNOTATION, VR::CS, "NO".into());
    put(tags::NUMBER_OF_FRAMES, VR::IS, frames.len().to_string().into());
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2".into());
    for (tag, number) in [
        (tags::SAMPLES_PER_PIXEL, 1_u16),
        (tags::ROWS, 2),
        (tags::COLUMNS, 4),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(tag, VR::US, number.into());
    }
    let pixels: Vec<u8> =
        frames.iter().flat_map(|of| (0..8_u8).map(move |at| of * (at % 4))).collect();
    put(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels));
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax("1.2.840.10008.1.2.1")
        .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.7")
        .media_storage_sop_instance_uid("1.2.3.4");
    let mut bytes = Vec::new();
    object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
    bytes
}

fn pixels(row: &Value) -> Vec<u8> {
    let bytes: Vec<u8> = serde_json::from_value(row["image"]["bytes"].clone()).unwrap();
    image::load_from_memory(&bytes).unwrap().to_luma8().into_raw()
}

#[test]
fn frames_become_rows_without_a_word_of_the_patient() {
    let room = Room::new();
    room.file("scans/ill/Doe^Jane.dcm", file(&[10, 20]));
    room.file("scans/well/IM0001", file(&[30]));
    room.file("scans/well/Doe^John.dcm", "no DICOM");
    let mut config = config(&room, "scans", DataFormat::DICOM);
    let told = refusal(&config);
    assert!(told.contains("scans:2: the file is no DICOM file"), "{told}");
    config.max_bad_rows = 1;
    let made = prepare(&config).unwrap();
    let mut seen = rows(&made, "train");
    let frames: Vec<_> = seen.iter().map(pixels).collect();
    let frame = |of: u8| vec![0, of, of * 2, of * 3, 0, of, of * 2, of * 3];
    assert_eq!(frames, [frame(10), frame(20), frame(30)]);
    for row in &mut seen {
        row["image"]["bytes"] = Value::Null;
    }
    let row = |label: &str, frame: i64| {
        json!({
            "image": {"bytes": null, "path": null}, "label": label, "frame": frame,
            "modality": "CT", "bodyPart": "CHEST", "view": null, "laterality": null,
            "pixelSpacing": [0.5, 0.25], "burnedIn": false, "recognizable": null,
        })
    };
    assert_eq!(seen, [row("ill", 1), row("ill", 2), row("well", 1)]);
    assert_eq!((made.card.malformed, made.card.train_rows), (1, 3));
    for (name, content) in bytes(&made.directory) {
        for word in ["Doe", "Jane", "John", "SECRET", "4711", "Elsewhere"] {
            let found = content.windows(word.len()).any(|part| part == word.as_bytes());
            assert!(!found, "{word} in {name}");
        }
    }
}
