//! JSON document → [`TrainConfig`] → [`Config`]: every value checked once.
//!
//! Invariant: a setting that this worker does not act on is refused here.
//! Nothing later looks at [`TrainingArguments`] again.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use hearth_crds::TrainingArguments;
use hearth_crds::objective::{ClassWeights, Objective, ObjectiveType};
use hearth_crds::peft::{BaseQuantization, Peft};
use hearth_crds::training_arguments::{
    IntervalStrategy, LrSchedulerType, Metric, OnNonFinite, Optimizer, TrainSamplingStrategy,
};
use hearth_crds::training_job::{Accelerator, Parallelism, Sharding, Task};
use hearth_crds::worker_config::{
    CONFIG_VERSION, DataFile, TrainConfig, TrainData, TrainDistillation,
};
use serde::de::DeserializeOwned;

/// Why a configuration cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The document is not there.
    #[error("configuration {} does not exist", path.display())]
    Missing {
        /// The document.
        path: PathBuf,
    },
    /// The document cannot be read.
    #[error("cannot read configuration {}", path.display())]
    Read {
        /// The document.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The document is not what this worker expects.
    #[error("configuration {}: {detail}", path.display())]
    Parse {
        /// The document.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A setting that is wrong or not supported.
    #[error("{field}: {detail}")]
    Setting {
        /// The field, as in YAML.
        field: &'static str,
        /// What is wrong, and what to do.
        detail: String,
    },
}

/// Reads a document of the worker's contract.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ConfigError::Missing { path: path.to_owned() },
        _ => ConfigError::Read { path: path.to_owned(), source },
    })?;
    let parse = |detail: String| ConfigError::Parse { path: path.to_owned(), detail };
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| parse(error.to_string()))?;
    let version = value.get("version").and_then(serde_json::Value::as_str).unwrap_or("none");
    if version != CONFIG_VERSION {
        return Err(parse(format!(
            "version {version:?}, but this worker reads {CONFIG_VERSION:?}; use the worker image of the operator's release"
        )));
    }
    T::deserialize(value).map_err(|error| parse(error.to_string()))
}

/// A training run that this worker can make.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the spec")]
pub struct Config {
    /// Hugging Face directory to start from.
    pub model: PathBuf,
    /// What to learn from.
    pub data: TrainData,
    /// What to learn.
    pub task: Task,
    /// How it is learned.
    pub lesson: Lesson,
    /// Share of each target that is spread over all classes or tokens.
    pub label_smoothing: f64,
    /// A second model to learn from.
    pub distillation: Option<TrainDistillation>,
    /// Adapters to train instead of all weights.
    pub peft: Option<Peft>,
    /// The job's directory.
    pub output: PathBuf,
    /// What to compute on.
    pub accelerator: Accelerator,
    /// How the model is split over ranks.
    pub parallelism: Parallelism,
    /// Make activations anew in backward instead of keeping them.
    pub gradient_checkpointing: bool,
    /// Ranks of one machine.
    pub ranks_per_machine: NonZeroUsize,
    /// Where checkpoints go: a path, or `s3://BUCKET/PREFIX`.
    pub checkpoints: String,
    /// Newest checkpoints kept.
    pub keep_checkpoints: usize,
    /// Samples in one forward pass of training.
    pub train_batch: NonZeroUsize,
    /// Samples in one forward pass of evaluation.
    pub eval_batch: NonZeroUsize,
    /// Forward passes before an optimizer step.
    pub accumulation: NonZeroUsize,
    /// How long to train.
    pub length: Length,
    /// Learning rate over time.
    pub schedule: ScheduleConfig,
    /// Optimizer.
    pub optim: Optim,
    /// Compute in bfloat16; weights, gradients and moments stay in float32.
    pub bf16: bool,
    /// Divide the loss by what all ranks' part of a step counts, not by each rank's own.
    pub average_tokens: bool,
    /// What happens when a loss or gradient is not finite.
    pub on_non_finite: OnNonFinite,
    /// Look for a learning rate before the first step.
    pub range_test: bool,
    /// Halve the batch of a forward pass until it fits into memory.
    pub auto_find_batch_size: bool,
    /// Megabytes of gradients that ranks exchange at once, where it was said.
    pub bucket_cap_mb: Option<NonZeroUsize>,
    /// Deterministic GPU kernels only.
    pub full_determinism: bool,
    /// Order of the samples.
    pub sampling: TrainSamplingStrategy,
    /// Of shuffling.
    pub data_seed: i64,
    /// Leave out the end of an epoch that does not fill a step's batch.
    pub drop_last: bool,
    /// Put samples together into sequences of `max_length` tokens.
    pub packing: bool,
    /// Most L2 norm of a gradient; `None` does not clip.
    pub max_grad_norm: Option<f64>,
    /// Steps between lines of `metrics.jsonl`.
    pub logging_steps: u64,
    /// The first step has a line, too.
    pub log_first_step: bool,
    /// When to evaluate.
    pub evaluate: Interval,
    /// Evaluate before the first step.
    pub eval_on_start: bool,
    /// Steps (with [`Interval::Epoch`]: epochs) before the first evaluation.
    pub eval_delay: f64,
    /// When to stop before the end.
    pub early_stopping: Option<EarlyStopping>,
    /// When to save.
    pub save: Interval,
    /// Export the best checkpoint, not the last.
    pub load_best: bool,
    /// What "best" means.
    pub metric: Metric,
    /// Seed of everything random.
    pub seed: i64,
    /// Tokens after which a sample is cut.
    pub max_length: usize,
    /// Of the settings by which results differ; a checkpoint of other settings
    /// is not taken up.
    pub fingerprint: String,
}

