//! Hyperparameters under Hugging Face's names (`transformers.TrainingArguments`,
//! 5.x), in camelCase.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of a training run. Names and defaults are those of
/// `transformers.TrainingArguments` unless a field says otherwise;
/// docs/training-arguments.md has what became of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of transformers'")]
pub struct TrainingArguments {
    /// Samples that one process takes in one forward pass.
    #[schemars(range(min = 1, max = 65536))]
    pub per_device_train_batch_size: i32,
    /// Samples that one process evaluates at once.
    #[schemars(range(min = 1, max = 65536))]
    pub per_device_eval_batch_size: i32,
    /// Halve `perDeviceTrainBatchSize` and double `gradientAccumulationSteps` when
    /// memory runs out, until a batch fits; the batch of a step stays the same.
    pub auto_find_batch_size: bool,
    /// Forward passes whose gradients are summed before an optimizer step.
    #[schemars(range(min = 1, max = 65536))]
    pub gradient_accumulation_steps: i32,
    /// Divide the loss by the tokens (or rows) of all ranks' part of a step; false
    /// averages the ranks' own means.
    pub average_tokens_across_devices: bool,
    /// Peak learning rate, after warm-up.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub learning_rate: f64,
    /// Before the first step, try 100 growing learning rates from the start weights,
    /// and tell where the loss falls fastest (Hearth's own; Smith 2017).
    pub learning_rate_range_test: bool,
    /// Decoupled weight decay, on every weight but biases and norms.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// AdamW's decay of the gradient's mean.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub adam_beta1: f64,
    /// AdamW's decay of the gradient's square.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub adam_beta2: f64,
    /// AdamW's term against division by zero.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub adam_epsilon: f64,
    /// SGD's share of the step before (`optim_args` of transformers).
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub momentum: f64,
    /// Gradients are scaled to at most this L2 norm; 0 turns clipping off.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub max_grad_norm: f64,
    /// What happens when a loss or gradient is not finite.
    pub on_non_finite: OnNonFinite,
    /// Share of each target that is spread over all classes or tokens.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub label_smoothing_factor: f64,
    /// Passes over the training data; a fraction is allowed.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub num_train_epochs: f64,
    /// Optimizer steps; overrides `numTrainEpochs` where positive.
    #[schemars(range(min = -1, max = 1_000_000_000))]
    pub max_steps: i64,
    /// Shape of the learning rate after warm-up.
    pub lr_scheduler_type: LrSchedulerType,
    /// Steps of linear warm-up from 0; below 1 it is a fraction of all steps.
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub warmup_steps: f64,
    /// Optimizer steps between reports of the training loss.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub logging_steps: i64,
    /// Report the first step, too.
    pub logging_first_step: bool,
    /// When to evaluate.
    pub eval_strategy: IntervalStrategy,
    /// Steps between evaluations with `evalStrategy: Steps`; `loggingSteps` where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub eval_steps: Option<i64>,
    /// Evaluate before the first step, too.
    pub eval_on_start: bool,
    /// Steps (or epochs with `evalStrategy: Epoch`) before the first evaluation.
    #[schemars(range(min = 0.0, max = 1_000_000_000.0))]
    pub eval_delay: f64,
    /// Stop after so many evaluations in a row without a better
    /// `metricForBestModel` (`EarlyStoppingCallback`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub early_stopping_patience: Option<i32>,
    /// How much better it must be to count.
    #[schemars(range(min = 0.0, max = 1_000_000.0))]
    pub early_stopping_threshold: f64,
    /// When to save a checkpoint.
    pub save_strategy: IntervalStrategy,
    /// Steps between checkpoints with `saveStrategy: Steps`.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub save_steps: i64,
    /// Export the best checkpoint, not the last. Needs equal eval and save
    /// strategies, with `saveSteps` a multiple of `evalSteps`.
    pub load_best_model_at_end: bool,
    /// What "best" means. Losses are better when lower, all else when higher.
    pub metric_for_best_model: Metric,
    /// Optimizer.
    pub optim: Optimizer,
    /// Compute in bfloat16 with float32 master weights.
    pub bf16: bool,
    /// Recompute activations in the backward pass to save memory.
    pub gradient_checkpointing: bool,
    /// Megabytes of gradients that ranks exchange at once; 25 where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub ddp_bucket_cap_mb: Option<i32>,
    /// Order in which training rows are taken.
    pub train_sampling_strategy: TrainSamplingStrategy,
    /// Leave out the rows at the end of an epoch that do not fill a batch.
    pub dataloader_drop_last: bool,
    /// Only deterministic GPU kernels, which are slower. On CPUs all are.
    pub full_determinism: bool,
    /// Seed of shuffling, initialisation and dropout.
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// Seed of shuffling alone; `seed` where left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub data_seed: Option<i64>,
    /// Tokens after which a sample is cut (TRL's `SFTConfig.max_length`).
    #[schemars(range(min = 1, max = 1_048_576))]
    pub max_length: i32,
}

