//! Every family gives what transformers gives: logits, loss and gradients of one step, on tiny
//! models that `tests/parity/families.py` describes.

use std::collections::BTreeMap;
use std::path::Path;

use hearth_worker::data::Labels;
use hearth_worker::model::{self, Dropout, Head, Model, ModelConfig, Pass};
use serde::Deserialize;
use serde_json::Value;
use tch::{Device, Kind, Reduction, Tensor};
use tempfile::TempDir;

const BATCH: i64 = 2;
const TOKENS: i64 = 12;
const VOCABULARY: i64 = 48;

#[derive(Deserialize)]
struct Case {
    config: Value,
    tensors: BTreeMap<String, Vec<i64>>,
    logits: Vec<Vec<f64>>,
    loss: f64,
    /// Norm, and product with a fixed vector.
    gradients: BTreeMap<String, [f64; 2]>,
}

fn cases() -> BTreeMap<String, Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/fixtures/families.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Numbers between -0.5 and 0.5 that the scripts of tests/parity make, too.
pub(crate) fn noise(index: usize, count: i64) -> Vec<f64> {
    let value = |step: i64| {
        let wave = ((step + 1) as f64 * 12.9898 + index as f64 * 78.233).sin() * 43_758.545_3;
        wave - wave.floor() - 0.5
    };
    (0..count).map(value).collect()
}

/// As `values` of families.py.
pub(crate) fn values(index: usize, shape: &[i64], name: &str) -> Tensor {
    let value =
        |noise| if name.ends_with("norm.weight") { 1.0 + 0.2 * noise } else { 0.25 * noise };
    let flat: Vec<f64> = noise(index, shape.iter().product()).into_iter().map(value).collect();
    Tensor::from_slice(&flat).to_kind(Kind::Float).view(shape)
}

/// Norm, and product with a fixed vector.
pub(crate) fn summary(tensor: &Tensor) -> [f64; 2] {
    let flat = tensor.to_kind(Kind::Double).reshape([-1]);
    let probe = (Tensor::arange(flat.size()[0], (Kind::Double, Device::Cpu)) * 0.7 + 0.3).cos();
    [f64::try_from(flat.norm()).unwrap(), f64::try_from(flat.dot(&probe)).unwrap()]
}

/// Writes a model's directory, its tensors filled by their places in the sorted list.
pub(crate) fn write_filled(
    target: &Path,
    config: &Value,
    tensors: &BTreeMap<String, Vec<i64>>,
    values: impl Fn(usize, &[i64], &str) -> Tensor,
) {
    std::fs::create_dir_all(target).unwrap();
    std::fs::write(target.join("config.json"), config.to_string()).unwrap();
    let filled: Vec<(String, Tensor)> = tensors
        .iter()
        .enumerate()
        .map(|(index, (name, shape))| (name.clone(), values(index, shape, name)))
        .collect();
    Tensor::write_safetensors(&filled, target.join("model.safetensors")).unwrap();
}

pub(crate) fn ids() -> Tensor {
    let plain = Tensor::arange(BATCH * TOKENS, (Kind::Int64, Device::Cpu)).view([BATCH, TOKENS]);
    (plain * 7 + 3).remainder(VOCABULARY)
}

/// Puts the weights and the configuration of a case into `target`.
pub(crate) fn put(name: &str, target: &Path) {
    put_case(&cases()[name], target);
}

fn put_case(case: &Case, target: &Path) {
    write_filled(target, &case.config, &case.tensors, values);
}

/// The case as a Hugging Face directory.
fn directory(case: &Case) -> TempDir {
    let home = TempDir::new().unwrap();
    put_case(case, home.path());
    home
}

fn read(case: &Case) -> (TempDir, Model) {
    let home = directory(case);
    let config = ModelConfig::read(home.path()).unwrap();
    let head = match &config.labels {
        Some(labels) if case.config["architectures"][0] == "LlamaForSequenceClassification" => {
            Head::Classifier(Labels::new(labels.names().to_vec()))
        }
        _ => Head::CausalLm,
    };
    let loaded = model::load_for_training(&config, home.path(), head, Device::Cpu, 7).unwrap();
    assert_eq!(loaded.1, Vec::<&str>::new(), "no part is fresh");
    (home, loaded.0)
}

/// Logits `[rows, V]` and mean loss.
fn answer(model: &Model) -> (Tensor, Tensor) {
    let ids = ids();
    if matches!(model.head, Head::Classifier(_)) {
        let mask = Tensor::ones([BATCH, TOKENS], (Kind::Int64, Device::Cpu));
        let _ = mask.get(1).narrow(0, TOKENS - 3, 3).fill_(0);
        let logits = model.classify(&(ids * &mask), Some(&mask), Dropout::On).unwrap();
        let loss = logits.cross_entropy_for_logits(&Tensor::from_slice(&[2i64, 0]));
        return (logits, loss);
    }
    let pass = Pass::decoder(model.network(), TOKENS, Device::Cpu, Dropout::On).unwrap();
    let logits = model.forward(&ids, &pass).unwrap();
    let before = logits.narrow(1, 0, TOKENS - 1).reshape([-1, VOCABULARY]);
    let after = ids.narrow(1, 1, TOKENS - 1).reshape([-1]);
    let loss = before.cross_entropy_loss::<Tensor>(&after, None, Reduction::Mean, -100, 0.0);
    (logits.view([-1, VOCABULARY]), loss)
}

