//! Moves the scales of a rounded model so that it answers more like it did before; whole numbers stay.
//!
//! Layers that were rounded one by one leave errors that belong together, and only the answers tell
//! how. So all scales are trained at once, each by its share, to bring down the divergence of the
//! answers from those of the model that was not rounded (Hinton et al. 2015) on the rows of the
//! calibration: the last phase of EfficientQAT (Chen et al. 2025, arXiv:2407.11062).
//!
//! Backward goes stage by stage from inputs that were kept, so that numbers are in 32 bits for one
//! stage at a time.

use hearth_crds::training_arguments::LrSchedulerType;
use nccl_rs::autograd::{self, set_grad};
use tch::{Device, Kind, Tensor};

use super::calibrate::{RoundedLayers, Row};
use super::tensors::Rounded;
use crate::config::{Adam, Optim, ScheduleConfig};
use crate::data::order::permutation;
use crate::error::Error;
use crate::model::module::Role;
use crate::model::parts::output::divergence;
use crate::model::{
    Dropout, Head, LinearKind, LinearOp, Model, ModelError, Network, Output, Parameter,
    TeacherOutput,
};
use crate::train::optimizer::Optimizer;
use crate::train::schedule;

/// Passes over the rows.
const EPOCHS: u64 = 2;
/// Rows of a step.
const TOGETHER: usize = 4;
/// Most that a scale moves by in a step, as a share of itself.
const RATE: f64 = 5e-4;
/// Rises in two steps, then falls by half a cosine.
const SCHEDULE: ScheduleConfig =
    ScheduleConfig { shape: LrSchedulerType::Cosine, peak: RATE, warmup: 2.0 };

/// A linear layer of whole numbers whose scales are trained.
#[derive(Debug)]
struct Stepped {
    /// i8 `[N, G, K / G]`.
    values: Tensor,
    /// f32 `[N, G, 1]`.
    scales: Tensor,
    /// What a scale is more, as a share of it: a leaf of its size.
    change: Tensor,
    bias: Option<Tensor>,
}

impl Stepped {
    fn new(Rounded { values, scales }: &Rounded, bias: Option<Tensor>) -> Result<Self, ModelError> {
        let (rows, groups) = (scales.size()[0], scales.size()[1]);
        let scales = scales.f_unsqueeze(-1)?;
        Ok(Self {
            values: values.f_view([rows, groups, -1])?.f_to_kind(Kind::Int8)?,
            change: scales.f_zeros_like()?.f_set_requires_grad(true)?,
            scales,
            bias,
        })
    }
}

/// Scales that changed by these shares of themselves.
fn moved(scales: &Tensor, change: &Tensor) -> Result<Tensor, ModelError> {
    Ok(scales.f_mul(&change.f_add_scalar(1.0)?)?)
}

impl LinearOp for Stepped {
    fn forward(&self, input: &Tensor, _: Dropout) -> Result<Tensor, ModelError> {
        let scales = moved(&self.scales, &self.change)?;
        let weight = self.values.f_to_kind(Kind::Float)?.f_mul(&scales)?;
        let weight = weight.f_view([self.values.size()[0], -1])?;
        Ok(input.f_linear(&weight, self.bias.as_ref())?)
    }

    fn take_bias(&mut self) -> Option<Tensor> {
        self.bias.take()
    }
}

/// What a model answered to a row before it was rounded.
pub(super) struct Answer {
    /// Token ids, i64 `[1, T]`.
    ids: Tensor,
    /// What a language model's head reads, f32 `[T, D]`, or a classifier's logits, f32 `[1, C]`.
    said: Tensor,
}

/// A row, and what is to be answered to it.
struct Example {
    row: Row,
    answer: Answer,
}

impl Example {
    /// What its divergence is counted by: tokens, or one answer.
    fn weight(&self, model: &Model) -> f64 {
        if model.head == Head::CausalLm { self.answer.said.size()[0] as f64 } else { 1.0 }
    }
}

/// The answers of a model to rows before their first stage.
pub(super) fn answers(model: &Model, rows: &mut [Row]) -> Result<Vec<Answer>, ModelError> {
    let network = model.network();
    let answer = |row: &mut Row| {
        let tokens = row.hidden.size()[1];
        let read = match model.head {
            Head::CausalLm => 0,
            Head::Classifier(_) => tokens - 1,
        };
        if model.config.family.is_decoder() {
            let options = (Kind::Int64, Device::Cpu);
            row.pass.select = Some(Tensor::f_arange_start(read, tokens, options)?);
        }
        if model.head == Head::CausalLm {
            row.pass.output = Output::Hidden;
        }
        let mut said = row.hidden.shallow_clone();
        for stage in 0..network.stages() {
            said = network.forward(stage, &said, &row.pass)?;
        }
        Ok(Answer { ids: row.hidden.shallow_clone(), said })
    };
    tch::no_grad(|| rows.iter_mut().map(answer).collect())
}

