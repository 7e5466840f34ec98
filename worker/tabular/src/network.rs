//! Networks of tables: their shapes, what they take of a row, and what computes them.
//!
//! No tensor is here: what has libtorch implements [`Network`]. Everything else of a model (calibration,
//! threshold, figures, drift, requests) is the same as of trees.

use std::fmt;

use hearth_crds::tabular::{Neural, NeuralArchitecture};
use serde::{Deserialize, Serialize};

use crate::config::Task;
use crate::error::Result;
use crate::features::{Feature, Features};
use crate::normal::quantile;
use crate::table::Table;

/// Most quantiles of a column of numbers, and rows for each of them, as the paper's code has it
/// (`lib/data.py`, `normalize`).
const MOST_QUANTILES: usize = 1000;
const LEAST_QUANTILES: usize = 10;
const ROWS_A_QUANTILE: usize = 30;

/// What computes raw scores. Threads may share it.
pub trait Scorer: fmt::Debug + Send + Sync {
    /// Raw scores, `[rows, classes]`, of values, `[rows, features]`: log-odds, what a softmax takes, or
    /// the prediction itself.
    fn scores(&self, values: &[f64]) -> Result<Vec<f64>>;
}

/// A network that learned a table.
pub trait Network: Scorer {
    /// What moves the raw score of each row's class, `[rows, features + 1]`, the base value last. A
    /// row sums to its raw score.
    fn contributions(&self, values: &[f64], classes: &[usize]) -> Result<Vec<f64>>;

    /// Its weights as a safetensors file; the same bytes for the same weights.
    fn weights(&self) -> Result<Vec<u8>>;
}

/// A network's architecture with its sizes. Names are those of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "architecture", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Shape {
    /// Linear layers.
    #[serde(rename = "MLP")]
    Mlp {
        /// Hidden layers.
        layers: usize,
        /// Neurons of each.
        width: usize,
        /// Share of them that was dropped in training.
        dropout: f64,
        /// Numbers of a category's value.
        d_embedding: usize,
    },
    /// A transformer over columns.
    #[serde(rename = "FTTransformer")]
    FtTransformer {
        /// Blocks.
        blocks: usize,
        /// Numbers of a token.
        d_token: usize,
        /// Heads of attention.
        attention_heads: usize,
        /// Neurons of a feed-forward layer behind ReGLU.
        ffn_hidden: usize,
        /// Share of attention that was dropped in training.
        attention_dropout: f64,
        /// Share of feed-forward neurons that was.
        ffn_dropout: f64,
        /// Share of what layers add that was.
        residual_dropout: f64,
    },
}

impl Shape {
    /// What a job asks for.
    pub fn of(asked: &Neural) -> Self {
        let whole = |number: i32| usize::try_from(number).unwrap_or(1).max(1);
        match asked.architecture {
            NeuralArchitecture::MLP => Self::Mlp {
                layers: whole(asked.layers.unwrap_or(2)),
                width: whole(asked.width.unwrap_or(384)),
                dropout: asked.dropout.unwrap_or(0.1),
                d_embedding: whole(asked.d_embedding.unwrap_or(64)),
            },
            NeuralArchitecture::FTTransformer => {
                let d_token = whole(asked.token_width());
                let multiplier = asked.ffn_hidden_multiplier.unwrap_or(4.0 / 3.0);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "rounded down, as the reference does; below 2^17"
                )]
                let ffn_hidden = ((d_token as f64 * multiplier) as usize).max(1);
                Self::FtTransformer {
                    blocks: whole(asked.block_count()),
                    d_token,
                    attention_heads: whole(asked.heads()),
                    ffn_hidden,
                    attention_dropout: asked
                        .attention_dropout
                        .unwrap_or(asked.by_blocks([0.1, 0.15, 0.2, 0.25, 0.3, 0.35])),
                    ffn_dropout: asked
                        .ffn_dropout
                        .unwrap_or(asked.by_blocks([0.0, 0.05, 0.1, 0.15, 0.2, 0.25])),
                    residual_dropout: asked.residual_dropout.unwrap_or(0.0),
                }
            }
        }
    }

    /// `architectures` of a model's directory.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mlp { .. } => "MLP",
            Self::FtTransformer { .. } => "FTTransformer",
        }
    }

    /// What is wrong with one that was read from a file.
    fn fault(&self) -> Option<&'static str> {
        const MOST: usize = 1 << 17;
        let (sizes, shares) = match self {
            Self::Mlp { layers, width, dropout, d_embedding } => {
                (vec![*layers, *width, *d_embedding], vec![*dropout])
            }
            Self::FtTransformer {
                blocks,
                d_token,
                attention_heads,
                ffn_hidden,
                attention_dropout,
                ffn_dropout,
                residual_dropout,
            } => {
                if *attention_heads == 0 || !d_token.is_multiple_of(*attention_heads) {
                    return Some("dToken is no multiple of attentionHeads");
                }
                (
                    vec![*blocks, *d_token, *ffn_hidden],
                    vec![*attention_dropout, *ffn_dropout, *residual_dropout],
                )
            }
        };
        let good = sizes.iter().all(|size| (1..=MOST).contains(size))
            && shares.iter().all(|share| (0.0..1.0).contains(share));
        (!good).then_some("the network's sizes are none")
    }
}

