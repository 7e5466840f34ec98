use std::io::Cursor;

use serde_json::json;

use super::*;

fn options(image: Option<&str>) -> LabelStudioOptions {
    LabelStudioOptions { label: "sentiment".into(), image: image.map(Into::into) }
}

fn all(document: &Value) -> Vec<Imported> {
    let text = document.to_string();
    let source = Cursor::new(text.into_bytes());
    LabelStudio::new(source, Path::new("export.json"), PathBuf::from("/nowhere"), options(None))
        .map(Result::unwrap)
        .collect()
}

fn row(index: u64, fields: &Value) -> Imported {
    let fields = fields.as_object().unwrap().clone();
    Imported::Row(Row { origin: "export.json".into(), index, fields })
}

fn choice(label: &str) -> Value {
    json!({
        "id": "Dx_aB91ISN", "from_name": "sentiment", "to_name": "text", "type": "choices",
        "origin": "manual", "value": {"choices": [label]},
    })
}

fn annotation(result: &[Value]) -> Value {
    json!({
        "id": 1001, "completed_by": {"id": 1, "email": "ann@example.com"}, "result": result,
        "was_cancelled": false, "ground_truth": false, "lead_time": 4.2,
        "created_at": "2021-03-09T22:16:08.728353Z", "draft_created_at": null,
    })
}

fn task(annotations: &[Value]) -> Value {
    json!({
        "id": 1, "project": 83, "file_upload": "ab12-x.csv",
        "data": {"text": "To have faith", "lang": "en", "stars": 3},
        "annotations": annotations, "drafts": [],
        "predictions": [{"model_version": "m", "result": [choice("Predicted")]}],
        "meta": {}, "total_annotations": 1, "comment_authors": [],
    })
}

/// Why the only task of an export is no row.
fn told(annotations: &[Value]) -> (bool, String) {
    match all(&json!([task(annotations)])).remove(0) {
        Imported::Malformed(no_row) => (true, no_row.reason),
        Imported::Unlabelled(no_row) => (false, no_row.reason),
        Imported::Row(row) => panic!("{row:?}"),
    }
}

#[test]
fn a_task_becomes_its_data_and_the_choice_of_most() {
    let positive = annotation(&[choice("Positive")]);
    let negative = annotation(&[choice("Negative")]);
    let mut cancelled = negative.clone();
    cancelled["was_cancelled"] = true.into();
    let mut truth = negative.clone();
    truth["ground_truth"] = true.into();
    let other = json!({"from_name": "box", "type": "rectanglelabels", "value": {"x": 1.5, "rectanglelabels": ["A"]}});
    for (name, annotations, want) in [
        ("one", vec![positive.clone()], "Positive"),
        ("most", vec![negative.clone(), positive.clone(), positive.clone()], "Positive"),
        ("cancelled", vec![cancelled.clone(), cancelled, positive.clone()], "Positive"),
        ("ground truth", vec![positive.clone(), positive.clone(), truth], "Negative"),
        ("other controls", vec![annotation(&[other, choice("Positive")])], "Positive"),
        ("an empty one", vec![annotation(&[]), positive.clone()], "Positive"),
    ] {
        let fields = json!({"text": "To have faith", "lang": "en", "stars": 3, "sentiment": want});
        assert_eq!(all(&json!([task(&annotations)])), [row(1, &fields)], "{name}");
    }
}

#[test]
fn what_is_undecided_is_told() {
    let (positive, negative) = (choice("Positive"), choice("Negative"));
    let tie = [&positive, &negative].map(|choice| annotation(std::slice::from_ref(choice)));
    let several = json!({"from_name": "sentiment", "value": {"choices": ["Positive", "Negative"]}});
    let rating = json!({"from_name": "sentiment", "type": "rating", "value": {"rating": 3}});
    for (name, annotations, malformed, want) in [
        ("a tie", tie.to_vec(), true, "do not agree: 2 choices have 1 vote(s)"),
        ("several choices", vec![annotation(&[several])], true, "several choices"),
        ("several regions", vec![annotation(&[positive, negative])], true, "several choices"),
        ("another control", vec![annotation(&[rating])], true, "no Choices"),
        ("nobody", vec![], false, "nobody"),
        ("an empty annotation", vec![annotation(&[])], false, "no annotation chose"),
    ] {
        let (is_malformed, reason) = told(&annotations);
        assert_eq!(is_malformed, malformed, "{name}: {reason}");
        assert!(reason.contains(want), "{name}: {reason}");
        assert!(!reason.contains("Positive"), "{name}: {reason}");
    }
}