/// Trains the scales of `rounded`, whose layers `model` has, so that it gives these `answers` to
/// these `rows`, and leaves in the model what they stand for.
pub(super) fn tune(
    model: &mut Model,
    rounded: &mut RoundedLayers,
    rows: Vec<Row>,
    answers: Vec<Answer>,
) -> Result<(), Error> {
    if rows.is_empty() || rounded.is_empty() {
        return Ok(());
    }
    let scales = train_scales(model, rounded)?;
    let mut examples = Vec::with_capacity(rows.len());
    for (mut row, answer) in rows.into_iter().zip(answers) {
        if model.head == Head::CausalLm {
            row.pass.output = wanted(model.network(), &answer)?;
        }
        examples.push(Example { row, answer });
    }
    let adam = Adam { beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.0 };
    let mut optimizer = Optimizer::new(&scales, &Optim::AdamW(adam), 0)?;
    let count = u32::try_from(examples.len()).unwrap_or(u32::MAX);
    let steps = EPOCHS * u64::from(count).div_ceil(TOGETHER as u64);
    let (mut step, first) = (0, scales.iter().map(|scale| scale.stage).min().unwrap_or(0));
    for epoch in 0..EPOCHS {
        let (mut apart, mut seen) = (0.0, 0.0);
        for numbers in permutation(0, epoch, count).chunks(TOGETHER) {
            let batch: Vec<&Example> =
                numbers.iter().filter_map(|number| examples.get(*number as usize)).collect();
            let weight: f64 = batch.iter().map(|example| example.weight(model)).sum();
            for example in batch {
                apart += backward(model, example, first, 1.0 / weight)?;
            }
            seen += weight;
            step += 1;
            // The first step's rate is not 0, nor the last one's.
            optimizer.step(schedule::rate(&SCHEDULE, step, steps + 1))?;
            for scale in &scales {
                set_grad(&scale.tensor, None).map_err(ModelError::from)?;
            }
        }
        let (epoch, apart) = (epoch + 1, apart / seen);
        tracing::info!(
            "scales: pass {epoch} of {EPOCHS}, answers {apart:.4} nats from the original's"
        );
    }
    tch::no_grad(|| settle(model, rounded, &scales))?;
    Ok(())
}

/// What a language model's last stage is to give for a row: the divergence from the answer, summed
/// over tokens.
fn wanted(network: &dyn Network, answer: &Answer) -> Result<Output, ModelError> {
    let weight = network.head_weight();
    let weight = weight.ok_or(ModelError::Pass("a head that is no product cannot be tuned for"))?;
    let hidden = answer.said.shallow_clone();
    let teacher = TeacherOutput { hidden, weight, temperature: 1.0, alpha: 1.0 };
    let targets = answer.ids.f_flatten(0, -1)?;
    Ok(Output::Distillation { targets, label_smoothing: 0.0, teacher })
}

/// Has the scales of rounded layers trained; the leaves.
fn train_scales(model: &mut Model, rounded: &RoundedLayers) -> Result<Vec<Parameter>, ModelError> {
    let mut scales = Vec::new();
    replace(model, rounded, |stage, name, layer, bias| {
        let stepped = Stepped::new(layer, bias)?;
        let tensor = stepped.change.shallow_clone();
        scales.push(Parameter { name: name.to_owned(), tensor, role: Role::Plain, stage });
        Ok(LinearKind::Other(Box::new(stepped)))
    })?;
    Ok(scales)
}

/// Puts what was learned into `rounded`, and what that stands for into the model.
fn settle(
    model: &mut Model,
    rounded: &mut RoundedLayers,
    scales: &[Parameter],
) -> Result<(), ModelError> {
    for scale in scales {
        let Some(layer) = rounded.get_mut(&scale.name) else { continue };
        layer.scales = moved(&layer.scales, &scale.tensor.f_detach()?.f_squeeze_dim(-1)?)?;
    }
    replace(model, rounded, |_, _, layer, bias| {
        Ok(LinearKind::Dense { weight: layer.dequantize()?, bias })
    })
}

/// Puts other layers in place of those that were rounded, each made of its stage, its name, its
/// numbers and its bias.
fn replace(
    model: &mut Model,
    rounded: &RoundedLayers,
    mut make: impl FnMut(usize, &str, &Rounded, Option<Tensor>) -> Result<LinearKind, ModelError>,
) -> Result<(), ModelError> {
    let mut outcome = Ok(());
    for stage in 0..model.network().stages() {
        model.network_mut().stage_mut(stage).linears_mut(&mut |linear| {
            let Some(layer) = rounded.get(&linear.name) else { return };
            let bias = match &mut linear.kind {
                LinearKind::Dense { bias, .. } => bias.take(),
                LinearKind::Other(op) => op.take_bias(),
            };
            match make(stage, &linear.name, layer, bias) {
                Ok(kind) => linear.kind = kind,
                Err(error) => outcome = Err(error),
            }
        });
    }
    outcome
}