fn assert_near(got: f64, want: f64, tolerance: f64, what: &str) {
    assert!((got - want).abs() <= tolerance, "{what}: {got} is not {want}");
}

#[test]
fn logits_losses_and_gradients_are_those_of_transformers() {
    for (name, case) in cases() {
        let (_home, model) = read(&case);
        assert_eq!(model.left_over, Vec::<String>::new(), "{name}: every tensor has its place");
        let (logits, loss) = answer(&model);
        let rows: Vec<Vec<f64>> = Vec::try_from(logits.to_kind(Kind::Double)).unwrap();
        for (row, want) in rows.iter().step_by(3).zip(&case.logits) {
            for (got, want) in row.iter().zip(want) {
                assert_near(*got, *want, 1e-4, &format!("{name}: logit"));
            }
        }
        assert_near(f64::try_from(&loss).unwrap(), case.loss, 1e-4, &format!("{name}: loss"));

        loss.backward();
        let own: BTreeMap<String, Tensor> =
            model.parameters().into_iter().map(|p| (p.name, p.tensor.grad())).collect();
        for (tensor, [norm, product]) in &case.gradients {
            let gradient = &own[tensor];
            // An expert that no token went to: 0 there, nothing here.
            if !gradient.defined() {
                assert_near(0.0, *norm, 1e-12, &format!("{name}: {tensor} has no gradient"));
                continue;
            }
            let what = format!("{name}: gradient of {tensor}");
            let [own_norm, own_product] = summary(gradient);
            assert_near(own_norm, *norm, 1e-3, &what);
            assert_near(own_product, *product, 1e-3, &what);
        }
    }
}

