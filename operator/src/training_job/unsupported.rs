//! What a TrainingJob may say and this version does not do.
//!
//! The CLI and the operator both refuse by this list. What the worker learns to do
//! leaves it, one entry a field; `worker/src/config.rs` has the same list.

use hearth_crds::objective::ObjectiveType;
use hearth_crds::peft::BaseQuantization;
use hearth_crds::training_arguments::{
    Metric, OnNonFinite, Optimizer, TrainSamplingStrategy, TrainingArguments,
};
use hearth_crds::training_job::{Accelerator, DataSource, Sharding, Task, TrainingJobSpec};
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
    faults.extend(unread_rows("spec.data.train", &spec.data.train, spec.task));
    if let Some(eval) = &spec.data.eval {
        faults.extend(unread_rows("spec.data.eval", eval, spec.task));
    }
    faults
}

/// Names of columns that the task does not read.
pub fn unread_rows(field: &str, rows: &DataSource, task: Task) -> Vec<Fault> {
    let names = DataFile::default();
    let sequences = task == Task::CausalLM;
    let pictures = task == Task::ImageClassification;
    let mut faults = Vec::new();
    for (unread, part, name, default) in [
        (pictures, "text", &rows.text, &names.text),
        (!pictures, "image", &rows.image, &names.image),
        (sequences, "label", &rows.label, &names.label),
        (!sequences, "messages", &rows.messages, &names.messages),
        (!sequences, "prompt", &rows.prompt, &names.prompt),
        (!sequences, "completion", &rows.completion, &names.completion),
        (true, "chosen", &rows.chosen, &names.chosen),
        (true, "rejected", &rows.rejected, &names.rejected),
    ] {
        if unread && name != default {
            faults.push(Fault::unsupported(
                format!("{field}.{part}"),
                format!("this version does not read it with {task:?}"),
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
            matches!(spec.task, Task::TabularClassification | Task::TabularRegression),
            "spec.task",
            format!("this version does not train {:?}", spec.task),
            "use SequenceClassification, ImageClassification or CausalLM",
        ),
        (
            spec.task == Task::ImageClassification && !spec.data.clean.is_empty(),
            "spec.data.clean",
            "it is for texts".into(),
            "remove it with ImageClassification",
        ),
        (
            spec.task == Task::ImageClassification
                && spec.training.max_length != TrainingArguments::default().max_length,
            "spec.training.maxLength",
            "pictures have no tokens".into(),
            "remove it with ImageClassification",
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
    let (objective, peft) = (spec.objective.as_ref(), spec.peft.as_ref());
    vec![
        (
            objective.is_some_and(|objective| objective.type_ == ObjectiveType::DPO),
            "spec.objective.type",
            "this version does not learn preferences (DPO)".into(),
            "use SFT, Pretraining or Classification",
        ),
        (
            objective.is_some_and(|objective| objective.packing),
            "spec.objective.packing",
            "this version gives each row a sequence of its own".into(),
            "use false",
        ),
        (
            spec.distillation.is_some(),
            "spec.distillation",
            "this version learns from data only".into(),
            "remove it",
        ),
        (
            peft.is_some_and(|peft| peft.base_quantization != BaseQuantization::None),
            "spec.peft.baseQuantization",
            "this version holds frozen weights in float32".into(),
            "use None",
        ),
        (
            peft.is_some_and(|peft| !peft.merge_on_export),
            "spec.peft.mergeOnExport",
            "this version exports whole models".into(),
            "use true",
        ),
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
            spec.task == Task::CausalLM
                && training.load_best_model_at_end
                && matches!(training.metric_for_best_model, Metric::F1 | Metric::F1Macro),
            "spec.training.metricForBestModel",
            "F1 is of classifiers".into(),
            "use loss or accuracy with CausalLM",
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
            training.label_smoothing_factor > 0.0 && spec.task == Task::CausalLM,
            "spec.training.labelSmoothingFactor",
            "this version does not smooth the targets of CausalLM".into(),
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
            ("task", "TabularClassification".into()),
            ("data.train.image", "file_name".into()),
            ("objective.type", json!({"type": "DPO"})),
            ("objective.packing", json!({"type": "SFT", "packing": true})),
            ("distillation", json!({"teacher": {"source": "pvc://models/large"}})),
            ("peft.baseQuantization", json!({"baseQuantization": "INT8"})),
            ("peft.mergeOnExport", json!({"mergeOnExport": false})),
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
    fn pictures_have_no_text() {
        let pictures = |change: &dyn Fn(&mut Value)| {
            unsupported(
                &sample(|job| {
                    job["spec"]["task"] = "ImageClassification".into();
                    job["spec"]["data"]["clean"] = json!([]);
                    job["spec"]["training"] = json!({});
                    change(job);
                })
                .spec,
            )
        };
        assert_eq!(pictures(&|_| {}), []);
        for (field, value) in [
            ("data.clean", json!(["StripControl"])),
            ("training.maxLength", 16.into()),
            ("data.train.text", "caption".into()),
        ] {
            let faults = pictures(&|job| {
                let place = field.split('.').fold(&mut job["spec"], |at, name| &mut at[name]);
                *place = value.clone();
            });
            assert_eq!(faults.len(), 1, "{field}: {faults:?}");
            assert_eq!(faults[0].field, format!("spec.{field}"));
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
}