/// What a network is besides its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its architecture.
    pub shape: Shape,
    /// How each feature is given to it.
    pub columns: Vec<Encoding>,
    /// Of a regression, what its answers are multiplied by and moved by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Scale>,
    /// Decided its first weights, its order of rows, and dropout.
    pub seed: i64,
    /// Optimizer steps that made its weights.
    pub steps: u64,
}

/// Mean and standard deviation of what a regression predicts, over training rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scale {
    /// Mean.
    pub mean: f64,
    /// Standard deviation; 1 where there is none.
    pub deviation: f64,
}

/// How a feature is given to a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Encoding {
    /// A number becomes a normal quantile: that of its rank among training rows.
    Number {
        /// Quantiles of training rows, evenly spaced.
        quantiles: Vec<f64>,
        /// Training rows that have it.
        rows: u64,
        /// Whether training rows without it told what to do without it. Else it is as the median.
        missing: bool,
        /// Whether most training rows lack it.
        mostly_missing: bool,
    },
    /// A value's number; the one behind them is of all other values, the next of a missing one.
    Category {
        /// Values that are told apart.
        values: usize,
        /// The most frequent number.
        most_frequent: usize,
    },
}

/// Rows as a network takes them: numbers first, then categories, each in the order of the features.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codes {
    /// `[rows, numbers]`; 0 where missing.
    pub numbers: Vec<f32>,
    /// `[rows, numbers]`; 1 where missing, else 0.
    pub missing: Vec<f32>,
    /// `[rows, categories]`.
    pub categories: Vec<i64>,
}

impl Encoding {
    fn learn(feature: &Feature, column: impl Iterator<Item = f64>) -> Self {
        if let Some(vocabulary) = &feature.vocabulary {
            let values = vocabulary.len();
            let mut counts = vec![0_u64; values + 2];
            column.for_each(|value| counts[code(value, values)] += 1);
            // Of equally frequent ones the first.
            let most_frequent = (0..counts.len()).rev().max_by_key(|code| counts[*code]);
            return Self::Category { values, most_frequent: most_frequent.unwrap_or(0) };
        }
        let mut known: Vec<f64> = Vec::new();
        let mut missing = 0_usize;
        for value in column {
            if value.is_nan() { missing += 1 } else { known.push(value) }
        }
        known.sort_unstable_by(f64::total_cmp);
        let wanted = (known.len() / ROWS_A_QUANTILE).clamp(LEAST_QUANTILES, MOST_QUANTILES);
        let last = known.len().saturating_sub(1) as f64;
        let at = |part: usize| {
            let place = last * part as f64 / (wanted - 1) as f64;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a row's number"
            )]
            let low = place as usize;
            let high = (low + 1).min(known.len() - 1);
            known[low] + (known[high] - known[low]) * (place - low as f64)
        };
        let quantiles =
            if known.is_empty() { Vec::new() } else { (0..wanted).map(at).collect::<Vec<f64>>() };
        Self::Number {
            quantiles,
            rows: known.len() as u64,
            missing: missing > 0,
            mostly_missing: missing > known.len(),
        }
    }

    /// What is wrong with one that was read from a file.
    fn fault(&self, feature: &Feature) -> bool {
        match (self, &feature.vocabulary) {
            (Self::Number { quantiles, .. }, None) => {
                !quantiles.is_sorted() || !quantiles.iter().all(|value| value.is_finite())
            }
            (Self::Category { values, most_frequent }, Some(vocabulary)) => {
                *values != vocabulary.len() || *most_frequent >= values + 2
            }
            _ => true,
        }
    }

    /// Whether it is of a number.
    pub fn is_number(&self) -> bool {
        matches!(self, Self::Number { .. })
    }
}

