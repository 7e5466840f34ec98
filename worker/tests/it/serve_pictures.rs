//! A classifier of pictures over HTTP: what comes in as a file, in JSON or as a tensor is told apart
//! alike, by libtorch and by ONNX Runtime, and what is no picture is refused.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::{DynamicImage, GrayImage, ImageFormat};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::gang::Gang;
use crate::image_classification::{SHAPES, fixture, pictures, png, resnet, vit};
use crate::serve_http::{Answer, Server};

const PNG: &str = "content-type: image/png";

/// A server of a model that has learned shapes.
pub(crate) fn serve(fixture: Fixture, change: impl FnOnce(&mut Value)) -> Server {
    let config = fixture.config("job", |config| {
        pictures(config);
        config["training"]["maxSteps"] = 60.into();
        config["training"]["saveStrategy"] = "No".into();
    });
    let _ = Gang::run(&config, 1).succeeded();
    let model = fixture.path("job/model");
    Server::of(fixture, model, |config| {
        config["maxBodyBytes"] = 1_000_000.into();
        config["responseCacheBytes"] = 1_000_000.into();
        change(config);
    })
}

fn scores(answer: &Answer) -> Vec<Vec<(String, f64)>> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    let outputs = answer.json()["outputs"].as_array().unwrap().clone();
    let classes = |output: &Value| {
        let classes = output.as_array().unwrap().iter();
        classes
            .map(|class| {
                (class["label"].as_str().unwrap().to_owned(), class["score"].as_f64().unwrap())
            })
            .collect()
    };
    outputs.iter().map(classes).collect()
}

#[test]
fn a_picture_is_told_apart_however_it_comes() {
    let server = serve(fixture("resnet-basic", &resnet(), 180), |_| {});
    let rows: Vec<u32> = (200..212).collect();
    let encoded: Vec<String> = rows.iter().map(|row| STANDARD.encode(png(*row))).collect();
    let together = scores(&server.post("/v1/classify", &json!({ "inputs": encoded }).to_string()));
    let right = rows.iter().zip(&together);
    let right = right.filter(|(row, classes)| classes[0].0 == SHAPES[**row as usize % 3]).count();
    assert!(right >= 9, "{right} of 12: {together:?}");
    for (row, want) in rows.iter().zip(&together) {
        let alone = scores(&server.post_bytes("/v1/classify?top_k=3", PNG, &png(*row)));
        let url = format!("data:image/png;base64,{}", STANDARD.encode(png(*row)));
        let in_url = scores(&server.post("/v1/classify", &json!({ "inputs": url }).to_string()));
        for got in [&alone[0], &in_url[0]] {
            for (got, want) in got.iter().zip(want) {
                assert_eq!(got.0, want.0);
                assert!((got.1 - want.1).abs() < 1e-5, "{got:?} {want:?}");
            }
        }
    }
    let best = scores(&server.post_bytes("/v1/classify?top_k=1", PNG, &png(7)));
    assert_eq!(best[0].len(), 1);

    // The same as a tensor of bytes behind the JSON.
    let mut binary = Vec::new();
    for row in &rows {
        let file = png(*row);
        binary.extend(u32::try_from(file.len()).unwrap().to_le_bytes());
        binary.extend(file);
    }
    let head = json!({"inputs": [{
        "name": "image", "shape": [rows.len()], "datatype": "BYTES",
        "parameters": {"binary_data_size": binary.len()}
    }], "outputs": [{"name": "label"}]})
    .to_string();
    let headers = format!(
        "content-type: application/octet-stream\r\ninference-header-content-length: {}",
        head.len()
    );
    let body = [head.into_bytes(), binary].concat();
    let answer = server.post_bytes("/v2/models/tiny/infer", &headers, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let labels: Vec<_> = together.iter().map(|classes| json!(classes[0].0)).collect();
    assert_eq!(answer.json()["outputs"][0]["data"], json!(labels));
    let about = server.get("/v2/models/tiny").json();
    assert_eq!(about["inputs"][0]["name"], "image");
    // What was asked before is not computed again.
    assert!(server.metric("hearth_inference_cache_hits_total") >= 24.0);
}

#[test]
fn what_is_no_picture_is_refused_and_others_are_served() {
    let server = serve(fixture("vit", &vit(), 12), |_| {});
    let black = GrayImage::new(12_000, 12_000);
    let mut bomb = Vec::new();
    DynamicImage::from(black).write_to(&mut Cursor::new(&mut bomb), ImageFormat::Png).unwrap();
    assert!(bomb.len() < 1_000_000, "{}", bomb.len());
    let whole = png(1);
    for (file, want) in [
        (&b"no picture"[..], "image 0"),
        (&whole[..whole.len() / 2], "image 0"),
        (&bomb[..], "image 0"),
        (&[][..], "image 0"),
    ] {
        let refused = server.post_bytes("/v1/classify", PNG, file);
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body.contains(want), "{}", refused.body);
    }
    for (inputs, want) in [
        (json!(["!"]), "image 0 is not base64"),
        (json!("data:image/png,abc"), "without ;base64,"),
        (json!([]), "there is no image"),
        (json!([1]), "a text or a list of texts"),
    ] {
        let refused = server.post("/v1/classify", &json!({ "inputs": inputs }).to_string());
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body.contains(want), "{}", refused.body);
    }
    let text =
        json!({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]});
    let refused = server.post("/v2/models/tiny/infer", &text.to_string());
    let sentence = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(sentence.contains("the model's is \"image\""), "{sentence}");
    assert!(server.get("/v1/nothing").body.contains("pictures, PNG or JPEG"));
    assert_eq!(server.post_bytes("/v1/classify", PNG, &whole).status, 200);
}

#[test]
fn onnx_runtime_tells_pictures_apart_as_libtorch_does() {
    for (case, processor) in [("resnet-basic", resnet()), ("vit", vit())] {
        let ask = |runtime: &str| {
            let server = serve(fixture(case, &processor, 24), |config| {
                config["runtime"] = runtime.into();
            });
            let encoded: Vec<String> = (100..106).map(|row| STANDARD.encode(png(row))).collect();
            scores(&server.post("/v1/classify", &json!({ "inputs": encoded }).to_string()))
        };
        let (own, onnx) = (ask("Libtorch"), ask("OnnxRuntime"));
        for (own, onnx) in own.iter().flatten().zip(onnx.iter().flatten()) {
            assert_eq!(own.0, onnx.0, "{case}");
            assert!((own.1 - onnx.1).abs() < 1e-4, "{case}: {own:?} {onnx:?}");
        }
    }
}