#[test]
fn json_min_has_a_row_an_annotation() {
    let min = |id: u64, annotator: u64, text: &str, sentiment: Value| {
        json!({
            "text": text, "id": id, "sentiment": sentiment, "annotator": annotator,
            "annotation_id": 7, "created_at": "2021-03-09T22:16:08.728353Z",
            "updated_at": "2021-03-09T22:16:08.728378Z", "lead_time": 4.288, "agreement": 50.0,
        })
    };
    let seen = all(&json!([
        min(1, 1, "good", json!("Positive")),
        min(2, 1, "bad", json!("Negative")),
        min(2, 2, "bad", json!("Negative")),
        min(2, 3, "bad", json!("Positive")),
        min(3, 1, "so so", json!("Positive")),
        min(3, 2, "so so", json!("Negative")),
        min(4, 1, "both", json!({"choices": ["Positive", "Negative"]})),
        {"text": "none", "id": 5},
    ]));
    assert_eq!(seen[0], row(1, &json!({"text": "good", "sentiment": "Positive"})));
    assert_eq!(seen[1], row(2, &json!({"text": "bad", "sentiment": "Negative"})));
    let reasons: Vec<(u64, &str)> = seen[2..]
        .iter()
        .map(|imported| match imported {
            Imported::Malformed(no_row) | Imported::Unlabelled(no_row) => {
                (no_row.index, no_row.reason.as_str())
            }
            Imported::Row(row) => panic!("{row:?}"),
        })
        .collect();
    assert!(reasons[0].1.contains("do not agree") && reasons[0].0 == 5, "{reasons:?}");
    assert!(reasons[1].1.contains("several choices") && reasons[1].0 == 7, "{reasons:?}");
    assert!(reasons[2].1.contains("no annotation chose") && reasons[2].0 == 8, "{reasons:?}");
    assert_eq!(seen.len(), 5);
}

#[test]
fn a_task_without_end_is_not_held() {
    let rows: Vec<Value> =
        (0..10_001).map(|at| json!({"id": 1, "sentiment": at.to_string()})).collect();
    let seen = all(&Value::Array(rows));
    assert!(matches!(&seen[..], [Imported::Malformed(no)] if no.reason.contains("10,000")));
}

#[test]
fn pictures_are_found_below_the_export() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("upload/3")).unwrap();
    std::fs::File::create(root.join("upload/3/ab-cat.png")).unwrap();
    let annotations = [annotation(&[choice("Cat")])];
    let mut found = task(&annotations);
    found["data"] = json!({"image": "/data/upload/3/ab-cat.png"});
    let mut lost = task(&annotations);
    lost["data"] = json!({"image": "/data/upload/3/ab-dog.png"});
    let mut none = task(&annotations);
    none["data"] = json!({"image": ["a.png", "b.png"]});
    let export = root.join("export.json");
    let mut file = File::create(&export).unwrap();
    std::io::Write::write_all(&mut file, json!([found, lost, none]).to_string().as_bytes())
        .unwrap();
    let rows = LabelStudio::open(&export, options(Some("image"))).unwrap();
    let rows: Vec<Imported> = rows.map(Result::unwrap).collect();
    let Imported::Row(row) = &rows[0] else { panic!("{rows:?}") };
    assert_eq!(row.fields["image"], "upload/3/ab-cat.png");
    assert!(matches!(&rows[1], Imported::Malformed(no) if no.reason.contains("not below")));
    assert!(matches!(&rows[2], Imported::Malformed(no) if no.reason.contains("no address")));
}

#[test]
fn a_broken_task_is_malformed_and_a_broken_export_ends() {
    let good = task(&[annotation(&[choice("Positive")])]).to_string();
    let text = format!("[{good}, {{\"data\": 3}}, 7, {good}, {{\"id\":");
    let source = Cursor::new(text.into_bytes());
    let export = LabelStudio::new(source, Path::new("e.json"), "/nowhere".into(), options(None));
    let seen: Vec<_> = export.collect();
    assert!(matches!(seen[0], Ok(Imported::Row(_))));
    assert!(matches!(&seen[1], Ok(Imported::Malformed(no)) if no.reason.contains("Data error")));
    assert!(matches!(&seen[2], Ok(Imported::Malformed(no)) if no.index == 3));
    assert!(matches!(&seen[3], Ok(Imported::Row(row)) if row.index == 4));
    let told = seen[4].as_ref().unwrap_err().to_string();
    assert_eq!(
        told,
        "e.json:5: it ends before its last element does; export as JSON or JSON-MIN again"
    );
    assert_eq!(seen.len(), 5);
}
