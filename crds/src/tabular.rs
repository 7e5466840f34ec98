//! `spec.tabular` of a TrainingJob: how rows of a table are learned.

#![allow(unreachable_pub, reason = "kube's derives repeat the structs in a private scope")]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training_arguments::{IntervalStrategy, TrainingArguments};

/// How rows of a table are learned: by gradient-boosted trees, or by a network. Nothing to start from is
/// needed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.features) || !has(self.exclude)").message("set tabular.features or tabular.exclude, not both").field_path(".exclude"),
    validation = Rule::new("!has(self.trees) || !has(self.neural)").message("set tabular.trees or tabular.neural, not both").field_path(".neural"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tabular {
    /// Columns to learn from. Where left out, all but the label, `exclude`, the field that rows
    /// are split by, times, and texts of which no two are alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub features: Vec<String>,
    /// Columns not to learn from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub exclude: Vec<String>,
    /// Columns of numbers that are names of kinds, and have no order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub categorical: Vec<String>,
    /// The trees; with their defaults where `neural` is left out, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trees: Option<Trees>,
    /// A network in place of trees; `training` says how it is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neural: Option<Neural>,
    /// TabularClassification: how scores become probabilities, learned from rows that were held out.
    #[serde(default)]
    pub calibration: Calibration,
    /// TabularClassification with two labels: from which probability on a row gets the second one, in
    /// the order of their names; 0.5 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
}

/// Gradient-boosted trees, under LightGBM's names (scikit-learn's interface) and with its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Trees {
    /// Trees, of each class where there are more than two.
    #[schemars(range(min = 1, max = 100_000))]
    pub n_estimators: i32,
    /// Most leaves of a tree.
    #[schemars(range(min = 2, max = 1024))]
    pub num_leaves: i32,
    /// Most levels of a tree; as many as it takes where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_depth: Option<i32>,
    /// What each tree's answer is multiplied by.
    #[schemars(range(min = 1e-6, max = 1.0))]
    pub learning_rate: f64,
    /// Fewest training rows of a leaf.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub min_child_samples: i32,
    /// Share of the rows that a tree is grown from, drawn anew every `subsampleFreq` trees.
    #[schemars(range(min = 0.001, max = 1.0))]
    pub subsample: f64,
    /// Trees that are grown from the same rows; 0 draws none, and then `subsample` is 1.
    #[schemars(range(min = 0, max = 100_000))]
    pub subsample_freq: i32,
    /// Share of the columns that a tree is grown from.
    #[schemars(range(min = 0.001, max = 1.0))]
    pub colsample_bytree: f64,
    /// L1 regularisation of leaves.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub reg_alpha: f64,
    /// L2 regularisation of leaves.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub reg_lambda: f64,
    /// Most intervals that a column's numbers are told apart by.
    #[schemars(range(min = 2, max = 65_535))]
    pub max_bin: i32,
    /// Stop once the loss of the rows for evaluation was not lower for so many trees, and keep those that
    /// were best.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub early_stopping_rounds: Option<i32>,
}

impl Default for Trees {
    fn default() -> Self {
        Self {
            n_estimators: 100,
            num_leaves: 31,
            max_depth: None,
            learning_rate: 0.1,
            min_child_samples: 20,
            subsample: 1.0,
            subsample_freq: 0,
            colsample_bytree: 1.0,
            reg_alpha: 0.0,
            reg_lambda: 0.0,
            max_bin: 255,
            early_stopping_rounds: None,
        }
    }
}

/// A network that learns rows of a table (Gorishniy et al. 2021, "Revisiting Deep Learning Models for
/// Tabular Data"). Defaults are those of its reference implementation, `rtdl_revisiting_models`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.architecture == 'MLP' || !(has(self.layers) || has(self.width) || has(self.dropout) || has(self.dEmbedding))").message("layers, width, dropout and dEmbedding are of architecture MLP: remove them").field_path(".architecture"),
    validation = Rule::new("self.architecture == 'FTTransformer' || !(has(self.blocks) || has(self.dToken) || has(self.attentionHeads) || has(self.ffnHiddenMultiplier) || has(self.attentionDropout) || has(self.ffnDropout) || has(self.residualDropout))").message("blocks, dToken, attentionHeads, ffnHiddenMultiplier, attentionDropout, ffnDropout and residualDropout are of architecture FTTransformer: remove them").field_path(".architecture"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Neural {
    /// Which network.
    pub architecture: NeuralArchitecture,
    /// MLP: hidden layers; 2 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub layers: Option<i32>,
    /// MLP: neurons of a hidden layer; 384 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8192))]
    pub width: Option<i32>,
    /// MLP: share of a hidden layer's neurons that is dropped in training; 0.1 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: Option<f64>,
    /// MLP: numbers that a category's value becomes; 64 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub d_embedding: Option<i32>,
    /// FTTransformer: blocks of attention and feed-forward layer; 3 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub blocks: Option<i32>,
    /// FTTransformer: numbers of a token, of which each column is one; a multiple of `attentionHeads`.
    /// Where left out 96, 128, 192, 256, 320 and 384 with 1 to 6 blocks and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub d_token: Option<i32>,
    /// FTTransformer: heads of attention; 8 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub attention_heads: Option<i32>,
    /// FTTransformer: neurons of a feed-forward layer behind ReGLU, as a multiple of `dToken`; 4/3
    /// where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.1, max = 16.0))]
    pub ffn_hidden_multiplier: Option<f64>,
    /// FTTransformer: share of attention that is dropped in training. Where left out 0.1, 0.15, 0.2,
    /// 0.25, 0.3 and 0.35 with 1 to 6 blocks and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub attention_dropout: Option<f64>,
    /// FTTransformer: share of feed-forward neurons that is dropped in training. Where left out 0,
    /// 0.05, 0.1, 0.15, 0.2 and 0.25 with 1 to 6 blocks and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub ffn_dropout: Option<f64>,
    /// FTTransformer: share of what layers add to tokens that is dropped in training; 0 where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub residual_dropout: Option<f64>,
}

/// A network's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NeuralArchitecture {
    /// Columns become tokens, which attend to one another.
    FTTransformer,
    /// Linear layers with ReLU and dropout.
    MLP,
}

