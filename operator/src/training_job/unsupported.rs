//! What a TrainingJob may say and this version does not do.
//!
//! The CLI and the operator both refuse by this list. What the worker learns to do
//! leaves it, one entry a field; `worker/src/config.rs` has the same list.

use hearth_crds::objective::{ClassWeights, ObjectiveType};
use hearth_crds::training_arguments::{OnNonFinite, Optimizer, TrainSamplingStrategy};
use hearth_crds::training_job::{
    Accelerator, DataFormat, DataSource, Sharding, Task, TrainingJobSpec,
};
use hearth_crds::worker_config::DataFile;

use crate::fault::Fault;

/// Whether it was asked for; the field, what is wrong, what to do.
type Gap<'a> = (bool, &'a str, String, &'a str);

/// Everything in the spec that this version does not do.
pub fn unsupported(spec: &TrainingJobSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    let gaps = [engine_gaps(spec), objective_gaps(spec), step_gaps(spec), course_gaps(spec)];
    for (asked, field, problem, fix) in gaps.into_iter().flatten() {
        if asked {
            faults.push(Fault::unsupported(field, problem, fix));
        }
    }
    faults.extend(unread_rows("spec.data.train", &spec.data.train));
    if let Some(eval) = &spec.data.eval {
        faults.extend(unread_rows("spec.data.eval", eval));
    }
    faults
}

/// What a file of rows may be and this version does not read.
pub fn unread_rows(field: &str, rows: &DataSource) -> Vec<Fault> {
    let names = DataFile::default();
    let mut faults = Vec::new();
    if rows.format() != DataFormat::JSONL {
        faults.push(Fault::unsupported(
            format!("{field}.format"),
            format!("this version does not read {:?}", rows.format()),
            "write the rows as JSONL",
        ));
    }
    for (part, name, default) in [
        ("messages", &rows.messages, &names.messages),
        ("prompt", &rows.prompt, &names.prompt),
        ("completion", &rows.completion, &names.completion),
        ("chosen", &rows.chosen, &names.chosen),
        ("rejected", &rows.rejected, &names.rejected),
    ] {
        if name != default {
            faults.push(Fault::unsupported(
                format!("{field}.{part}"),
                "this version reads the fields text and label only",
                "remove it",
            ));
        }
    }
    faults
}

fn engine_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let parallelism = &spec.parallelism;
    let mut gaps = vec![
        (
            spec.task != Task::SequenceClassification,
            "spec.task",
            format!("this version does not train {:?}", spec.task),
            "use SequenceClassification",
        ),
        (
            parallelism.sharding != Sharding::None,
            "spec.parallelism.sharding",
            format!("this version does not shard ({:?})", parallelism.sharding),
            "use None: each rank holds the whole model",
        ),
    ];
    for (field, ways) in [
        ("spec.parallelism.tensor", parallelism.tensor),
        ("spec.parallelism.pipeline", parallelism.pipeline),
        ("spec.parallelism.expert", parallelism.expert),
    ] {
        let problem = format!("this version does not split a model ({ways} ways)");
        gaps.push((ways > 1, field, problem, "use 1: data parallelism fills all ranks"));
    }
    gaps
}

fn objective_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let objective = spec.objective.as_ref();
    let type_ = objective.map_or(ObjectiveType::Classification, |objective| objective.type_);
    vec![
        (
            type_ != ObjectiveType::Classification,
            "spec.objective.type",
            format!("this version does not optimise {type_:?}"),
            "use Classification",
        ),
        (
            objective.is_some_and(|objective| objective.class_weights != ClassWeights::None),
            "spec.objective.classWeights",
            "this version counts each row the same".into(),
            "use None",
        ),
        (
            spec.distillation.is_some(),
            "spec.distillation",
            "this version learns from data only".into(),
            "remove it",
        ),
        (spec.peft.is_some(), "spec.peft", "this version trains all weights".into(), "remove it"),
    ]
}

/// Of how one step is made.
fn step_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let training = &spec.training;
    let on_gpus = spec.workers.accelerator() == Accelerator::CUDA;
    vec![
        (
            training.optim != Optimizer::AdamW,
            "spec.training.optim",
            format!("this version has no {:?}", training.optim),
            "use AdamW",
        ),
        (
            training.momentum > 0.0,
            "spec.training.momentum",
            "this version has no SGD".into(),
            "remove it",
        ),
        (
            training.bf16,
            "spec.training.bf16",
            "this version computes in float32 only".into(),
            "leave it false",
        ),
        (
            training.gradient_checkpointing,
            "spec.training.gradientCheckpointing",
            "this version keeps all activations".into(),
            "leave it false, and lower perDeviceTrainBatchSize if memory runs out",
        ),
        (
            training.auto_find_batch_size,
            "spec.training.autoFindBatchSize",
            "this version keeps the batch that is written".into(),
            "leave it false, and lower perDeviceTrainBatchSize if memory runs out",
        ),
        (
            !training.average_tokens_across_devices,
            "spec.training.averageTokensAcrossDevices",
            "this version averages over all ranks' samples".into(),
            "leave it true",
        ),
        (
            training.on_non_finite != OnNonFinite::Stop,
            "spec.training.onNonFinite",
            "this version stops at a loss that is not finite".into(),
            "use Stop",
        ),
        (
            training.label_smoothing_factor > 0.0,
            "spec.training.labelSmoothingFactor",
            "this version does not smooth labels".into(),
            "use 0",
        ),
        (
            training.ddp_bucket_cap_mb.is_some(),
            "spec.training.ddpBucketCapMb",
            "this version exchanges gradients in buckets of 25 MB".into(),
            "remove it",
        ),
        (
            training.full_determinism && on_gpus,
            "spec.training.fullDeterminism",
            "this version does not choose GPU kernels".into(),
            "leave it false, or compute on the CPU, where all kernels are deterministic",
        ),
    ]
}

