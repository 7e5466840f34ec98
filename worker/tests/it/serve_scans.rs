//! Files of scanners over HTTP: one or a series, read as preparation reads them, with nothing of a
//! patient in any answer or log.

use dicom_core::Tag;
use dicom_core::header::{DataElement, VR};
use dicom_core::value::PrimitiveValue;
use dicom_dictionary_std::tags;
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use serde_json::{Value, json};

use crate::image_classification::{SHAPES, fixture, png, resnet};
use crate::serve_http::{Answer, Server};
use crate::serve_pictures::serve;

const DICOM: &str = "content-type: application/dicom";
const SERIES: &str =
    "content-type: multipart/related; type=\"application/dicom\"; boundary=between-files";
/// What stands in files and must stand nowhere else.
const PATIENT: [&str; 5] = ["Doe^Jane", "Jane Doe", "SECRET-4711", "Elsewhere", "19310401"];

/// A file whose frames are the shapes of these rows, in colours.
fn file(rows: &[u32]) -> Vec<u8> {
    let pictures: Vec<_> =
        rows.iter().map(|row| image::load_from_memory(&png(*row)).unwrap().into_rgb8()).collect();
    let (columns, lines) = pictures[0].dimensions();
    let pixels: Vec<u8> = pictures.iter().flat_map(|picture| picture.as_raw().clone()).collect();
    let size = [lines, columns].map(|length| u16::try_from(length).unwrap());
    of_pixels(size, rows.len(), pixels)
}

fn of_pixels([lines, columns]: [u16; 2], frames: usize, pixels: Vec<u8>) -> Vec<u8> {
    let mut object = InMemDicomObject::new_empty();
    let mut put = |tag: Tag, vr: VR, value: PrimitiveValue| {
        object.put(DataElement::new(tag, vr, value));
    };
    put(tags::PATIENT_NAME, VR::PN, "Doe^Jane".into());
    put(tags::PATIENT_ID, VR::LO, "SECRET-4711".into());
    put(tags::PATIENT_BIRTH_DATE, VR::DA, "19310401".into());
    put(tags::INSTITUTION_NAME, VR::LO, "St. Elsewhere".into());
    put(tags::MODALITY, VR::CS, "XC".into());
    put(tags::BODY_PART_EXAMINED, VR::CS, "Jane Doe".into());
    put(tags::BURNED_IN_ANNOTATION, VR::CS, "YES".into());
    put(tags::NUMBER_OF_FRAMES, VR::IS, frames.to_string().into());
    put(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "RGB".into());
    for (tag, number) in [
        (tags::SAMPLES_PER_PIXEL, 3_u16),
        (tags::PLANAR_CONFIGURATION, 0),
        (tags::ROWS, lines),
        (tags::COLUMNS, columns),
        (tags::BITS_ALLOCATED, 8),
        (tags::BITS_STORED, 8),
        (tags::HIGH_BIT, 7),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        put(tag, VR::US, number.into());
    }
    put(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(pixels));
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax("1.2.840.10008.1.2.1")
        .media_storage_sop_class_uid("1.2.840.10008.5.1.4.1.1.7")
        .media_storage_sop_instance_uid("1.2.3.4");
    let mut bytes = Vec::new();
    object.with_meta(meta).unwrap().write_all(&mut bytes).unwrap();
    bytes
}

fn series(files: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for file in files {
        body.extend(b"--between-files\r\nContent-Type: application/dicom\r\n\r\n");
        body.extend(file);
        body.extend(b"\r\n");
    }
    body.extend(b"--between-files--\r\n");
    body
}

fn report(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let told = format!("{}{}", answer.head, answer.body);
    for word in PATIENT {
        assert!(!told.contains(word), "{word} in {told}");
    }
    answer.json()
}

fn started() -> Server {
    serve(fixture("resnet-basic", &resnet(), 180), |config| {
        config["maxBodyBytes"] = 10_000_000.into();
        config["maxQueueDepth"] = 4.into();
    })
}

