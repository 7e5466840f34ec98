use std::sync::Arc;

use hearth_crds::training_arguments::{IntervalStrategy, LrSchedulerType, TrainingArguments};
use hearth_tabular::{
    Codes, Encoding, Feature, Features, Model, Network, NetworkConfig, Parts, Prediction, Recipe,
    Scorer, Shape, Table, Task, ValueType,
};
use rand_chacha::rand_core::RngCore as _;
use serde_json::json;
use tch::{Kind, Tensor};

use super::checkpoint::Checkpoint;
use super::explain::{completed, gradients};
use super::net::{Batch, Net, Noise};
use super::tensors::{Maker, Source, values};
use super::train::{Asked, Told, horizon, learn};
use super::{TableNetwork, load};
use crate::data::order::generator;
use crate::error::Error;

/// `x`, sometimes missing; the category `c` of two values; `y`.
fn features(labels: &[&str]) -> Arc<Features> {
    let feature = |name: &str, missing, vocabulary: Option<&[&str]>| Feature {
        name: name.to_owned(),
        type_: if vocabulary.is_some() { ValueType::Text } else { ValueType::Number },
        missing,
        vocabulary: vocabulary.map(|of| of.iter().map(|value| (*value).to_owned()).collect()),
    };
    Arc::new(Features {
        task: if labels.is_empty() { Task::TabularRegression } else { Task::TabularClassification },
        label: "label".to_owned(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        features: vec![
            feature("x", true, None),
            feature("c", false, Some(&["a", "b"])),
            feature("y", false, None),
        ],
        lists: Vec::new(),
        left_out: Vec::new(),
    })
}

/// Rows whose label follows from them.
fn table(
    features: &Arc<Features>,
    (rows, seed): (usize, i64),
    label: impl Fn(f64, f64, f64) -> f64,
) -> Table {
    let mut random = generator(seed, "rows of a test", 0);
    let mut even = || 2.0 * f64::from(random.next_u32()) / f64::from(u32::MAX) - 1.0;
    let (mut values, mut labels) = (Vec::new(), Vec::new());
    for row in 0..rows {
        let (x, c, y) = (even(), f64::from(u8::from(even() > 0.2)), even());
        labels.push(label(x, c, y));
        values.extend([if row % 20 == 0 { f64::NAN } else { x }, c, y]);
    }
    Table::of(Arc::clone(features), values, labels).unwrap()
}

/// 1 where `x` and `y` are on different sides.
fn apart(x: f64, _: f64, y: f64) -> f64 {
    f64::from(u8::from((x > 0.0) != (y > 0.0)))
}

/// A plane, with a step by the category.
fn plane(x: f64, c: f64, y: f64) -> f64 {
    100.0 + 30.0 * x + 40.0 * c - 20.0 * y
}

fn mlp() -> Shape {
    Shape::Mlp { layers: 2, width: 64, dropout: 0.05, d_embedding: 4 }
}

fn transformer() -> Shape {
    Shape::FtTransformer {
        blocks: 2,
        d_token: 16,
        attention_heads: 4,
        ffn_hidden: 32,
        attention_dropout: 0.05,
        ffn_dropout: 0.05,
        residual_dropout: 0.02,
    }
}

fn training(epochs: f64) -> TrainingArguments {
    TrainingArguments {
        per_device_train_batch_size: 50,
        learning_rate: 5e-3,
        weight_decay: 1e-5,
        num_train_epochs: epochs,
        lr_scheduler_type: LrSchedulerType::Constant,
        seed: 7,
        ..TrainingArguments::default()
    }
}

fn asked(shape: Shape, training: &TrainingArguments) -> Asked<'_> {
    Asked { shape, training, label_weights: None, fingerprint: "f" }
}

#[expect(clippy::unnecessary_wraps, reason = "as those that end training")]
fn go(_: &Told<'_>) -> Result<(), Error> {
    Ok(())
}