/// What is learned of the data.
#[derive(Clone, Debug, PartialEq)]
pub enum Lesson {
    /// The class of a text.
    Classes {
        /// Count rows by how rare their class is.
        balanced: bool,
    },
    /// The next token of plain texts.
    Texts,
    /// The next token of texts, completions or conversations.
    Answers {
        /// Learn what the assistant says, and nothing else.
        assistant_only: bool,
    },
    /// The better of two answers.
    Preferences {
        /// How strongly the model is held near the one that training begins with.
        beta: f64,
    },
}

impl Lesson {
    fn of(config: &TrainConfig) -> Self {
        let asked = config.objective.as_ref();
        match asked.map(|objective| objective.type_) {
            Some(ObjectiveType::Pretraining) => Self::Texts,
            Some(ObjectiveType::SFT) => Self::Answers {
                assistant_only: asked.is_some_and(|objective| objective.assistant_only_loss),
            },
            Some(ObjectiveType::DPO) => {
                Self::Preferences { beta: asked.map_or(0.1, Objective::beta) }
            }
            None if config.task == Task::CausalLM => Self::Answers { assistant_only: false },
            Some(ObjectiveType::Classification) | None => Self::Classes {
                balanced: asked.is_some_and(|o| o.class_weights == ClassWeights::Balanced),
            },
        }
    }
}

/// How long to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Optimizer steps.
    Steps(u64),
    /// Passes over the data.
    Epochs(f64),
}

/// When something recurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Never.
    Never,
    /// Every so many optimizer steps, and at the end.
    Steps(u64),
    /// At the end of each epoch, and at the end.
    Epoch,
}

/// Learning rate over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScheduleConfig {
    /// Shape after warm-up.
    pub shape: LrSchedulerType,
    /// Learning rate after warm-up.
    pub peak: f64,
    /// Steps of warm-up; below 1 a fraction of all steps.
    pub warmup: f64,
}

/// When to stop for want of progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Evaluations in a row without a better metric.
    pub patience: u32,
    /// How much better it must be to count.
    pub threshold: f64,
}

/// Optimizer, and its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optim {
    /// AdamW.
    AdamW(Adam),
    /// Stochastic gradient descent.
    Sgd(SgdSettings),
    /// Adafactor at the schedule's learning rate.
    Adafactor {
        /// Decoupled weight decay.
        weight_decay: f64,
    },
}