#[test]
fn a_series_is_reported_on_as_its_frames_are_told_apart() {
    let server = started();
    let alone = report(&server.post_bytes("/v1/classify", DICOM, &file(&[201])));
    let as_png = server.post_bytes("/v1/classify", "content-type: image/png", &png(201)).json();
    // The same pixels, read by another way.
    let scores = |classes: &Value| -> Vec<(String, f64)> {
        let classes = classes.as_array().unwrap().iter();
        let of = |class: &Value| {
            (class["label"].as_str().unwrap().to_owned(), class["score"].as_f64().unwrap())
        };
        classes.map(of).collect()
    };
    for (one, other) in scores(&alone["findings"]).iter().zip(scores(&as_png["outputs"][0])) {
        assert_eq!(one.0, other.0);
        assert!((one.1 - other.1).abs() < 1e-5, "{alone} {as_png}");
    }
    assert_eq!(alone["report"]["modality"], json!(["XC"]));
    assert_eq!(alone["report"]["bodyPart"], json!([]), "what is no code may be a name");
    assert_eq!(alone["report"]["burnedIn"], 1);

    // More frames than may wait, and more files than are read at once.
    let rows: Vec<u32> = (0..18).map(|number| 200 + 3 * number).collect();
    let mut files: Vec<Vec<u8>> = rows.iter().map(|row| file(&[*row])).collect();
    files.push(file(&[201, 204, 207, 210, 213, 216]));
    let told = report(&server.post_bytes("/v1/classify?top_k=1", SERIES, &series(&files)));
    assert_eq!(told["findings"].as_array().unwrap().len(), 1);
    let about = &told["report"];
    assert_eq!((&about["instances"], &about["frames"]), (&json!(19), &json!(24)), "{about}");
    let frames = about["byFrame"].as_array().unwrap();
    let places: Vec<(u64, u64)> = frames
        .iter()
        .map(|of| (of["instance"].as_u64().unwrap(), of["frame"].as_u64().unwrap()))
        .collect();
    let want = (0..18).map(|file| (file, 1)).chain((1..7).map(|frame| (18, frame)));
    assert_eq!(places, want.collect::<Vec<_>>());
    let right = frames
        .iter()
        .zip(rows.iter().copied().chain([201, 204, 207, 210, 213, 216]))
        .filter(|(of, row)| of["label"] == SHAPES[*row as usize % 3])
        .count();
    assert!(right >= 15, "{right} of 24: {about}");
    let sentence = about["conclusion"].as_str().unwrap();
    assert!(sentence.contains("the mean of 24 frame(s) in 19 file(s)"), "{sentence}");
}

#[test]
fn what_is_no_series_is_refused_without_a_word_of_the_patient() {
    let server = started();
    let whole = file(&[201]);
    let cut = &whole[..whole.len() - 100];
    let bomb = of_pixels([1, 1], 1025, vec![9; 3 * 1025]);
    for (headers, body, want) in [
        (DICOM, cut.to_vec(), "file 0 "),
        (DICOM, b"no DICOM".to_vec(), "is no DICOM file"),
        (DICOM, bomb.clone(), "more than 1024 frames"),
        (SERIES, series(&[whole.clone(), cut.to_vec()]), "file 1 "),
        (SERIES, series(&[whole.clone(), of_pixels([1, 1], 1024, vec![9; 3 * 1024])]), "file 1 "),
        (SERIES, series(&[]), "there is no file"),
        (SERIES, b"Doe^Jane".to_vec(), "no part"),
    ] {
        let refused = server.post_bytes("/v1/classify", headers, &body);
        assert_eq!(refused.status, 400, "{want}: {}", refused.body);
        assert!(refused.body.contains(want), "{want}: {}", refused.body);
        assert!(PATIENT.iter().all(|word| !refused.body.contains(word)), "{}", refused.body);
    }
    let refused =
        server.post_bytes("/v1/classify", "content-type: multipart/related", &series(&[whole]));
    assert_eq!(refused.status, 415, "{}", refused.body);
    let refused = server.post_bytes("/v1/classify?top_k=0", DICOM, &file(&[201]));
    assert_eq!(refused.status, 400, "{}", refused.body);
}