/// A category's number, of NaN that of a missing value.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number")]
fn code(value: f64, values: usize) -> usize {
    if value.is_nan() { values + 1 } else { (value as usize).min(values) }
}

/// The normal quantile of a number's rank among training rows, as scikit-learn's `QuantileTransformer`
/// with `output_distribution="normal"`, but that numbers that several rows share have the middle of
/// their ranks at both ends, too, and that none is beyond half a training row.
fn rank(value: f64, quantiles: &[f64], rows: u64) -> f64 {
    let (Some(first), Some(last)) = (quantiles.first(), quantiles.last()) else { return 0.0 };
    // All training rows have the same number: another one tells nothing.
    if first >= last {
        return 0.0;
    }
    let (below, up_to) = (
        quantiles.partition_point(|known| *known < value),
        quantiles.partition_point(|known| *known <= value),
    );
    let place = if below < up_to {
        (below + up_to - 1) as f64 / 2.0
    } else if below == 0 || below == quantiles.len() {
        below.min(quantiles.len() - 1) as f64
    } else {
        let (low, high) = (quantiles[below - 1], quantiles[below]);
        (below - 1) as f64 + (value - low) / (high - low)
    };
    let half = 0.5 / rows.max(2) as f64;
    quantile((place / (quantiles.len() - 1) as f64).clamp(half, 1.0 - half))
}

impl NetworkConfig {
    /// A raw score in the unit of what is predicted, of one in the unit that was learned.
    pub fn unscaled(&self, score: f64) -> f64 {
        self.target.map_or(score, |scale| scale.mean + scale.deviation * score)
    }

    /// The other way round.
    pub fn scaled(&self, score: f64) -> f64 {
        self.target.map_or(score, |scale| (score - scale.mean) / scale.deviation)
    }

    /// Learns how rows are given to a network of training rows.
    pub fn learn(shape: Shape, train: &Table, seed: i64) -> Self {
        let features = train.features();
        let width = features.features.len();
        let column = |number: usize| train.values().iter().skip(number).step_by(width).copied();
        let numbered = features.features.iter().enumerate();
        let columns = numbered.map(|(number, feature)| Encoding::learn(feature, column(number)));
        let regression = features.task == Task::TabularRegression;
        Self {
            shape,
            columns: columns.collect(),
            target: regression.then(|| Scale::of(train.labels())),
            seed,
            steps: 0,
        }
    }

    /// What is wrong with one that was read from a file.
    pub(crate) fn fault(&self, features: &Features) -> Option<String> {
        let regression = features.task == Task::TabularRegression;
        let scale = self.target.is_none_or(|scale| {
            scale.mean.is_finite() && scale.deviation > 0.0 && scale.deviation.is_finite()
        });
        if self.columns.len() != features.features.len() || self.target.is_some() != regression {
            return Some("the network is of other features or another task".to_owned());
        }
        let mut both = self.columns.iter().zip(&features.features);
        if let Some((_, feature)) = both.find(|(column, feature)| column.fault(feature)) {
            return Some(format!("the encoding of the feature {:?} is none", feature.name));
        }
        let scale = (!scale).then_some("the scale of what is predicted is none");
        self.shape.fault().or(scale).map(str::to_owned)
    }

