//! JSON document → [`TrainConfig`] → [`Config`]: every value checked once.
//!
//! Invariant: a setting that this worker does not act on is refused here.
//! Nothing later looks at [`TrainingArguments`] again.

pub mod prepared;
mod refusals;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use hearth_crds::TrainingArguments;
use hearth_crds::objective::{ClassWeights, Objective, ObjectiveType};
use hearth_crds::peft::Peft;
use hearth_crds::pruning::Pruning;
use hearth_crds::training_arguments::{
    IntervalStrategy, LrSchedulerType, Metric, OnNonFinite, Optimizer, TrainSamplingStrategy,
};
use hearth_crds::training_job::{Accelerator, Parallelism, Task};
use hearth_crds::worker_config::{CONFIG_VERSION, TrainConfig, TrainData, TrainDistillation};
use hearth_tabular::ThresholdTarget;
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
    /// Nobody prepared the rows.
    #[error(
        "{} does not say which prepared rows the job has; run `hearth-worker prepare` first",
        path.display()
    )]
    Prepared {
        /// The file that should.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
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
    /// What a threshold of two labels is chosen for.
    pub threshold: Option<ThresholdTarget>,
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
    /// Weights that are taken away before training.
    pub pruning: Option<Pruning>,
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
    /// The step to end after, where that is not the last one.
    pub stop_at_step: Option<u64>,
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
    /// Checks `config`, whose rows may have been prepared.
    pub fn follow(config: TrainConfig) -> Result<Self, ConfigError> {
        let data = prepared::follow(config.data)?;
        Self::resolve(TrainConfig { data, ..config })
    }

    /// Checks `config`.
    pub fn resolve(config: TrainConfig) -> Result<Self, ConfigError> {
        let training = &config.training;
        refusals::unsupported(&config)?;
        let nothing = || setting("model", "training starts from a model; name its directory");
        let model = config.model.clone().ok_or_else(nothing)?;
        refusals::ranges(training)?;
        let has_eval = config.data.eval.is_some() || config.data.eval_split.is_some();
        let evaluate =
            interval(training.eval_strategy, training.eval_interval(), "training.evalSteps")?;
        let save = interval(training.save_strategy, training.save_steps, "training.saveSteps")?;
        refusals::evaluation(&config, evaluate, save, has_eval)?;
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
            stop_at_step: config.stop_at_step,
            load_best: training.load_best_model_at_end,
            metric: training.metric_for_best_model,
            seed: training.seed,
            max_length: count("training.maxLength", training.max_length.into())?.get(),
            lesson: Lesson::of(&config),
            threshold: threshold(config.objective.as_ref()),
            label_smoothing: training.label_smoothing_factor,
            task: config.task,
            accelerator: config.accelerator,
            parallelism: config.parallelism,
            gradient_checkpointing: training.gradient_checkpointing,
            model,
            data: config.data,
            distillation: config.distillation,
            pruning: config.pruning,
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

pub(crate) fn setting(field: &'static str, detail: impl Into<String>) -> ConfigError {
    ConfigError::Setting { field, detail: detail.into() }
}

fn threshold(objective: Option<&Objective>) -> Option<ThresholdTarget> {
    ThresholdTarget::asked(objective?.threshold.as_ref()?)
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
    // It is chosen once all is learned.
    let objective = config.objective.clone().map(|asked| Objective { threshold: None, ..asked });
    let mut decisive = serde_json::json!({
        "task": config.task,
        "objective": objective,
        "distillation": config.distillation,
        "peft": config.peft,
        "training": training,
        "evalSplit": config.data.eval_split,
    });
    // Jobs without it go on from checkpoints of versions that did not know it.
    if let Some(pruning) = &config.pruning {
        decisive["pruning"] = serde_json::json!(pruning);
    }
    blake3::hash(decisive.to_string().as_bytes()).to_hex()[..32].to_owned()
}