impl Default for TrainingArguments {
    fn default() -> Self {
        Self {
            per_device_train_batch_size: 8,
            per_device_eval_batch_size: 8,
            auto_find_batch_size: false,
            gradient_accumulation_steps: 1,
            average_tokens_across_devices: true,
            learning_rate: 5e-5,
            learning_rate_range_test: false,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            momentum: 0.0,
            max_grad_norm: 1.0,
            on_non_finite: OnNonFinite::Stop,
            label_smoothing_factor: 0.0,
            num_train_epochs: 3.0,
            max_steps: -1,
            lr_scheduler_type: LrSchedulerType::Linear,
            warmup_steps: 0.0,
            logging_steps: 10,
            logging_first_step: false,
            eval_strategy: IntervalStrategy::No,
            eval_steps: None,
            eval_on_start: false,
            eval_delay: 0.0,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            save_strategy: IntervalStrategy::Steps,
            save_steps: 500,
            load_best_model_at_end: false,
            metric_for_best_model: Metric::Loss,
            optim: Optimizer::AdamW,
            bf16: false,
            gradient_checkpointing: false,
            ddp_bucket_cap_mb: None,
            train_sampling_strategy: TrainSamplingStrategy::Random,
            dataloader_drop_last: false,
            full_determinism: false,
            seed: 42,
            data_seed: None,
            max_length: 512,
        }
    }
}

impl TrainingArguments {
    /// Steps between evaluations with `evalStrategy: Steps`.
    pub fn eval_interval(&self) -> i64 {
        self.eval_steps.unwrap_or(self.logging_steps)
    }
}

/// When something recurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IntervalStrategy {
    /// Never.
    No,
    /// Every so many optimizer steps.
    Steps,
    /// At the end of each epoch.
    Epoch,
}

/// Shape of the learning rate after warm-up
/// (`transformers/optimization.py`, `get_scheduler`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LrSchedulerType {
    /// Down to 0 in a straight line.
    Linear,
    /// Down to 0 along half a cosine.
    Cosine,
    /// Constant from the first step.
    Constant,
    /// Constant after warm-up.
    ConstantWithWarmup,
}

/// An evaluation metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Metric {
    /// Mean loss on the evaluation set.
    #[serde(rename = "loss")]
    Loss,
    /// Share of right answers.
    #[serde(rename = "accuracy")]
    Accuracy,
    /// F1: of the positive class where there are two classes, else macro.
    #[serde(rename = "f1")]
    F1,
    /// Mean of the classes' F1.
    #[serde(rename = "f1Macro")]
    F1Macro,
}

impl Metric {
    /// Whether a larger value is the better one.
    pub fn greater_is_better(self) -> bool {
        self != Self::Loss
    }

    /// The name in YAML and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::F1Macro => "f1Macro",
        }
    }
}

/// Optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Optimizer {
    /// AdamW (Loshchilov and Hutter 2019), fused kernel.
    AdamW,
    /// Stochastic gradient descent with momentum.
    SGD,
    /// Adafactor (Shazeer and Stern 2018) at `learningRate`: no relative step, no
    /// scaling by the parameter, as transformers sets it.
    Adafactor,
}

/// What happens when a loss or gradient is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnNonFinite {
    /// The job fails, and says at which step.
    Stop,
    /// All ranks leave that optimizer step out.
    Skip,
}

/// Order in which training rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrainSamplingStrategy {
    /// Shuffled anew each epoch.
    Random,
    /// Shuffled, rows of similar length together: less padding.
    GroupByLength,
    /// As they are in the file.
    Sequential,
}