/// Constants of SGD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SgdSettings {
    /// Share of the step before.
    pub momentum: f64,
    /// Times a weight, this is added to its gradient.
    pub weight_decay: f64,
}

/// Constants of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Decay of the gradient's mean.
    pub beta1: f64,
    /// Decay of the gradient's square.
    pub beta2: f64,
    /// Term against division by zero.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Config {
    /// Reads and checks the document at `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::resolve(read(path)?)
    }

    /// Checks `config`.
    pub fn resolve(config: TrainConfig) -> Result<Self, ConfigError> {
        let training = &config.training;
        refuse_unsupported(&config)?;
        check_ranges(training)?;
        let has_eval = config.data.eval.is_some() || config.data.eval_split.is_some();
        let evaluate =
            interval(training.eval_strategy, training.eval_interval(), "training.evalSteps")?;
        let save = interval(training.save_strategy, training.save_steps, "training.saveSteps")?;
        check_evaluation(&config, evaluate, save, has_eval)?;
        let fingerprint = fingerprint(&config);
        count("workers.replicas", i64::from(config.replicas))?;
        let ranks_per_machine =
            count("workers.processesPerWorker", i64::from(config.processes_per_worker))?;
        Ok(Self {
            ranks_per_machine,
            checkpoints: match &config.checkpoints {
                Some(bucket) if bucket.starts_with("s3://") => {
                    bucket.trim_end_matches('/').to_owned()
                }
                Some(other) => {
                    let detail = format!("{other:?} is no bucket; use s3://BUCKET/PREFIX");
                    return Err(setting("output.checkpoints.destination", detail));
                }
                None => config.output.join("checkpoints").to_string_lossy().into_owned(),
            },
            keep_checkpoints: usize::try_from(config.keep_checkpoints).unwrap_or(usize::MAX).max(1),
            train_batch: count(
                "training.perDeviceTrainBatchSize",
                training.per_device_train_batch_size.into(),
            )?,
            eval_batch: count(
                "training.perDeviceEvalBatchSize",
                training.per_device_eval_batch_size.into(),
            )?,
            accumulation: count(
                "training.gradientAccumulationSteps",
                training.gradient_accumulation_steps.into(),
            )?,
            length: match u64::try_from(training.max_steps) {
                Ok(steps) if steps > 0 => Length::Steps(steps),
                _ => Length::Epochs(training.num_train_epochs),
            },
            schedule: ScheduleConfig {
                shape: training.lr_scheduler_type,
                peak: training.learning_rate,
                warmup: training.warmup_steps,
            },
            optim: Optim::of(training),
            bf16: training.bf16,
            average_tokens: training.average_tokens_across_devices,
            on_non_finite: training.on_non_finite,
            range_test: training.learning_rate_range_test,
            auto_find_batch_size: training.auto_find_batch_size,
            bucket_cap_mb: training
                .ddp_bucket_cap_mb
                .map(|megabytes| count("training.ddpBucketCapMb", megabytes.into()))
                .transpose()?,
            full_determinism: training.full_determinism,
            sampling: training.train_sampling_strategy,
            data_seed: training.data_seed.unwrap_or(training.seed),
            drop_last: training.dataloader_drop_last,
            packing: config.objective.as_ref().is_some_and(|objective| objective.packing),
            max_grad_norm: (training.max_grad_norm > 0.0).then_some(training.max_grad_norm),
            logging_steps: steps("training.loggingSteps", training.logging_steps)?,
            log_first_step: training.logging_first_step,
            evaluate,
            eval_on_start: training.eval_on_start,
            eval_delay: training.eval_delay,
            early_stopping: training
                .early_stopping_patience
                .map(|evaluations| count("training.earlyStoppingPatience", evaluations.into()))
                .transpose()?
                .map(|evaluations| EarlyStopping {
                    patience: u32::try_from(evaluations.get()).unwrap_or(u32::MAX),
                    threshold: training.early_stopping_threshold,
                }),
            save,
            load_best: training.load_best_model_at_end,
            metric: training.metric_for_best_model,
            seed: training.seed,
            max_length: count("training.maxLength", training.max_length.into())?.get(),
            lesson: Lesson::of(&config),
            label_smoothing: training.label_smoothing_factor,
            task: config.task,
            accelerator: config.accelerator,
            parallelism: config.parallelism,
            gradient_checkpointing: training.gradient_checkpointing,
            model: config.model,
            data: config.data,
            distillation: config.distillation,
            peft: config.peft,
            output: config.output,
            fingerprint,
        })
    }

    /// Samples of an optimizer step, over all ranks that learn from different ones.
    pub fn global_batch(&self, shares: usize) -> u64 {
        (shares * self.train_batch.get() * self.accumulation.get()) as u64
    }
}