impl Neural {
    /// Names of the settings of `training` that networks of tables read.
    pub const TRAINING: &str = "perDeviceTrainBatchSize, learningRate, lrSchedulerType, warmupSteps, \
        weightDecay, adamBeta1, adamBeta2, adamEpsilon, maxGradNorm, numTrainEpochs, maxSteps, loggingSteps, \
        evalStrategy (No or Epoch), earlyStoppingPatience, earlyStoppingThreshold and seed";

    /// What is wrong with the settings: where, and a sentence.
    pub fn fault(&self) -> Option<(&'static str, String)> {
        const OTHERS: &str = "spec.tabular.neural.architecture";
        let mlp = self.layers.is_some()
            || self.width.is_some()
            || self.dropout.is_some()
            || self.d_embedding.is_some();
        let transformer = self.blocks.is_some()
            || self.d_token.is_some()
            || self.attention_heads.is_some()
            || self.ffn_hidden_multiplier.is_some()
            || self.attention_dropout.is_some()
            || self.ffn_dropout.is_some()
            || self.residual_dropout.is_some();
        match self.architecture {
            NeuralArchitecture::MLP if transformer => {
                Some((OTHERS, "MLP has layers, width, dropout and dEmbedding alone".to_owned()))
            }
            NeuralArchitecture::FTTransformer if mlp => Some((
                OTHERS,
                "FTTransformer has no layers, width, dropout or dEmbedding".to_owned(),
            )),
            NeuralArchitecture::MLP => None,
            NeuralArchitecture::FTTransformer => {
                let (width, heads) = (self.token_width(), self.heads());
                (heads < 1 || width % heads != 0).then(|| {
                    let problem = format!("dToken {width} is no multiple of {heads} heads");
                    ("spec.tabular.neural.attentionHeads", problem)
                })
            }
        }
    }

    /// Numbers of a token: `dToken`, or what `blocks` have where it is left out.
    pub fn token_width(&self) -> i32 {
        self.d_token.unwrap_or(self.by_blocks([96, 128, 192, 256, 320, 384]))
    }

    /// Heads of attention.
    pub fn heads(&self) -> i32 {
        self.attention_heads.unwrap_or(8)
    }

    /// Blocks of attention.
    pub fn block_count(&self) -> i32 {
        self.blocks.unwrap_or(3)
    }

    /// What a default is with that many blocks (`get_default_kwargs` of the reference).
    pub fn by_blocks<T: Copy>(&self, of: [T; 6]) -> T {
        let blocks = usize::try_from(self.block_count()).unwrap_or(1);
        of[blocks.clamp(1, of.len()) - 1]
    }

    /// Of `training` what networks of tables read, and the defaults of all else.
    pub fn training(asked: &TrainingArguments) -> TrainingArguments {
        let strategy = asked.eval_strategy;
        let evaluates = strategy == IntervalStrategy::Epoch;
        TrainingArguments {
            per_device_train_batch_size: asked.per_device_train_batch_size,
            learning_rate: asked.learning_rate,
            lr_scheduler_type: asked.lr_scheduler_type,
            warmup_steps: asked.warmup_steps,
            weight_decay: asked.weight_decay,
            adam_beta1: asked.adam_beta1,
            adam_beta2: asked.adam_beta2,
            adam_epsilon: asked.adam_epsilon,
            max_grad_norm: asked.max_grad_norm,
            num_train_epochs: asked.num_train_epochs,
            max_steps: asked.max_steps,
            logging_steps: asked.logging_steps,
            eval_strategy: if evaluates { strategy } else { IntervalStrategy::No },
            early_stopping_patience: asked.early_stopping_patience,
            early_stopping_threshold: asked.early_stopping_threshold,
            seed: asked.seed,
            ..TrainingArguments::default()
        }
    }
}

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Calibration {
    /// As the model gives them.
    #[default]
    None,
    /// A logistic curve (Platt 1999): for few rows.
    Sigmoid,
    /// Steps that rise (isotonic regression, Zadrozny and Elkan 2002): for a thousand rows and more.
    Isotonic,
}

/// The probability from which on a row gets the second of two labels, by what it comes to on rows that
/// were held out.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("[has(self.falsePositiveRate), has(self.recall), has(self.precision), has(self.value)].filter(x, x).size() == 1").message("a threshold takes one of falsePositiveRate, recall, precision and value"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Threshold {
    /// Most rows of the first label that get the second, as a share of the first's: of those, the
    /// threshold with the highest recall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub false_positive_rate: Option<f64>,
    /// Fewest rows of the second label that get it, as a share: of those, the threshold with the
    /// lowest false positive rate. 1 less this is the miss rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub recall: Option<f64>,
    /// Least share of rows that get the second label and have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub precision: Option<f64>,
    /// The probability itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub value: Option<f64>,
}