fn learned(
    shape: Shape,
    training: &TrainingArguments,
    train: &Table,
) -> (NetworkConfig, TableNetwork) {
    learn(&asked(shape, training), (train, None), None, &mut go).unwrap()
}

/// A configuration of one number and one category of one value.
fn small(shape: Shape) -> NetworkConfig {
    let number = Encoding::Number {
        quantiles: vec![0.0, 1.0],
        rows: 2,
        missing: true,
        mostly_missing: false,
    };
    let category = Encoding::Category { values: 1, most_frequent: 0 };
    NetworkConfig { shape, columns: vec![number, category], target: None, seed: 0, steps: 0 }
}

/// Two rows of it: 0.5 and the value behind the known ones, and a missing number with another.
fn two_rows(config: &NetworkConfig, categories: [i64; 2]) -> Batch {
    let codes =
        Codes { numbers: vec![0.5, 0.0], missing: vec![0.0, 1.0], categories: categories.to_vec() };
    Batch::new(config, &codes, 2).unwrap()
}

fn fresh(config: &NetworkConfig, classes: usize) -> Net {
    let source = Source::Drawn(Box::new(generator(3, "test", 0)));
    Net::new(config, classes, Maker::new(source)).unwrap()
}

fn set(net: &Net, name: &str, to: &[f32]) {
    let parameter = net.parameters().iter().find(|parameter| parameter.name == name);
    let mut tensor = parameter.unwrap_or_else(|| panic!("no {name}")).tensor.shallow_clone();
    let to = Tensor::from_slice(to).view(tensor.size().as_slice());
    tch::no_grad(|| tensor.copy_(&to));
}

fn close(got: &Tensor, want: &[f32]) {
    let got = values(got).unwrap();
    assert_eq!(got.len(), want.len());
    for (one, other) in got.iter().zip(want) {
        assert!((one - other).abs() < 1e-4, "{got:?} is not {want:?}");
    }
}

#[test]
fn an_mlp_is_computed_as_by_hand() {
    let config = small(Shape::Mlp { layers: 1, width: 2, dropout: 0.5, d_embedding: 1 });
    let net = fresh(&config, 1);
    set(&net, "cat_embeddings.embeddings.0.weight", &[1.0, 2.0, 3.0]);
    // Of the number, of whether it is missing, of the category.
    set(&net, "blocks.0.linear.weight", &[1.0, 2.0, 3.0, -1.0, 0.0, 1.0]);
    set(&net, "blocks.0.linear.bias", &[0.5, -4.0]);
    set(&net, "output.weight", &[2.0, -1.0]);
    set(&net, "output.bias", &[0.25]);
    let embedded = net.embed(&two_rows(&config, [1, 2])).unwrap();
    close(&embedded, &[0.5, 0.0, 2.0, 0.0, 1.0, 3.0]);
    // Hidden: (0.5 + 6 + 0.5, -0.5 + 2 - 4) and (2 + 9 + 0.5, 3 - 4), of which ReLU keeps the first.
    close(&net.score(&embedded, &mut Noise::Off).unwrap(), &[14.25, 23.25]);
    close(&net.by_feature(&embedded).unwrap(), &[0.5, 2.0, 1.0, 3.0]);
}