impl Optim {
    fn of(training: &TrainingArguments) -> Self {
        let weight_decay = training.weight_decay;
        match training.optim {
            Optimizer::AdamW => Self::AdamW(Adam {
                beta1: training.adam_beta1,
                beta2: training.adam_beta2,
                epsilon: training.adam_epsilon,
                weight_decay,
            }),
            Optimizer::SGD => Self::Sgd(SgdSettings { momentum: training.momentum, weight_decay }),
            Optimizer::Adafactor => Self::Adafactor { weight_decay },
        }
    }
}

/// The same list as the operator's `unsupported`: later versions shorten both.
fn refuse_unsupported(config: &TrainConfig) -> Result<(), ConfigError> {
    let training = &config.training;
    let (objective, peft) = (config.objective.as_ref(), config.peft.as_ref());
    let ways = &config.parallelism;
    let splits = ways.tensor != 1 || ways.pipeline != 1 || ways.expert != 1;
    for (asked, field, detail) in [
        (
            matches!(config.task, Task::TabularClassification | Task::TabularRegression),
            "task",
            "use SequenceClassification, ImageClassification or CausalLM",
        ),
        (
            config.task == Task::ImageClassification && !config.data.clean.is_empty(),
            "data.clean",
            "remove it with ImageClassification: it is for texts",
        ),
        (
            config.task == Task::ImageClassification
                && training.max_length != TrainingArguments::default().max_length,
            "training.maxLength",
            "remove it with ImageClassification: pictures have no tokens",
        ),
        (
            peft.is_some_and(|peft| peft.base_quantization != BaseQuantization::None)
                && ways.sharding != Sharding::None,
            "peft.baseQuantization",
            "use None with sharding, or parallelism.sharding None: quantized weights are whole",
        ),
        (
            splits && peft.is_some(),
            "peft",
            "remove it, or use parallelism.tensor, pipeline and expert 1: adapters are not split",
        ),
        (
            ways.pipeline != 1 && objective.is_some_and(|asked| asked.type_ == ObjectiveType::DPO),
            "parallelism.pipeline",
            "use 1 with DPO, whose loss takes several forward passes",
        ),
        (
            ways.pipeline != 1 && config.distillation.is_some(),
            "parallelism.pipeline",
            "use 1 with distillation, whose loss takes several forward passes",
        ),
        (
            (splits || ways.sharding != Sharding::None) && training.optim == Optimizer::Adafactor,
            "training.optim",
            "use AdamW with sharding, tensor, pipeline or expert: Adafactor needs whole parameters",
        ),
    ] {
        if asked {
            return Err(setting(field, format!("is not supported yet; {detail}")));
        }
    }
    if config.task == Task::CausalLM
        && matches!(training.metric_for_best_model, Metric::F1 | Metric::F1Macro)
        && training.load_best_model_at_end
    {
        let detail = "is of classifiers; use loss or accuracy with CausalLM";
        return Err(setting("training.metricForBestModel", detail));
    }
    check_lesson(config)?;
    let preferences = objective.is_some_and(|asked| asked.type_ == ObjectiveType::DPO);
    let rows = [Some(&config.data.train), config.data.eval.as_ref()];
    let mut rows = rows.into_iter().flatten();
    rows.try_for_each(|rows| refuse_unread_columns(config.task, preferences, rows))
}