#[test]
fn generation_that_remembers_gives_the_logits_of_the_whole_text() {
    for (name, case) in cases().into_iter().filter(|(name, _)| !name.contains("classifier")) {
        let (_home, model) = read(&case);
        let _no_grad = tch::no_grad_guard();
        let pass = Pass::decoder(model.network(), TOKENS, Device::Cpu, Dropout::Off).unwrap();
        let whole = model.forward(&ids(), &pass).unwrap();
        let mut memory = model::Memory::default();
        let mut parts = Vec::new();
        // At once, one by one, and several after what is remembered.
        for (start, count) in [(0, 5), (5, 1), (6, 1), (7, 5)] {
            let pass = Pass::continued(model.network(), memory, count, Device::Cpu).unwrap();
            parts.push(model.forward(&ids().narrow(1, start, count), &pass).unwrap());
            memory = pass.memory.unwrap().into_inner();
        }
        let worst = f64::try_from((Tensor::cat(&parts, 1) - whole).abs().max()).unwrap();
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn texts_of_one_pass_see_what_is_remembered_of_them_and_nothing_else() {
    for (name, case) in cases().into_iter().filter(|(name, _)| !name.contains("classifier")) {
        let (_home, model) = read(&case);
        let _no_grad = tch::no_grad_guard();
        let pass = Pass::decoder(model.network(), TOKENS, Device::Cpu, Dropout::Off).unwrap();
        let whole = model.forward(&ids(), &pass).unwrap();
        // Slots of the first text are the odd ones, backwards; of the second the even ones.
        let slots = |row: i64, count: i64| -> Vec<i64> {
            (0..count).map(|token| if row == 0 { 41 - 2 * token } else { 2 * token }).collect()
        };
        let mut pool = model::Pool::new(42);
        let mut known = [0; 2];
        let mut worst = 0.0f64;
        // Both at once, one token of each, one alone, pieces after what is remembered.
        for counts in [[5, 3], [1, 1], [0, 4], [4, 1], [2, 3]] {
            let (mut input, mut positions, mut texts, mut want) = (vec![], vec![], vec![], vec![]);
            for row in [0, 1].into_iter().filter(|row| counts[*row] > 0) {
                let (start, count) = (known[row], counts[row]);
                known[row] += count;
                let row = i64::try_from(row).unwrap();
                input.push(ids().narrow(0, row, 1).narrow(1, start, count));
                positions.push(Tensor::arange_start(
                    start,
                    start + count,
                    (Kind::Int64, Device::Cpu),
                ));
                texts.push((usize::try_from(count).unwrap(), slots(row, start + count)));
                want.push(whole.narrow(0, row, 1).narrow(1, start, count));
            }
            let texts: Vec<_> = texts.iter().map(|(count, slots)| (*count, &slots[..])).collect();
            let stretches = model::Stretches::new(&texts, Device::Cpu).unwrap();
            let positions = Tensor::cat(&positions, 0);
            let mut pass = Pass::paged(model.network(), &positions).unwrap();
            let paged = model::Paged { pool, stretches };
            pass.memory = Some(std::cell::RefCell::new(model::Memory::Paged(paged)));
            let got = model.forward(&Tensor::cat(&input, 1), &pass).unwrap();
            worst = worst.max(f64::try_from((got - Tensor::cat(&want, 1)).abs().max()).unwrap());
            let model::Memory::Paged(paged) = pass.memory.unwrap().into_inner() else { panic!() };
            pool = paged.pool;
        }
        assert_eq!(known, [12, 12]);
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn packed_documents_do_not_see_each_other() {
    for (name, case) in cases().into_iter().filter(|(name, _)| !name.contains("classifier")) {
        let (_home, model) = read(&case);
        let _no_grad = tch::no_grad_guard();
        let alone = |from: i64, count: i64| {
            let pass = Pass::decoder(model.network(), count, Device::Cpu, Dropout::Off).unwrap();
            model.forward(&ids().narrow(0, 0, 1).narrow(1, from, count), &pass).unwrap()
        };
        let want = Tensor::cat(&[alone(0, 5), alone(5, 4), alone(9, 3)], 1);
        let pass = Pass::packed(model.network(), vec![5, 4, 3], Device::Cpu, Dropout::Off).unwrap();
        let got = model.forward(&ids().narrow(0, 0, 1), &pass).unwrap();
        let worst = f64::try_from((got - want).abs().max()).unwrap();
        assert!(worst < 1e-4, "{name}: {worst}");
    }
}

#[test]
fn fp8_blocks_read_as_the_values_that_they_stand_for() {
    let mut case = cases().remove("deepseek-v3").unwrap();
    let plain = directory(&case);
    let name = "model.layers.0.mlp.gate_proj.weight";
    let mut tensors = Tensor::read_safetensors(plain.path().join("model.safetensors")).unwrap();
    let weight = tensors.iter_mut().find(|(found, _)| found == name).unwrap();
    let small = (&weight.1 * 64.0).to_kind(Kind::Float8e4m3fn);
    let stands_for = small.to_kind(Kind::Float) / 64.0;
    let bytes: Vec<u8> = Vec::try_from(small.view_dtype(Kind::Uint8).view([-1])).unwrap();
    let shape = weight.1.size();
    tensors.retain(|(found, _)| found != name);

    let mut views: BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let flat: Vec<f32> = Vec::try_from(tensor.view([-1])).unwrap();
            let bytes = flat.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.clone(), (safetensors::Dtype::F32, sizes(&tensor.size()), bytes))
        })
        .collect();
    views.insert(name.into(), (safetensors::Dtype::F8_E4M3, sizes(&shape), bytes));
    let scale = (1.0f32 / 64.0).to_le_bytes().to_vec();
    views.insert(format!("{name}_scale_inv"), (safetensors::Dtype::F32, vec![1, 1], scale));
    let views = views.iter().map(|(name, (dtype, shape, bytes))| {
        (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    case.config["quantization_config"] = serde_json::json!({"quant_method": "fp8"});
    let home = directory(&case);
    std::fs::write(home.path().join("model.safetensors"), file).unwrap();

    let model = model::load(home.path(), Device::Cpu).unwrap();
    let read = model.parameters().into_iter().find(|p| p.name == name).unwrap().tensor;
    assert!(read.equal(&stands_for));
}

fn sizes(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|size| usize::try_from(*size).unwrap()).collect()
}

#[test]
fn sharded_weights_and_layers_beyond_the_model_are_read_and_told() {
    let case = cases().remove("deepseek-v3").unwrap();
    let home = directory(&case);
    let single = home.path().join("model.safetensors");
    let mut tensors = Tensor::read_safetensors(&single).unwrap();
    tensors.push((
        "model.layers.2.eh_proj.weight".into(),
        Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)),
    ));
    let half = tensors.len() / 2;
    let mut index = BTreeMap::new();
    for (file, part) in [("a.safetensors", &tensors[..half]), ("b.safetensors", &tensors[half..])] {
        Tensor::write_safetensors(part, home.path().join(file)).unwrap();
        index.extend(part.iter().map(|(name, _)| (name.clone(), file)));
    }
    std::fs::remove_file(single).unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": index});
    let path = home.path().join("model.safetensors.index.json");
    std::fs::write(path, index.to_string()).unwrap();

    let model = model::load(home.path(), Device::Cpu).unwrap();
    assert_eq!(model.left_over, ["model.layers.2.eh_proj.weight"]);
    let pass = Pass::decoder(model.network(), TOKENS, Device::Cpu, Dropout::Off).unwrap();
    let logits = tch::no_grad(|| model.forward(&ids(), &pass)).unwrap();
    assert_near(logits.double_value(&[0, 0, 0]), case.logits[0][0], 1e-4, "first logit");
}