/// Of which steps are made, and what is told of them.
fn course_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let training = &spec.training;
    vec![
        (
            training.logging_first_step,
            "spec.training.loggingFirstStep",
            "this version reports every loggingSteps only".into(),
            "leave it false, or set loggingSteps to 1",
        ),
        (
            training.eval_on_start,
            "spec.training.evalOnStart",
            "this version evaluates after training has begun".into(),
            "leave it false",
        ),
        (
            training.eval_delay > 0.0,
            "spec.training.evalDelay",
            "this version does not delay evaluations".into(),
            "use 0",
        ),
        (
            training.early_stopping_patience.is_some(),
            "spec.training.earlyStoppingPatience",
            "this version trains to the end".into(),
            "remove it",
        ),
        (
            training.train_sampling_strategy != TrainSamplingStrategy::Random,
            "spec.training.trainSamplingStrategy",
            "this version shuffles the rows anew each epoch".into(),
            "use Random",
        ),
        (
            training.dataloader_drop_last,
            "spec.training.dataloaderDropLast",
            "this version takes every row".into(),
            "leave it false",
        ),
        (
            training.data_seed.is_some(),
            "spec.training.dataSeed",
            "this version draws everything from seed".into(),
            "remove it, and set seed",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training_job::validate::tests::sample;
    use serde_json::{Value, json};

    #[test]
    fn what_is_left_out_is_supported() {
        assert_eq!(unsupported(&sample(|_| {}).spec), []);
    }

    #[test]
    fn every_field_that_nothing_acts_on_is_refused_by_name() {
        let cases: Vec<(&str, Value)> = vec![
            ("task", "CausalLM".into()),
            ("objective.type", json!({"type": "SFT"})),
            (
                "objective.classWeights",
                json!({"type": "Classification", "classWeights": "Balanced"}),
            ),
            ("distillation", json!({"teacher": {"source": "pvc://models/large"}})),
            ("peft", json!({})),
            ("data.train.format", "Parquet".into()),
            ("data.eval.format", "Text".into()),
            ("data.train.messages", "turns".into()),
            ("data.train.prompt", "question".into()),
            ("data.train.completion", "answer".into()),
            ("data.train.chosen", "good".into()),
            ("data.train.rejected", "bad".into()),
            ("parallelism.sharding", "Full".into()),
            ("parallelism.tensor", 2.into()),
            ("parallelism.pipeline", 2.into()),
            ("parallelism.expert", 2.into()),
            ("training.optim", "SGD".into()),
            ("training.momentum", 0.9.into()),
            ("training.bf16", true.into()),
            ("training.gradientCheckpointing", true.into()),
            ("training.autoFindBatchSize", true.into()),
            ("training.averageTokensAcrossDevices", false.into()),
            ("training.onNonFinite", "Skip".into()),
            ("training.labelSmoothingFactor", 0.1.into()),
            ("training.loggingFirstStep", true.into()),
            ("training.evalOnStart", true.into()),
            ("training.evalDelay", 1.into()),
            ("training.earlyStoppingPatience", 2.into()),
            ("training.ddpBucketCapMb", 50.into()),
            ("training.trainSamplingStrategy", "GroupByLength".into()),
            ("training.dataloaderDropLast", true.into()),
            ("training.dataSeed", 7.into()),
        ];
        for (field, value) in cases {
            let job = sample(|job| {
                // An object stands for what it is in; a scalar goes where the field is.
                let path = field.split('.').take(if value.is_object() { 1 } else { 3 });
                let place = path.fold(&mut job["spec"], |at, name| &mut at[name]);
                *place = value.clone();
            });
            let faults = unsupported(&job.spec);
            assert_eq!(faults.len(), 1, "{field}: {faults:?}");
            assert_eq!(faults[0].field, format!("spec.{field}"));
            assert!(!faults[0].fix.is_empty(), "{field}");
        }
    }

    #[test]
    fn determinism_is_a_matter_of_gpus() {
        for (accelerator, faults) in [("CPU", 0), ("CUDA", 1)] {
            let job = sample(|job| {
                job["spec"]["training"] = json!({"fullDeterminism": true});
                job["spec"]["workers"]["accelerator"] = accelerator.into();
            });
            assert_eq!(unsupported(&job.spec).len(), faults, "{accelerator}");
        }
    }

    #[test]
    fn a_files_ending_is_its_format() {
        let job = sample(|j| j["spec"]["data"]["train"]["source"] = "pvc://data/x.PARQUET".into());
        assert_eq!(unsupported(&job.spec)[0].field, "spec.data.train.format");
    }
}