/// Objective, teacher and adapters go together. The schema says the same of what comes through it.
fn check_lesson(config: &TrainConfig) -> Result<(), ConfigError> {
    let asked = config.objective.as_ref().map(|objective| objective.type_);
    if asked.is_some_and(|asked| {
        (asked == ObjectiveType::Classification) == (config.task == Task::CausalLM)
    }) {
        let detail = format!("is not for task {:?}", config.task);
        return Err(setting("objective.type", detail));
    }
    if asked == Some(ObjectiveType::DPO) {
        if config.objective.as_ref().is_some_and(|objective| objective.packing) {
            return Err(setting("objective.packing", "pairs of answers are not packed; use false"));
        }
        if config.distillation.is_some() {
            return Err(setting("distillation", "DPO has a reference of its own; remove it"));
        }
        if config.training.label_smoothing_factor > 0.0 {
            return Err(setting("training.labelSmoothingFactor", "has no meaning with DPO; use 0"));
        }
        if config.peft.as_ref().is_some_and(|peft| peft.lora_dropout > 0.0) {
            return Err(setting("peft.loraDropout", "DPO trains without dropout; use 0"));
        }
    }
    let within = |field, value: f64, range: RangeInclusive<f64>| {
        if range.contains(&value) {
            return Ok(());
        }
        Err(setting(field, format!("{value} is not within {} to {}", range.start(), range.end())))
    };
    if let Some(objective) = &config.objective {
        within("objective.beta", objective.beta(), 0.0..=1000.0)?;
    }
    if let Some(distillation) = &config.distillation {
        within("distillation.temperature", distillation.temperature, 0.01..=1000.0)?;
        within("distillation.alpha", distillation.alpha, 0.0..=1.0)?;
    }
    if let Some(peft) = &config.peft {
        within("peft.r", peft.r.into(), 1.0..=4096.0)?;
        within("peft.loraAlpha", peft.lora_alpha.into(), 1.0..=65536.0)?;
        within("peft.loraDropout", peft.lora_dropout, 0.0..=0.99)?;
    }
    within("training.labelSmoothingFactor", config.training.label_smoothing_factor, 0.0..=1.0)
}

/// Names of columns that this task does not read.
fn refuse_unread_columns(
    task: Task,
    preferences: bool,
    rows: &DataFile,
) -> Result<(), ConfigError> {
    let names = DataFile::default();
    let sequences = task == Task::CausalLM;
    let pictures = task == Task::ImageClassification;
    for (asked, field) in [
        (pictures && rows.text != names.text, "data.text"),
        (!pictures && rows.image != names.image, "data.image"),
        (sequences && rows.label != names.label, "data.label"),
        ((!sequences || preferences) && rows.messages != names.messages, "data.messages"),
        (!sequences && rows.prompt != names.prompt, "data.prompt"),
        ((!sequences || preferences) && rows.completion != names.completion, "data.completion"),
        (!preferences && rows.chosen != names.chosen, "data.chosen"),
        (!preferences && rows.rejected != names.rejected, "data.rejected"),
    ] {
        if asked {
            return Err(setting(
                field,
                format!("is not read with this task and objective; remove it ({})", rows.uri),
            ));
        }
    }
    Ok(())
}

