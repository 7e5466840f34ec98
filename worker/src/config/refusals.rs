//! What a configuration may not hold: settings that nothing acts on, values out of range, and
//! settings that contradict each other.

use std::ops::RangeInclusive;

use hearth_crds::TrainingArguments;
use hearth_crds::objective::ObjectiveType;
use hearth_crds::peft::BaseQuantization;
use hearth_crds::pruning::PruningType;
use hearth_crds::training_arguments::{Metric, Optimizer};
use hearth_crds::training_job::{Sharding, Task};
use hearth_crds::worker_config::{DataFile, TrainConfig};

use super::{ConfigError, Interval, setting};

/// The same list as the operator's `unsupported`: later versions shorten both.
pub(super) fn unsupported(config: &TrainConfig) -> Result<(), ConfigError> {
    let training = &config.training;
    let (objective, peft) = (config.objective.as_ref(), config.peft.as_ref());
    let ways = &config.parallelism;
    let splits = ways.tensor != 1 || ways.pipeline != 1 || ways.expert != 1;
    for (asked, field, detail) in [
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
            config.pruning.is_some() && peft.is_some(),
            "pruning",
            "remove peft: adapters are of the layers that the model's directory has",
        ),
        (
            config.pruning.as_ref().is_some_and(|asked| asked.type_ != PruningType::Structured)
                && (splits || ways.sharding != Sharding::None),
            "pruning.type",
            "use Structured, or sharding None and tensor, pipeline and expert 1: zeros are kept in whole layers",
        ),
        (
            splits && peft.is_some(),
            "peft",
            "remove it, or use parallelism.tensor, pipeline and expert 1: adapters are not split",
        ),
        (
            objective.is_some_and(|asked| asked.threshold.is_some())
                && peft.is_some_and(|peft| !peft.merge_on_export),
            "objective.threshold",
            "set peft.mergeOnExport to true, or remove the threshold: adapters by themselves have none",
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
    lesson(config)?;
    let preferences = objective.is_some_and(|asked| asked.type_ == ObjectiveType::DPO);
    let rows = [Some(&config.data.train), config.data.eval.as_ref()];
    let mut rows = rows.into_iter().flatten();
    rows.try_for_each(|rows| unread_columns(config.task, preferences, rows))
}

/// Objective, teacher and adapters go together. The schema says the same of what comes through it.
fn lesson(config: &TrainConfig) -> Result<(), ConfigError> {
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
fn unread_columns(task: Task, preferences: bool, rows: &DataFile) -> Result<(), ConfigError> {
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

pub(super) fn ranges(training: &TrainingArguments) -> Result<(), ConfigError> {
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

pub(super) fn evaluation(
    config: &TrainConfig,
    evaluate: Interval,
    save: Interval,
    has_eval: bool,
) -> Result<(), ConfigError> {
    if config.data.eval.is_some() && config.data.eval_split.is_some() {
        return Err(setting("data.evalSplit", "set data.eval or data.evalSplit, not both"));
    }
    let threshold = config.objective.as_ref().and_then(|asked| asked.threshold.as_ref());
    if threshold.is_some() && !has_eval {
        let detail = "is chosen on rows that were held out: set data.eval or data.evalSplit";
        return Err(setting("objective.threshold", detail));
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
    if config.stop_at_step.is_some() && save == Interval::Never {
        let detail = "ends with a checkpoint: set training.saveStrategy to Steps or Epoch";
        return Err(setting("stopAtStep", detail));
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