    /// Columns of numbers.
    pub fn numbers(&self) -> usize {
        self.columns.iter().filter(|column| column.is_number()).count()
    }

    /// Values of each category, without the entries for others and missing ones.
    pub fn categories(&self) -> Vec<usize> {
        let values = self.columns.iter().filter_map(|column| match column {
            Encoding::Category { values, .. } => Some(*values),
            Encoding::Number { .. } => None,
        });
        values.collect()
    }

    /// Numbers of the features in the order in which a network takes them.
    pub fn order(&self) -> Vec<usize> {
        let all = || self.columns.iter().enumerate();
        let numbers = all().filter(|(_, column)| column.is_number());
        let categories = all().filter(|(_, column)| !column.is_number());
        numbers.chain(categories).map(|(number, _)| number).collect()
    }

    /// Values, `[rows, features]`, as the network takes them.
    pub fn encode(&self, values: &[f64]) -> Codes {
        let mut codes = Codes::default();
        for row in values.chunks_exact(self.columns.len().max(1)) {
            for (value, column) in row.iter().zip(&self.columns) {
                match column {
                    Encoding::Number { quantiles, rows, missing, .. } => {
                        let lacks = value.is_nan();
                        let number = if lacks { 0.0 } else { rank(*value, quantiles, *rows) };
                        #[expect(
                            clippy::cast_possible_truncation,
                            reason = "networks have 32 bits"
                        )]
                        codes.numbers.push(number as f32);
                        codes.missing.push(f32::from(u8::from(lacks && *missing)));
                    }
                    Encoding::Category { values, .. } => {
                        let code = code(*value, *values);
                        codes.categories.push(i64::try_from(code).unwrap_or(i64::MAX));
                    }
                }
            }
        }
        codes
    }

    /// A row that explanations start from: medians, or missing where most training rows miss it, and
    /// the most frequent categories.
    pub fn baseline(&self) -> Codes {
        let mut codes = Codes::default();
        for column in &self.columns {
            match column {
                Encoding::Number { mostly_missing, .. } => {
                    codes.numbers.push(0.0);
                    codes.missing.push(f32::from(u8::from(*mostly_missing)));
                }
                Encoding::Category { most_frequent, .. } => {
                    codes.categories.push(i64::try_from(*most_frequent).unwrap_or(i64::MAX));
                }
            }
        }
        codes
    }
}