fn check_ranges(training: &TrainingArguments) -> Result<(), ConfigError> {
    for (field, value, range) in [
        ("training.learningRate", training.learning_rate, 0.0..=100.0),
        ("training.weightDecay", training.weight_decay, 0.0..=10.0),
        ("training.adamBeta1", training.adam_beta1, 0.0..=0.999_999),
        ("training.adamBeta2", training.adam_beta2, 0.0..=0.999_999),
        ("training.adamEpsilon", training.adam_epsilon, 0.0..=1.0),
        ("training.maxGradNorm", training.max_grad_norm, 0.0..=1e6),
        ("training.warmupSteps", training.warmup_steps, 0.0..=1e9),
        ("training.numTrainEpochs", training.num_train_epochs, 0.0..=1e6),
        ("training.momentum", training.momentum, 0.0..=0.999_999),
        ("training.labelSmoothingFactor", training.label_smoothing_factor, 0.0..=0.999_999),
        ("training.evalDelay", training.eval_delay, 0.0..=1e9),
        ("training.earlyStoppingThreshold", training.early_stopping_threshold, 0.0..=1e6),
    ] {
        if !range.contains(&value) {
            return Err(setting(
                field,
                format!("{value} is not within {} to {}", range.start(), range.end()),
            ));
        }
    }
    if training.momentum > 0.0 && training.optim != Optimizer::SGD {
        return Err(setting("training.momentum", "needs training.optim SGD; remove it"));
    }
    if training.max_steps <= 0 && training.num_train_epochs <= 0.0 {
        return Err(setting("training.numTrainEpochs", "or maxSteps must be above 0"));
    }
    // [CLS], [SEP], and at least one token of the text.
    if training.max_length < 3 {
        return Err(setting("training.maxLength", "must be at least 3"));
    }
    Ok(())
}

fn check_evaluation(
    config: &TrainConfig,
    evaluate: Interval,
    save: Interval,
    has_eval: bool,
) -> Result<(), ConfigError> {
    if config.data.eval.is_some() && config.data.eval_split.is_some() {
        return Err(setting("data.evalSplit", "set data.eval or data.evalSplit, not both"));
    }
    if config.data.eval_split.is_some_and(|share| !(0.001..=0.9).contains(&share)) {
        return Err(setting("data.evalSplit", "must be within 0.001 to 0.9"));
    }
    for (asked, field) in [
        (config.training.eval_delay > 0.0, "training.evalDelay"),
        (config.training.early_stopping_patience.is_some(), "training.earlyStoppingPatience"),
    ] {
        if asked && evaluate == Interval::Never {
            return Err(setting(
                field,
                "needs evaluations: set training.evalStrategy to Steps or Epoch",
            ));
        }
    }
    if (evaluate != Interval::Never || config.training.eval_on_start) && !has_eval {
        return Err(setting(
            "training.evalStrategy",
            "needs data to evaluate on: set data.eval or data.evalSplit",
        ));
    }
    if !config.training.load_best_model_at_end {
        return Ok(());
    }
    match (evaluate, save) {
        (Interval::Never, _) => Err(setting(
            "training.loadBestModelAtEnd",
            "needs an evaluation: set training.evalStrategy to Steps or Epoch",
        )),
        (Interval::Epoch, Interval::Epoch) => Ok(()),
        (Interval::Steps(evaluate), Interval::Steps(save)) if save % evaluate == 0 => Ok(()),
        (Interval::Steps(_), Interval::Steps(_)) => Err(setting(
            "training.saveSteps",
            "must be a multiple of evalSteps with loadBestModelAtEnd",
        )),
        _ => {
            Err(setting("training.saveStrategy", "must equal evalStrategy with loadBestModelAtEnd"))
        }
    }
}

fn interval(
    strategy: IntervalStrategy,
    every: i64,
    field: &'static str,
) -> Result<Interval, ConfigError> {
    Ok(match strategy {
        IntervalStrategy::No => Interval::Never,
        IntervalStrategy::Steps => Interval::Steps(steps(field, every)?),
        IntervalStrategy::Epoch => Interval::Epoch,
    })
}

fn steps(field: &'static str, value: i64) -> Result<u64, ConfigError> {
    u64::try_from(value)
        .ok()
        .filter(|steps| *steps > 0)
        .ok_or_else(|| setting(field, format!("{value} is not above 0")))
}

fn count(field: &'static str, value: i64) -> Result<NonZeroUsize, ConfigError> {
    usize::try_from(value)
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or_else(|| setting(field, format!("{value} is not above 0")))
}

