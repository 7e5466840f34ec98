//! A real language model: SmolLM2-135M-Instruct out of llama.cpp's 4-bit file continues texts as
//! transformers does with the same file.

use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_worker::import::{self, Precision};
use hearth_worker::model::{self, generate};
use serde::Deserialize;
use tch::{Device, Tensor};
use tokenizers::Tokenizer;

#[derive(Deserialize)]
struct Fixture {
    rows: Vec<Row>,
    /// Of the dequantized embeddings, feed-forward and query weights of layer 0: sum and sum of squares.
    sums: std::collections::BTreeMap<String, [f64; 2]>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    prompt: Vec<i64>,
    continuation: Vec<i64>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn smollm2_is_imported_and_continues_texts_as_in_transformers() {
    let found = Command::new(repository().join("tests/setup/smollm2.sh")).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let folder = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
    let fixture = repository().join("tests/parity/fixtures/smollm2.json");
    let want: Fixture = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("smollm2");
    import::import(&folder.join("model.gguf"), &directory, Precision::F32).unwrap();

    let tokenizer = Tokenizer::from_file(directory.join("tokenizer.json")).unwrap();
    for row in &want.rows {
        let ids = tokenizer.encode(row.text.as_str(), false).unwrap();
        let ids: Vec<i64> = ids.get_ids().iter().map(|id| i64::from(*id)).collect();
        assert!(ids.starts_with(&row.prompt), "{:?}: {ids:?}", row.text);
    }

    let model = model::load(&directory, Device::Cpu).unwrap();
    let parameters = model.parameters();
    for (name, [sum, squares]) in &want.sums {
        let tensor = &parameters.iter().find(|p| p.name == *name).unwrap().tensor;
        let value = |tensor: Tensor| f64::try_from(tensor.sum(tch::Kind::Double)).unwrap();
        assert!((value(tensor.shallow_clone()) - sum).abs() < 1e-2, "{name}");
        assert!((value(tensor.square()) / squares - 1.0).abs() < 1e-5, "{name}");
    }

    tch::set_num_threads(2);
    let prompts: Vec<i64> = want.rows.iter().flat_map(|row| row.prompt.clone()).collect();
    let rows = i64::try_from(want.rows.len()).unwrap();
    let prompts = Tensor::from_slice(&prompts).view([rows, -1]);
    let count = want.rows[0].continuation.len();
    let got = generate::greedy(&model, &prompts, count).unwrap();
    let got: Vec<Vec<i64>> = Vec::try_from(got).unwrap();
    for (row, got) in want.rows.iter().zip(got) {
        assert_eq!(got, row.continuation, "{:?}", row.text);
    }
}