#[test]
fn tokens_and_blocks_are_computed_as_by_hand() {
    let shape = Shape::FtTransformer {
        blocks: 1,
        d_token: 2,
        attention_heads: 1,
        ffn_hidden: 1,
        attention_dropout: 0.0,
        ffn_dropout: 0.0,
        residual_dropout: 0.0,
    };
    let config = small(shape);
    let net = fresh(&config, 1);
    set(&net, "cont_embeddings.weight", &[2.0, -1.0]);
    set(&net, "cont_embeddings.bias", &[0.5, 1.0]);
    set(&net, "cont_embeddings.missing", &[7.0, 8.0]);
    set(&net, "cat_embeddings.embeddings.0.weight", &[1.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    set(&net, "cat_embeddings.bias", &[0.1, 0.2]);
    let tokens = net.embed(&two_rows(&config, [1, 2])).unwrap();
    assert_eq!(tokens.size(), [2, 2, 2]);
    close(&tokens, &[1.5, 0.5, 2.1, 3.2, 7.5, 9.0, 4.1, 5.2]);
    close(&net.by_feature(&tokens).unwrap(), &[2.0, 5.3, 16.5, 9.3]);

    for parameter in net.parameters() {
        if parameter.name.contains("attention.") || parameter.name.contains("ffn.") {
            let mut tensor = parameter.tensor.shallow_clone();
            let _ = tch::no_grad(|| tensor.zero_());
        }
    }
    set(&net, "cls_embedding.weight", &[1.0, -1.0]);
    set(&net, "backbone.output.linear.weight", &[3.0, 5.0]);
    set(&net, "backbone.output.linear.bias", &[0.25]);
    let score = |net: &Net| net.score(&tokens, &mut Noise::Off).unwrap();
    // Nothing is added to [CLS]: its norm is (1, -1), of which ReLU leaves (1, 0).
    close(&score(&net), &[3.25, 3.25]);
    // Attention weights sum to 1, so that the value's bias is added: (1, 5), whose norm is (-1, 1).
    set(&net, "backbone.blocks.0.attention.W_v.bias", &[0.0, 6.0]);
    close(&score(&net), &[5.25, 5.25]);
    // ReGLU of (-2, 3) is -6; twice that is taken from the second: (1, -7), whose norm is (1, -1).
    set(&net, "backbone.blocks.0.ffn.linear1.bias", &[-2.0, 3.0]);
    set(&net, "backbone.blocks.0.ffn.linear2.weight", &[0.0, 2.0]);
    close(&score(&net), &[3.25, 3.25]);
}

#[test]
fn attention_looks_where_keys_are_like_the_query() {
    let shape = Shape::FtTransformer {
        blocks: 1,
        d_token: 2,
        attention_heads: 1,
        ffn_hidden: 1,
        attention_dropout: 0.0,
        ffn_dropout: 0.0,
        residual_dropout: 0.0,
    };
    let config = small(shape);
    let net = fresh(&config, 1);
    for parameter in net.parameters() {
        if parameter.name.contains("attention.") || parameter.name.contains("ffn.") {
            let mut tensor = parameter.tensor.shallow_clone();
            let _ = tch::no_grad(|| tensor.zero_());
        }
    }
    // Queries ask for the first number, which is 100 of the category's token alone; values are tokens.
    set(&net, "cls_embedding.weight", &[1.0, 0.0]);
    for part in ["W_q", "W_k", "W_v"] {
        let name = format!("backbone.blocks.0.attention.{part}.weight");
        set(&net, &name, &[1.0, 0.0, 0.0, 1.0]);
    }
    set(&net, "backbone.output.linear.weight", &[3.0, 5.0]);
    set(&net, "backbone.output.linear.bias", &[0.0]);
    let tokens = Tensor::from_slice(&[0.0f32, 900.0, 100.0, 300.0]).view([1, 2, 2]);
    // [CLS] becomes (1, 0) + (100, 300), whose norm is (-1, 1).
    close(&net.score(&tokens, &mut Noise::Off).unwrap(), &[5.0]);
    // And (1, 0) + (300, 100), whose norm is (1, -1): a mean of all tokens would have (-1, 1).
    let tokens = Tensor::from_slice(&[0.0f32, 900.0, 300.0, 100.0]).view([1, 2, 2]);
    close(&net.score(&tokens, &mut Noise::Off).unwrap(), &[3.0]);
}

/// Numbers of a fixture.
fn list<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Vec<T> {
    serde_json::from_value(value.clone()).unwrap()
}

/// As tests/parity/table_networks.py has them of PyTorch's modules, which agree with
/// rtdl_revisiting_models.
#[test]
fn scores_and_gradients_are_those_of_pytorch() {
    let examples: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../../../tests/parity/fixtures/table_networks.json"))
            .unwrap();
    assert_eq!(examples.len(), 2);
    for example in &examples {
        let number = Encoding::Number {
            quantiles: vec![0.0, 1.0],
            rows: 2,
            missing: true,
            mostly_missing: false,
        };
        let mut columns = vec![number.clone(), number];
        for values in list::<usize>(&example["values"]) {
            columns.push(Encoding::Category { values, most_frequent: 0 });
        }
        let shape = serde_json::from_value(example["shape"].clone()).unwrap();
        let config = NetworkConfig { shape, columns, target: None, seed: 0, steps: 0 };
        let tensors = example["tensors"].as_object().unwrap().iter().map(|(name, tensor)| {
            let shape: Vec<i64> = list(&tensor["shape"]);
            let values: Vec<f32> = list(&tensor["values"]);
            (name.clone(), Tensor::from_slice(&values).view(shape.as_slice()))
        });
        let classes = usize::try_from(example["classes"].as_u64().unwrap()).unwrap();
        let net = Net::new(&config, classes, Maker::new(Source::Read(tensors.collect()))).unwrap();
        let codes = Codes {
            numbers: list(&example["numbers"]),
            missing: list(&example["missing"]),
            categories: list(&example["categories"]),
        };
        let batch = Batch::new(&config, &codes, 5).unwrap();
        let base = Batch::new(&config, &config.baseline(), 1).unwrap();
        let score = |batch: &Batch| net.score(&net.embed(batch).unwrap(), &mut Noise::Off).unwrap();
        close(&score(&batch), &list::<f32>(&example["scores"]));
        close(&score(&base), &list::<f32>(&example["base"]));
        let found = gradients(&net, (&batch, &base), &[classes - 1; 5]).unwrap();
        let want: Vec<f64> = list(&example["gradients"]);
        assert_eq!(found.parts.len(), want.len());
        let greatest = want.iter().fold(0.0, |greatest: f64, part| greatest.max(part.abs()));
        for (got, want) in found.parts.iter().zip(&want) {
            assert!((got - want).abs() < 0.05 * greatest, "{:?} is not {want:?}", found.parts);
        }
    }
}

#[test]
fn raw_scores_have_the_shape_of_rows_and_classes() {
    let number = || Encoding::Number {
        quantiles: vec![0.0, 1.0, 2.0],
        rows: 3,
        missing: false,
        mostly_missing: false,
    };
    let category = |values| Encoding::Category { values, most_frequent: 0 };
    for columns in
        [vec![number(), category(3), number()], vec![number()], vec![category(2), category(5)]]
    {
        for (shape, heads) in [(mlp(), 0), (transformer(), 4), (transformer(), 1)] {
            let shape = match shape {
                Shape::FtTransformer { blocks, d_token, ffn_hidden, .. } => Shape::FtTransformer {
                    blocks,
                    d_token,
                    attention_heads: heads,
                    ffn_hidden,
                    attention_dropout: 0.5,
                    ffn_dropout: 0.5,
                    residual_dropout: 0.5,
                },
                other @ Shape::Mlp { .. } => other,
            };
            let config =
                NetworkConfig { shape, columns: columns.clone(), target: None, seed: 0, steps: 0 };
            for classes in [1, 3] {
                let net = fresh(&config, classes);
                let rows: Vec<f64> = vec![1.0; 5 * columns.len()];
                let batch = Batch::new(&config, &config.encode(&rows), 5).unwrap();
                let embedded = net.embed(&batch).unwrap();
                for mut noise in
                    [Noise::Off, Noise::On(Box::new(generator(1, "noise of a test", 0)))]
                {
                    let scores = net.score(&embedded, &mut noise).unwrap();
                    let classes = i64::try_from(classes).unwrap();
                    assert_eq!(scores.size(), [5, classes], "{config:?}");
                }
                let own = net.by_feature(&embedded).unwrap();
                assert_eq!(own.size(), [5, i64::try_from(columns.len()).unwrap()]);
            }
        }
    }
}

#[test]
fn different_sides_are_told_apart_and_planes_are_found() {
    for shape in [mlp(), transformer()] {
        let of = features(&["same", "apart"]);
        let (train, other) = (table(&of, (1500, 1), apart), table(&of, (500, 2), apart));
        let training = training(25.0);
        let (_, network) = learned(shape.clone(), &training, &train);
        let scores = network.scores(other.values()).unwrap();
        let right = scores.iter().zip(other.labels());
        let right = right.filter(|(score, label)| (**score > 0.0) == (**label > 0.5)).count();
        // Of one constant answer, about 250 are right; of 5 %, `x` is not known.
        assert!(right > 425, "{shape:?}: {right} of 500 are right");

        let of = features(&[]);
        let (train, other) = (table(&of, (1500, 1), plane), table(&of, (500, 2), plane));
        let (_, network) = learned(shape.clone(), &training, &train);
        let scores = network.scores(other.values()).unwrap();
        let mean = other.labels().iter().sum::<f64>() / 500.0;
        let errors = |answer: &dyn Fn(usize) -> f64| -> f64 {
            other
                .labels()
                .iter()
                .enumerate()
                .map(|(row, label)| (answer(row) - label).powi(2))
                .sum()
        };
        let share = errors(&|row| scores[row]) / errors(&|_| mean);
        assert!(share < 0.2, "{shape:?}: {share} of the variance is left");
    }
}

#[test]
fn several_labels_are_told_apart() {
    let of = features(&["low", "middle", "high"]);
    let kind = |x: f64, _: f64, y: f64| f64::from(u8::from(x > y)) + f64::from(u8::from(y < 0.0));
    let train = table(&of, (1200, 1), kind);
    let (_, network) = learned(mlp(), &training(15.0), &train);
    let scores = network.scores(train.values()).unwrap();
    let right = scores.chunks_exact(3).zip(train.labels()).filter(|(scores, label)| {
        let best = (0..3).max_by(|one, other| scores[*one].total_cmp(&scores[*other])).unwrap();
        (best as f64 - **label).abs() < 0.5
    });
    let right = right.count();
    assert!(right > 960, "{right} of 1200 are right");
}

#[test]
fn weights_of_labels_move_probabilities() {
    let of = features(&["often", "seldom"]);
    let rare = |x: f64, _: f64, _: f64| f64::from(u8::from((x * 1e4).rem_euclid(10.0) < 1.0));
    let train = table(&of, (1000, 1), rare);
    let training = training(3.0);
    let mean = |label_weights| {
        let asked = Asked { label_weights, ..asked(mlp(), &training) };
        let (_, network) = learn(&asked, (&train, None), None, &mut go).unwrap();
        let scores = network.scores(train.values()).unwrap();
        scores.iter().map(|score| 1.0 / (1.0 + (-score).exp())).sum::<f64>() / 1000.0
    };
    let (plain, weighted) = (mean(None), mean(Some(vec![1.0, 9.0])));
    assert!(weighted > plain + 0.2, "{plain} and {weighted}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let train = table(&features(&["same", "apart"]), (300, 1), apart);
    for shape in [mlp(), transformer()] {
        let of = |seed| {
            let training = TrainingArguments { seed, ..training(2.0) };
            learned(shape.clone(), &training, &train).1.weights().unwrap()
        };
        assert!(of(7) == of(7), "{shape:?}");
        assert!(of(7) != of(8), "{shape:?}");
    }
}

#[test]
fn training_goes_on_as_if_it_had_not_ended() {
    let of = features(&["same", "apart"]);
    let (train, eval) = (table(&of, (230, 1), apart), table(&of, (100, 2), apart));
    let training = TrainingArguments {
        eval_strategy: IntervalStrategy::Epoch,
        early_stopping_patience: Some(50),
        lr_scheduler_type: LrSchedulerType::Cosine,
        warmup_steps: 4.0,
        ..training(4.5)
    };
    // 5 steps an epoch, the last of them short, and 3 of the last half.
    assert_eq!(horizon(&training, 230).total, 23);
    for shape in [mlp(), transformer()] {
        let asked = asked(shape, &training);
        let mut all = Vec::new();
        let note = |told: &Told<'_>| (told.step, told.loss, told.grad_norm, told.best);
        let whole = learn(&asked, (&train, Some(&eval)), None, &mut |told| {
            all.push(note(told));
            Ok(())
        });
        let (config, network) = whole.unwrap();
        for stops in [3, 10, 22] {
            let mut kept = Vec::new();
            let ended = learn(&asked, (&train, Some(&eval)), None, &mut |told| {
                if told.step == stops {
                    kept = told.checkpoint()?;
                    return Err(Error::Terminated { step: 0 });
                }
                Ok(())
            });
            assert!(matches!(ended, Err(Error::Terminated { .. })), "{:?}", asked.shape);
            let from = Checkpoint::read(&kept, "f").unwrap();
            assert_eq!(from.position().step(), stops);
            let mut rest = Vec::new();
            let resumed = learn(&asked, (&train, Some(&eval)), Some(&from), &mut |told| {
                rest.push(note(told));
                Ok(())
            });
            let (same, resumed) = resumed.unwrap();
            let done = usize::try_from(stops).unwrap();
            assert_eq!(all[done..], rest, "{:?} from {stops}", asked.shape);
            assert_eq!(same, config);
            assert!(resumed.weights().unwrap() == network.weights().unwrap(), "{stops}");
            let other = Checkpoint::read(&kept, "g").err().unwrap();
            assert!(other.contains("other settings"), "{other}");
            let cut = Checkpoint::read(&kept[..kept.len() - 1], "f").err().unwrap();
            assert!(cut.contains("no whole safetensors file"), "{cut}");
        }
    }
}

#[test]
fn training_stops_early_with_the_best_weights() {
    let of = features(&["one", "other"]);
    // Labels that follow from nothing: what is learned of them is wrong of other rows.
    let noise = |x: f64, _: f64, y: f64| (((x + 3.0 * y) * 1e6).rem_euclid(2.0)).floor().min(1.0);
    let (train, eval) = (table(&of, (200, 1), noise), table(&of, (200, 2), noise));
    let training = TrainingArguments {
        eval_strategy: IntervalStrategy::Epoch,
        early_stopping_patience: Some(3),
        ..training(300.0)
    };
    let mut evaluations = Vec::new();
    let asked = asked(mlp(), &training);
    let (config, network) = learn(&asked, (&train, Some(&eval)), None, &mut |told| {
        evaluations.extend(told.evaluation.map(|found| (told.step, found.loss)));
        Ok(())
    })
    .unwrap();
    let lowest =
        evaluations.iter().min_by(|(_, one), (_, other)| one.total_cmp(other)).copied().unwrap();
    assert_eq!(config.steps, lowest.0);
    assert_eq!(evaluations.last().unwrap().0, lowest.0 + 3 * 4, "{evaluations:?}");
    let scores = network.scores(eval.values()).unwrap();
    let loss = |(score, label): (&f64, &f64)| {
        let sign = 2.0 * label - 1.0;
        (1.0 + (-sign * score).exp()).ln()
    };
    let mean = scores.iter().zip(eval.labels()).map(loss).sum::<f64>() / 200.0;
    assert!((mean - lowest.1).abs() < 1e-5, "{mean} is not {lowest:?}");
}

#[test]
fn a_loss_that_is_not_finite_ends_training() {
    let train = table(&features(&[]), (100, 1), plane);
    let training = TrainingArguments { learning_rate: 1e30, max_grad_norm: 0.0, ..training(20.0) };
    let ended = learn(&asked(mlp(), &training), (&train, None), None, &mut go);
    assert!(matches!(ended.err().unwrap(), Error::NotFinite { .. }));
}

fn model(features: &Arc<Features>, (config, network): (NetworkConfig, TableNetwork)) -> Model {
    let parts = Parts {
        features: Arc::clone(features),
        recipe: Recipe::Network(config),
        rules: None,
        calibration: None,
        threshold: None,
        metrics: None,
        reference: None,
    };
    Model::of_network(Box::new(network), parts).unwrap()
}

#[test]
fn missing_and_unseen_values_have_finite_scores() {
    let of = features(&["same", "apart"]);
    let train = table(&of, (300, 1), apart);
    for shape in [mlp(), transformer()] {
        let (_, network) = learned(shape, &training(2.0), &train);
        // Unseen, missing, and far beyond all training rows.
        let rows = [f64::NAN, 2.0, 0.5, 0.1, f64::NAN, f64::NAN, 1e300, 1.0, -1e300, 0.1, 0.0, 0.2];
        let scores = network.scores(&rows).unwrap();
        assert_eq!(scores.len(), 4);
        assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
        assert!((scores[0] - scores[3]).abs() > 1e-6, "{scores:?}");
        let told = network.contributions(&rows, &[0; 4]).unwrap();
        assert!(told.iter().all(|part| part.is_finite()), "{told:?}");
    }
}

#[test]
fn contributions_sum_to_the_score_and_name_the_right_features() {
    for shape in [mlp(), transformer()] {
        let of = features(&[]);
        let train = table(&of, (1000, 1), plane);
        let (config, network) = learned(shape.clone(), &training(15.0), &train);
        // The most frequent category, and a median of `x`.
        let baseline = config.baseline();
        let frequent = baseline.categories[0] as f64;
        let Encoding::Number { quantiles, .. } = &config.columns[0] else { panic!("no number") };
        let middle = quantiles.len() / 2;
        let median =
            f64::midpoint(quantiles[middle - (quantiles.len() + 1) % 2], quantiles[middle]);
        let rows = [median, frequent, 0.9, 0.8, 1.0 - frequent, -0.7, f64::NAN, 2.0, 0.1];
        let scores = network.scores(&rows).unwrap();
        let told = network.contributions(&rows, &[0; 3]).unwrap();
        for (row, score) in told.chunks_exact(4).zip(&scores) {
            let sum: f64 = row.iter().sum();
            assert!((sum - score).abs() < 1e-3, "{shape:?}: {row:?} sums to {sum}, not {score}");
        }
        // All of it is by `y`, which makes the answer lower.
        assert!(told[0].abs() < 0.05 && told[1].abs() < 1e-9, "{shape:?}: {told:?}");
        assert!(told[2] < -5.0, "{shape:?}: {told:?}");
        assert!(told[4] > 5.0 && told[6] > 5.0, "{shape:?}: {told:?}");

        let batch = Batch::new(&config, &config.encode(&rows), 3).unwrap();
        let base = Batch::new(&config, &baseline, 1).unwrap();
        let net = network.net.lock().unwrap();
        let found = gradients(&net, (&batch, &base), &[0; 3]).unwrap();
        for (row, parts) in found.parts.chunks_exact(3).enumerate() {
            let whole = found.scores[row] - found.bases[row];
            let residual = (whole - parts.iter().sum::<f64>()).abs();
            assert!(residual < 0.05 * (1.0 + whole.abs()), "{shape:?}: {residual} of {whole}");
        }
    }
}

#[test]
fn what_is_missing_of_the_whole_is_shared_by_size() {
    let parts = completed(&[1.0, -3.0], 0.0);
    assert!((parts[0] - 1.5).abs() < 1e-12 && (parts[1] + 1.5).abs() < 1e-12, "{parts:?}");
    let parts = completed(&[0.0, 0.0], 1.0);
    assert!((parts[0] - 0.5).abs() < 1e-12 && (parts[1] - 0.5).abs() < 1e-12, "{parts:?}");
}

#[test]
fn a_saved_network_says_the_same_and_explains_it() {
    let kind =
        |x: f64, c: f64, y: f64| f64::from(u8::from(x > y)) + c * f64::from(u8::from(y < 0.0));
    for (labels, label) in [
        (&["same", "apart"][..], &apart as &dyn Fn(f64, f64, f64) -> f64),
        (&["low", "middle", "high"][..], &kind),
        (&[][..], &plane),
    ] {
        for shape in [mlp(), transformer()] {
            let of = features(labels);
            let train = table(&of, (200, 1), label);
            let model = model(&of, learned(shape, &training(2.0), &train));
            let directory = tempfile::tempdir().unwrap();
            model.save(directory.path()).unwrap();
            let read = load(directory.path()).unwrap();
            assert_eq!(read.parts(), model.parts());
            let rows = [
                json!({"x": 0.4, "c": "b", "y": -0.2}),
                json!({"x": null, "c": "unheard of", "y": 3.0}),
            ];
            let rows = rows.map(|row| row.as_object().unwrap().clone());
            let told = read.predict(&rows).unwrap();
            assert_eq!(told, model.predict(&rows).unwrap());
            for prediction in read.predict_rows(&read.encode(&rows).unwrap(), 2).unwrap() {
                let (Prediction::Label(hearth_tabular::LabelPrediction { explanation, .. })
                | Prediction::Number(hearth_tabular::NumberPrediction { explanation, .. })) =
                    prediction;
                let why = explanation.unwrap();
                let sum: f64 = why.contributions.iter().map(|part| part.contribution).sum();
                let sum = why.base + sum + why.others;
                assert!((sum - why.raw_score).abs() < 1e-3, "{why:?}");
                assert_eq!(why.contributions.len(), 2);
            }
            assert!(Model::load(directory.path()).unwrap_err().to_string().contains("a network"));
        }
    }
}

#[test]
fn weights_of_another_network_are_refused_by_name() {
    let train = table(&features(&["same", "apart"]), (100, 1), apart);
    let (config, network) = learned(mlp(), &training(1.0), &train);
    let bytes = network.weights().unwrap();
    let refused = |config: &NetworkConfig, classes, bytes: &[u8]| {
        TableNetwork::read(config, classes, bytes).err().unwrap().to_string()
    };
    let told = refused(&config, 3, &bytes);
    assert!(told.contains("output.weight") && told.contains("[3, 64]"), "{told}");
    let shape = Shape::Mlp { layers: 3, width: 64, dropout: 0.0, d_embedding: 4 };
    let told = refused(&NetworkConfig { shape, ..config.clone() }, 1, &bytes);
    assert!(told.contains("blocks.2.linear.weight is missing"), "{told}");
    let shape = Shape::Mlp { layers: 1, width: 64, dropout: 0.0, d_embedding: 4 };
    let told = refused(&NetworkConfig { shape, ..config.clone() }, 1, &bytes);
    assert!(told.contains("blocks.1.linear") && told.contains("none of the network"), "{told}");
    let told = refused(&config, 1, &bytes[..bytes.len() - 4]);
    assert!(told.contains("no whole safetensors file"), "{told}");
    assert!(TableNetwork::read(&config, 1, &bytes).is_ok());
}

#[test]
fn about_the_asked_share_is_dropped() {
    let ones = || Tensor::ones([100, 1000], (Kind::Float, tch::Device::Cpu));
    let mut noise = Noise::On(Box::new(generator(1, "noise of a test", 1)));
    let kept = values(&noise.drop(ones(), 0.3).unwrap()).unwrap();
    let zeros = kept.iter().filter(|value| **value == 0.0).count();
    assert!((29_000..31_000).contains(&zeros), "{zeros}");
    assert!(kept.iter().all(|value| *value == 0.0 || (value - 1.0 / 0.7).abs() < 1e-6));
    let all = values(&Noise::Off.drop(ones(), 0.3).unwrap()).unwrap();
    assert!(all.iter().all(|value| (value - 1.0).abs() < 1e-6));
}