fn setting(field: &'static str, detail: impl Into<String>) -> ConfigError {
    ConfigError::Setting { field, detail: detail.into() }
}

/// Hash of what decides the result. Not in it: where the job runs, how often
/// it saves, reports or is restarted, and the world size, which may change.
fn fingerprint(config: &TrainConfig) -> String {
    let mut training = config.training.clone();
    training.logging_steps = 1;
    training.logging_first_step = false;
    training.per_device_eval_batch_size = 1;
    // It changes no bit.
    training.gradient_checkpointing = false;
    let decisive = serde_json::json!({
        "task": config.task,
        "objective": config.objective,
        "distillation": config.distillation,
        "peft": config.peft,
        "training": training,
        "evalSplit": config.data.eval_split,
    });
    blake3::hash(decisive.to_string().as_bytes()).to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> serde_json::Value {
        serde_json::json!({
            "version": CONFIG_VERSION,
            "job": {"namespace": "local", "name": "t", "uid": ""},
            "task": "SequenceClassification", "accelerator": "CPU", "model": "/m",
            "data": {
                "train": {"path": "/d.jsonl", "uri": "file:///d.jsonl", "text": "text", "label": "label"},
                "eval": null, "evalSplit": 0.1, "clean": [], "maxBadRows": 0
            },
            "training": TrainingArguments::default(),
            "parallelism": {"sharding": "None", "tensor": 1, "pipeline": 1},
            "replicas": 2, "processesPerWorker": 2, "output": "/o", "outputUri": "file:///o",
            "keepCheckpoints": 3, "maxRestarts": 1, "coordinatorHost": "h", "coordinatorPort": 8470
        })
    }

    fn resolve(pointer: &str, value: serde_json::Value) -> Result<Config, ConfigError> {
        let mut document = example();
        if !pointer.is_empty() {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[field] = value;
        }
        Config::resolve(serde_json::from_value(document).unwrap())
    }

    #[test]
    fn defaults_resolve() {
        let config = resolve("", serde_json::Value::Null).unwrap();
        assert_eq!(config.ranks_per_machine.get(), 2);
        assert_eq!(config.global_batch(4), 32);
        assert_eq!(config.length, Length::Epochs(3.0));
        assert_eq!(config.evaluate, Interval::Never);
    }

    #[test]
    fn what_is_not_acted_on_is_refused_by_its_field() {
        for (pointer, value, field) in [
            ("/task", "TabularClassification".into(), "task"),
            ("/data/train/image", "file_name".into(), "data.image"),
            ("/objective", json!({"type": "DPO"}), "objective.type"),
            (
                "/distillation",
                json!({"teacher": "/t", "temperature": 0.0, "alpha": 0.5}),
                "distillation.temperature",
            ),
            (
                "/distillation",
                json!({"teacher": "/t", "temperature": 1.0, "alpha": 1.5}),
                "distillation.alpha",
            ),
            ("/peft", json!({"r": 0}), "peft.r"),
            ("/peft", json!({"loraDropout": 1.0}), "peft.loraDropout"),
            ("/training/labelSmoothingFactor", 1.5.into(), "training.labelSmoothingFactor"),
            ("/data/train/messages", "turns".into(), "data.messages"),
            ("/data/train/prompt", "q".into(), "data.prompt"),
            ("/data/train/completion", "a".into(), "data.completion"),
            ("/data/train/chosen", "a".into(), "data.chosen"),
            ("/data/train/rejected", "a".into(), "data.rejected"),
            ("/training/perDeviceTrainBatchSize", 0.into(), "training.perDeviceTrainBatchSize"),
            ("/training/momentum", 0.9.into(), "training.momentum"),
            ("/training/earlyStoppingPatience", 2.into(), "training.earlyStoppingPatience"),
            ("/training/evalDelay", 2.into(), "training.evalDelay"),
            ("/training/ddpBucketCapMb", 0.into(), "training.ddpBucketCapMb"),
            ("/training/labelSmoothingFactor", 1.into(), "training.labelSmoothingFactor"),
            ("/training/learningRate", (-1).into(), "training.learningRate"),
            ("/training/numTrainEpochs", 0.into(), "training.numTrainEpochs"),
            ("/training/maxLength", 2.into(), "training.maxLength"),
            ("/training/loadBestModelAtEnd", true.into(), "training.loadBestModelAtEnd"),
            ("/data/evalSplit", 0.95.into(), "data.evalSplit"),
        ] {
            let error = resolve(pointer, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{pointer}: {error}");
        }
    }

    #[test]
    fn pictures_have_no_text() {
        for (pointer, value, field) in [
            ("/data/clean", json!(["StripControl"]), "data.clean"),
            ("/training/maxLength", 16.into(), "training.maxLength"),
            ("/data/train/text", "caption".into(), "data.text"),
        ] {
            let mut document = example();
            document["task"] = "ImageClassification".into();
            let resolve = |document: &serde_json::Value| {
                Config::resolve(serde_json::from_value(document.clone()).unwrap())
            };
            assert!(resolve(&document).is_ok());
            *document.pointer_mut(pointer).unwrap() = value;
            let error = resolve(&document).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
        }
    }

    #[test]
    fn what_does_not_go_with_a_split_model_is_refused() {
        let refused = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut document = example();
            document["parallelism"]["pipeline"] = 2.into();
            change(&mut document);
            Config::resolve(serde_json::from_value(document).unwrap()).map_err(|e| e.to_string())
        };
        assert!(refused(&|_| ()).is_ok());
        let adapters = refused(&|document| document["peft"] = json!({"r": 4}));
        assert!(adapters.unwrap_err().starts_with("peft: "));
    }

    #[test]
    fn preferences_have_a_loss_and_columns_of_their_own() {
        let with = |pointer: &str, value: serde_json::Value| {
            let mut document = example();
            document["task"] = "CausalLM".into();
            document["objective"] = json!({"type": "DPO", "beta": 0.3});
            document["data"]["train"]["chosen"] = "good".into();
            if let Some((parent, field)) = pointer.rsplit_once('/') {
                document.pointer_mut(parent).unwrap()[field] = value;
            }
            Config::resolve(serde_json::from_value(document).unwrap())
        };
        let resolved = with("", serde_json::Value::Null).unwrap();
        assert_eq!(resolved.lesson, Lesson::Preferences { beta: 0.3 });
        for (pointer, value, field) in [
            ("/objective", json!({"type": "SFT"}), "data.chosen"),
            ("/objective", json!({"type": "DPO", "packing": true}), "objective.packing"),
            ("/data/train/messages", "turns".into(), "data.messages"),
            ("/training/labelSmoothingFactor", 0.1.into(), "training.labelSmoothingFactor"),
            ("/peft", json!({"loraDropout": 0.1}), "peft.loraDropout"),
            (
                "/distillation",
                json!({"teacher": "/t", "temperature": 2.0, "alpha": 0.5}),
                "distillation",
            ),
        ] {
            let error = with(pointer, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{pointer}: {error}");
        }
    }

    #[test]
    fn an_evaluation_without_data_is_refused() {
        let mut document = example();
        document["data"]["evalSplit"] = serde_json::Value::Null;
        document["training"]["evalStrategy"] = "Epoch".into();
        let refused = Config::resolve(serde_json::from_value(document).unwrap());
        assert!(refused.unwrap_err().to_string().starts_with("training.evalStrategy: "));
    }

    #[test]
    fn the_fingerprint_follows_results_and_nothing_else() {
        let of = |pointer, value| resolve(pointer, value).unwrap().fingerprint;
        let base = of("/replicas", 2.into());
        assert_eq!(base, of("/replicas", 1.into()));
        assert_eq!(base, of("/training/loggingSteps", 3.into()));
        assert_ne!(base, of("/training/learningRate", 1e-3.into()));
        assert_ne!(base, of("/training/seed", 1.into()));
    }
}