/// Adds what a row says of the scales, times `share`, to their gradients; its divergence, in nats.
/// Stages before `first` have none.
fn backward(
    model: &Model,
    Example { row, answer }: &Example,
    first: usize,
    share: f64,
) -> Result<f64, ModelError> {
    let (network, pass) = (model.network(), &row.pass);
    let last = network.stages() - 1;
    let mut inputs = vec![answer.ids.shallow_clone()];
    tch::no_grad(|| {
        for stage in 0..last {
            inputs.push(network.forward(stage, &inputs[stage], pass)?);
        }
        Ok::<_, ModelError>(())
    })?;
    let leaf = |stage: usize| inputs[stage].f_detach()?.f_set_requires_grad(true);
    let input = leaf(last)?;
    let said = network.forward(last, &input, pass)?;
    let apart = match model.head {
        Head::CausalLm => said,
        Head::Classifier(_) => divergence(&said, &answer.said, 1.0)?.f_sum(Kind::Float)?,
    };
    autograd::backward(&[&apart.f_mul_scalar(share)?], &[None], false)?;
    let mut gradient = input.f_grad()?;
    for stage in (first..last).rev() {
        let input = leaf(stage)?;
        let output = network.forward(stage, &input, pass)?;
        autograd::backward(&[&output], &[Some(&gradient)], false)?;
        gradient = input.f_grad()?;
    }
    Ok(f64::try_from(&apart)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tensors::round;
    use super::*;
    use crate::model::{ModelConfig, Pass, Weights, load_of};

    const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);
    const VOCABULARY: i64 = 40;
    const WIDTH: i64 = 64;

    /// A small Llama of random weights, a language model or a classifier.
    fn model(classifies: bool) -> Model {
        let mut config = serde_json::json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY,
            "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "max_position_embeddings": 512, "tie_word_embeddings": true,
        });
        if classifies {
            config["architectures"] = serde_json::json!(["LlamaForSequenceClassification"]);
            config["id2label"] = serde_json::json!({"0": "a", "1": "b", "2": "c"});
            config["label2id"] = serde_json::json!({"a": 0, "b": 1, "c": 2});
        }
        let home = tempfile::tempdir().unwrap();
        std::fs::File::create(home.path().join("config.json"))
            .and_then(|file| Ok(serde_json::to_writer(file, &config)?))
            .unwrap();
        tch::manual_seed(4);
        let drawn = |rows: i64| Tensor::randn([rows, WIDTH], CPU) * 0.3;
        let mut tensors = BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), drawn(VOCABULARY)),
            ("model.norm.weight".to_owned(), Tensor::ones([WIDTH], CPU)),
            ("score.weight".to_owned(), drawn(3)),
        ]);
        for layer in 0..2 {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                let name = format!("model.layers.{layer}.{norm}.weight");
                tensors.insert(name, Tensor::ones([WIDTH], CPU));
            }
            for part in ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o"]
                .into_iter()
                .chain(["mlp.gate", "mlp.up", "mlp.down"])
            {
                let rows = if part.ends_with(['k', 'v']) { WIDTH / 2 } else { WIDTH };
                tensors.insert(format!("model.layers.{layer}.{part}_proj.weight"), drawn(rows));
            }
        }
        let config = ModelConfig::read(home.path()).unwrap();
        let hash = blake3::hash(b"weights");
        let weights = Weights::of(tensors, home.path(), (config.family.prefix(), hash));
        load_of(&config, &weights, Device::Cpu, &|_, _, _| Ok(None)).unwrap()
    }

    fn rows(model: &Model) -> Vec<Row> {
        let row = |number: i64| {
            let tokens = 9 + number % 4 + 300 * i64::from(number == 2);
            let ids = Tensor::arange(tokens, (Kind::Int64, Device::Cpu)) * (number + 1) + number;
            let pass = Pass::decoder(model.network(), tokens, Device::Cpu, Dropout::Off).unwrap();
            Row { hidden: ids.remainder(VOCABULARY).unsqueeze(0), pass }
        };
        (0..64).map(row).collect()
    }

    /// Rounds the layers of the blocks, each number to the nearest.
    fn rounded(model: &mut Model) -> RoundedLayers {
        let mut layers = RoundedLayers::new();
        for linear in model.linears() {
            if let LinearKind::Dense { weight, .. } = &linear.kind
                && linear.name.starts_with("model.layers")
            {
                layers.insert(linear.name.clone(), round(weight, 4, Some(32)).unwrap());
            }
        }
        replace(model, &layers, |_, _, layer, bias| {
            Ok(LinearKind::Dense { weight: layer.dequantize()?, bias })
        })
        .unwrap();
        layers
    }

    /// Examples of a model that is rounded, with its answers from before.
    fn examples(model: &mut Model) -> (RoundedLayers, Vec<Example>) {
        let mut shown = rows(model);
        let answers = answers(model, &mut shown).unwrap();
        let layers = rounded(model);
        let network = model.network();
        let example = |(mut row, answer): (Row, Answer)| {
            if model.head == Head::CausalLm {
                row.pass.output = wanted(network, &answer).unwrap();
            }
            Example { row, answer }
        };
        (layers, shown.into_iter().zip(answers).map(example).collect())
    }

    #[test]
    fn gradients_stage_by_stage_are_those_of_one_graph() {
        for classifies in [false, true] {
            let mut model = model(classifies);
            let (layers, examples) = examples(&mut model);
            let scales = train_scales(&mut model, &layers).unwrap();
            let example = &examples[2];
            let apart = backward(&model, example, 1, 0.5).unwrap();
            let staged: Vec<Tensor> = scales.iter().map(|scale| scale.tensor.grad()).collect();
            let mut hidden = example.answer.ids.shallow_clone();
            for scale in &scales {
                set_grad(&scale.tensor, None).unwrap();
            }
            for stage in 0..model.network().stages() {
                hidden = model.network().forward(stage, &hidden, &example.row.pass).unwrap();
            }
            if classifies {
                hidden = divergence(&hidden, &example.answer.said, 1.0).unwrap().sum(Kind::Float);
            }
            assert!((hidden.double_value(&[]) - apart).abs() < 1e-5, "{apart}");
            assert!(apart > 1e-3, "rounding changed nothing");
            (hidden * 0.5).backward();
            for (scale, staged) in scales.iter().zip(&staged) {
                let whole = scale.tensor.grad();
                assert!(staged.allclose(&whole, 1e-4, 1e-6, false), "{}", scale.name);
            }
            assert!(staged.iter().any(|gradient| gradient.abs().max().double_value(&[]) > 1e-3));
            for (scale, gradient) in scales.iter().zip(&staged) {
                let apart = |step: f64| {
                    let moved = gradient * (step / gradient.norm().double_value(&[]));
                    tch::no_grad(|| scale.tensor.shallow_clone().copy_(&moved));
                    let again = backward(&model, example, 1, 0.5).unwrap();
                    let _ = tch::no_grad(|| scale.tensor.shallow_clone().zero_());
                    0.5 * again
                };
                let slope = (apart(0.02) - apart(-0.02)) / 0.04;
                let told = gradient.norm().double_value(&[]);
                let off = (slope - told).abs() / told.max(1e-3);
                assert!(off < 0.05, "{}: {slope} is not {told}", scale.name);
            }
        }
    }

    #[test]
    fn answers_come_nearer_and_whole_numbers_stay() {
        for classifies in [false, true] {
            let mut tuned = model(classifies);
            let mut shown = rows(&tuned);
            let before = answers(&tuned, &mut shown).unwrap();
            let mut layers = rounded(&mut tuned);
            let numbers = |layers: &RoundedLayers| -> Vec<Tensor> {
                layers.values().map(|layer| layer.values.copy()).collect()
            };
            let whole = numbers(&layers);
            let apart = |model: &Model| -> f64 {
                let mut shown = rows(model);
                let now = answers(model, &mut shown).unwrap();
                let pairs = now.iter().zip(&before);
                pairs.map(|(now, before)| (&now.said - &before.said).norm().double_value(&[])).sum()
            };
            let far = apart(&tuned);
            let kept = answers_of(&before);
            tune(&mut tuned, &mut layers, shown, kept).unwrap();
            let near = apart(&tuned);
            // 32 steps move a scale by a hundredth or so.
            assert!(near < 0.99 * far, "{near} from {far}");
            assert!(numbers(&layers).iter().zip(&whole).all(|(now, then)| now.equal(then)));
            for linear in tuned.linears() {
                let Some(layer) = layers.get(&linear.name) else { continue };
                let LinearKind::Dense { weight, .. } = &linear.kind else { panic!("{linear:?}") };
                assert!(weight.equal(&layer.dequantize().unwrap()), "{}", linear.name);
            }
        }
    }

    fn answers_of(answers: &[Answer]) -> Vec<Answer> {
        let copy = |answer: &Answer| Answer {
            ids: answer.ids.shallow_clone(),
            said: answer.said.shallow_clone(),
        };
        answers.iter().map(copy).collect()
    }
}