impl Scale {
    fn of(labels: &[f64]) -> Self {
        let rows = labels.len().max(1) as f64;
        let mean = labels.iter().sum::<f64>() / rows;
        let squares: f64 = labels.iter().map(|label| (label - mean) * (label - mean)).sum();
        let deviation = (squares / rows).sqrt();
        Self { mean, deviation: if deviation > 0.0 { deviation } else { 1.0 } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::ValueType;

    fn feature(vocabulary: Option<&[&str]>) -> Feature {
        Feature {
            name: "x".to_owned(),
            type_: if vocabulary.is_some() { ValueType::Text } else { ValueType::Number },
            missing: true,
            vocabulary: vocabulary
                .map(|values| values.iter().map(|value| (*value).to_owned()).collect()),
        }
    }

    fn config(columns: Vec<Encoding>) -> NetworkConfig {
        let shape = Shape::Mlp { layers: 1, width: 1, dropout: 0.0, d_embedding: 1 };
        NetworkConfig { shape, columns, target: None, seed: 0, steps: 0 }
    }

    #[test]
    fn numbers_become_the_quantiles_of_their_ranks() {
        let column = Encoding::learn(&feature(None), (0..=1000).map(f64::from));
        let config = config(vec![column]);
        let of = |value: f64| f64::from(config.encode(&[value]).numbers[0]);
        // The median, and where a normal distribution has 97.5 % below.
        assert!(of(500.0).abs() < 1e-6);
        assert!((of(975.0) - 1.959_964).abs() < 1e-3, "{}", of(975.0));
        assert!((of(25.0) + of(975.0)).abs() < 1e-5);
        // Whatever is beyond is as far as half a row.
        assert!(
            (of(1000.0) - of(1e9)).abs() < 1e-6 && (3.2..3.4).contains(&of(1e9)),
            "{}",
            of(1e9)
        );
        assert_eq!(
            config.encode(&[f64::NAN]),
            Codes {
                numbers: vec![0.0],
                // No training row missed it.
                missing: vec![0.0],
                categories: vec![],
            }
        );
    }

    #[test]
    fn shared_numbers_have_the_middle_of_their_ranks() {
        // Three of four are 0: the middle of their ranks is at 3/8, that of 1 at 7/8.
        let column = Encoding::learn(&feature(None), (0..4000).map(|row| f64::from(row % 4 / 3)));
        let config = config(vec![column]);
        let codes = config.encode(&[0.0, 1.0]);
        assert!((f64::from(codes.numbers[0]) + 0.3186).abs() < 0.03, "{codes:?}");
        assert!((f64::from(codes.numbers[1]) - 1.1503).abs() < 0.03, "{codes:?}");
        let same = Encoding::learn(&feature(None), [5.0, f64::NAN, 5.0, f64::NAN].into_iter());
        let config = self::config(vec![same]);
        let codes = config.encode(&[5.0, 9.0, f64::NAN]);
        assert_eq!((codes.numbers, codes.missing), (vec![0.0; 3], vec![0.0, 0.0, 1.0]));
    }

    #[test]
    fn categories_have_entries_for_others_and_for_none() {
        let values = [0.0, 0.0, 1.0, f64::NAN, f64::NAN, f64::NAN];
        let column = Encoding::learn(&feature(Some(&["a", "b"])), values.into_iter());
        assert_eq!(column, Encoding::Category { values: 2, most_frequent: 3 });
        let number = Encoding::learn(&feature(None), (0..100).map(f64::from));
        let config = config(vec![column, number]);
        let codes = config.encode(&[1.0, 3.0, 2.0, 4.0, f64::NAN, 5.0]);
        assert_eq!(codes.categories, [1, 2, 3]);
        assert_eq!((config.order(), config.categories()), (vec![1, 0], vec![2]));
        assert_eq!(
            config.baseline(),
            Codes { numbers: vec![0.0], missing: vec![0.0], categories: vec![3] }
        );
    }

    #[test]
    fn defaults_are_those_of_the_reference() {
        let asked = |json: &str| Shape::of(&serde_json::from_str(json).unwrap());
        assert_eq!(
            asked(r#"{"architecture": "FTTransformer"}"#),
            Shape::FtTransformer {
                blocks: 3,
                d_token: 192,
                attention_heads: 8,
                ffn_hidden: 256,
                attention_dropout: 0.2,
                ffn_dropout: 0.1,
                residual_dropout: 0.0,
            }
        );
        let shape = asked(r#"{"architecture": "FTTransformer", "blocks": 9, "dToken": 16}"#);
        let Shape::FtTransformer { d_token, ffn_hidden, ffn_dropout, .. } = &shape else {
            panic!("{shape:?}")
        };
        assert_eq!((*d_token, *ffn_hidden), (16, 21));
        assert!((ffn_dropout - 0.25).abs() < 1e-12);
        let mlp = asked(r#"{"architecture": "MLP"}"#);
        assert_eq!(mlp, Shape::Mlp { layers: 2, width: 384, dropout: 0.1, d_embedding: 64 });
        for shape in [shape, mlp] {
            let text = serde_json::to_string(&shape).unwrap();
            assert_eq!(serde_json::from_str::<Shape>(&text).unwrap(), shape, "{text}");
        }
    }
}
