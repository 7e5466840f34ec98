//! The sample of medical images: real files of scanners by one apply, and a CT series to its report.

use std::path::Path;
use std::time::Instant;

use hearth_tests::cluster::{Namespace, Way, condition};
use hearth_tests::http;
use serde_json::{Value, json};

use crate::support::{PATIENCE, copy, fetched, sample, succeeded};

const DICOM: &str = "application/dicom";
const SERIES: &str = "multipart/related; type=\"application/dicom\"; boundary=between-files";
/// What the series' headers say of a patient who does not exist.
const PATIENT: [&str; 5] = ["Doe^Jane", "Jane Doe", "SECRET-4711", "Elsewhere", "19310401"];
/// Times that the series is sent.
const TIMES: usize = 5;

/// All files of a folder as one body, in the order of their names.
fn series(folder: &Path) -> (usize, Vec<u8>) {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    let mut body = Vec::new();
    for file in &files {
        body.extend(b"--between-files\r\nContent-Type: application/dicom\r\n\r\n");
        body.extend(std::fs::read(file).unwrap());
        body.extend(b"\r\n");
    }
    body.extend(b"--between-files--\r\n");
    (files.len(), body)
}

#[test]
fn a_ct_series_becomes_a_report_that_tells_of_nobody() {
    let namespace = Namespace::create("e2e-medical").unwrap();
    namespace.claim("scans").unwrap();
    let (volume, scans) = (namespace.volume("scans"), fetched("scans.sh"));
    copy(&fetched("cells.sh").join("mobilenet"), &volume.join("mobilenet"));
    for folder in ["train", "eval"] {
        copy(&scans.join(folder), &volume.join(folder));
    }
    namespace.apply(&sample("medical-images")).unwrap();
    let job = succeeded(&namespace, "scans");
    println!("{}", job["status"]["progress"]);
    // Of seven frames of other patients: a number, and no more.
    assert!(job["status"]["progress"]["accuracy"].is_number(), "{job}");
    let prepared = namespace.kubectl(&["get", "trainingjob", "scans", "-o", "json"]).unwrap();
    assert!(PATIENT.iter().all(|word| !prepared.contains(word)), "{prepared}");
    let found = std::process::Command::new("grep")
        .args(["-rlF", &PATIENT.join("\n")])
        .arg(volume.join("model"))
        .output()
        .unwrap();
    assert!(found.stdout.is_empty(), "told in {}", String::from_utf8_lossy(&found.stdout));

    let ready =
        |d: &Value| condition(d, "Ready") == "True" && condition(d, "Progressing") == "False";
    namespace.wait("modeldeployment", "scans", PATIENCE, ready).unwrap();
    let way = Way::open(&namespace, "scans", 80).unwrap();
    let ask = |media: &str, body: &[u8]| {
        let answer = http::post_bytes(&way.address, "/v1/classify", media, body).unwrap();
        let told = format!("{}{}", answer.head, answer.body);
        assert!(PATIENT.iter().all(|word| !told.contains(word)), "{told}");
        answer
    };
    let (count, body) = series(&scans.join("series"));
    let mut seconds: Vec<f64> = Vec::new();
    for _ in 0..TIMES {
        let sent = Instant::now();
        let answer = ask(SERIES, &body);
        seconds.push(sent.elapsed().as_secs_f64());
        assert_eq!(answer.status, 200, "{}", answer.body);
        let told: Value = serde_json::from_str(&answer.body).unwrap();
        let finding = told["findings"][0]["label"].as_str().unwrap();
        assert!(["CT", "MR", "US"].contains(&finding), "{}", told["findings"]);
        assert_eq!(told["report"]["instances"], json!(count));
        assert_eq!(told["report"]["modality"], json!(["CT"]));
        assert_eq!(told["report"]["bodyPart"], json!(["HEAD"]));
        println!("{}", told["report"]["conclusion"]);
    }
    seconds.sort_by(f64::total_cmp);
    println!(
        "{count} slices, {} MB: {:.2} s from upload to report in the median, {:.2} s at most",
        body.len() / 1_000_000,
        seconds[TIMES / 2],
        seconds[TIMES - 1]
    );
    let mr = std::fs::read(scans.join("eval/MR/MR_small.dcm")).unwrap();
    let alone = ask(DICOM, &mr);
    assert_eq!(alone.status, 200, "{}", alone.body);
    println!("{}", alone.body);
    let cut = ask(DICOM, &mr[..mr.len() / 2]);
    assert_eq!(cut.status, 400, "{}", cut.body);

    let logs = namespace
        .kubectl(&["logs", "-l", "hearth.dev/name=scans", "--all-containers", "--tail", "-1"])
        .unwrap();
    assert!(logs.contains("serving"), "{logs}");
    assert!(PATIENT.iter().all(|word| !logs.contains(word)), "{logs}");
}
