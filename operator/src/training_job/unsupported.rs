//! What a TrainingJob may say and this version does not do.
//!
//! The CLI and the operator both refuse by this list. What the worker learns to do
//! leaves it, one entry a field; `worker/src/config/refusals.rs` has the same list.

use hearth_crds::objective::ObjectiveType;
use hearth_crds::peft::BaseQuantization;
use hearth_crds::pruning::PruningType;
use hearth_crds::tabular::Neural;
use hearth_crds::training_arguments::{Metric, Optimizer, TrainingArguments};
use hearth_crds::training_job::{
    Accelerator, DataSource, Parallelism, Sharding, Task, TrainingJobSpec, default_keep_checkpoints,
};
use hearth_crds::worker_config::DataFile;

use crate::fault::Fault;

/// Whether it was asked for; the field, what is wrong, what to do.
type Gap<'a> = (bool, &'a str, String, &'a str);

/// Everything in the spec that this version does not do.
pub fn unsupported(spec: &TrainingJobSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    let gaps = [
        engine_gaps(spec),
        objective_gaps(spec),
        step_gaps(spec),
        preparation_gaps(spec),
        tabular_gaps(spec),
    ];
    for (asked, field, problem, fix) in gaps.into_iter().flatten() {
        if asked {
            faults.push(Fault::unsupported(field, problem, fix));
        }
    }
    let objective = spec.objective.as_ref().map(|objective| objective.type_);
    faults.extend(unread_rows("spec.data.train", &spec.data.train, spec.task, objective));
    if let Some(eval) = &spec.data.eval {
        faults.extend(unread_rows("spec.data.eval", eval, spec.task, objective));
    }
    faults
}

/// Names of columns that the task with its objective does not read.
pub fn unread_rows(
    field: &str,
    rows: &DataSource,
    task: Task,
    objective: Option<ObjectiveType>,
) -> Vec<Fault> {
    let names = DataFile::default();
    let sequences = task == Task::CausalLM;
    let (pictures, tables) = (task == Task::ImageClassification, task.is_tabular());
    let preferences = objective == Some(ObjectiveType::DPO);
    let mut faults = Vec::new();
    for (read, part, name, default) in [
        (!pictures && !tables, "text", &rows.text, &names.text),
        (pictures, "image", &rows.image, &names.image),
        (!sequences, "label", &rows.label, &names.label),
        (sequences && !preferences, "messages", &rows.messages, &names.messages),
        (sequences, "prompt", &rows.prompt, &names.prompt),
        (sequences && !preferences, "completion", &rows.completion, &names.completion),
        (preferences, "chosen", &rows.chosen, &names.chosen),
        (preferences, "rejected", &rows.rejected, &names.rejected),
    ] {
        if !read && name != default {
            let with = objective.map_or(String::new(), |objective| format!(" and {objective:?}"));
            faults.push(Fault::unsupported(
                format!("{field}.{part}"),
                format!("this version does not read it with {task:?}{with}"),
                "remove it",
            ));
        }
    }
    faults
}

fn preparation_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let Some(preparation) = &spec.data.preparation else { return Vec::new() };
    let (pictures, tables) = (spec.task == Task::ImageClassification, spec.task.is_tabular());
    let no_texts = pictures || tables;
    let alike = preparation.deduplicate.as_ref();
    let augment = preparation.augment.as_ref();
    let misfit = |asked: bool, field, fits: &str| {
        (asked, field, format!("{:?} has no {fits}", spec.task), "remove it")
    };
    vec![
        misfit(
            no_texts && preparation.filter.is_some(),
            "spec.data.preparation.filter",
            "texts that it reads",
        ),
        misfit(
            no_texts && alike.is_some_and(|alike| alike.near.is_some()),
            "spec.data.preparation.deduplicate.near",
            "texts that it reads",
        ),
        misfit(
            no_texts && augment.is_some_and(|augment| augment.text.is_some()),
            "spec.data.preparation.augment.text",
            "texts that it reads",
        ),
        misfit(
            !pictures && alike.is_some_and(|alike| alike.hash_distance.is_some()),
            "spec.data.preparation.deduplicate.hashDistance",
            "pictures",
        ),
        misfit(
            !pictures && preparation.images.is_some(),
            "spec.data.preparation.images",
            "pictures",
        ),
        misfit(
            !pictures && augment.is_some_and(|augment| augment.image.is_some()),
            "spec.data.preparation.augment.image",
            "pictures",
        ),
        misfit(
            !tables && augment.is_some_and(|augment| augment.table.is_some()),
            "spec.data.preparation.augment.table",
            "rows of a table",
        ),
    ]
}

fn engine_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let ways = &spec.parallelism;
    let splits = ways.tensor > 1 || ways.pipeline > 1 || ways.expert > 1;
    let shares = splits || ways.sharding != Sharding::None;
    let dpo = spec.objective.as_ref().is_some_and(|asked| asked.type_ == ObjectiveType::DPO);
    vec![
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
            shares
                && spec
                    .pruning
                    .as_ref()
                    .is_some_and(|asked| asked.type_ != PruningType::Structured),
            "spec.pruning.type",
            "this version keeps zeros in whole layers only".into(),
            "use Structured, or sharding None and tensor, pipeline and expert 1",
        ),
        (
            splits && spec.peft.is_some(),
            "spec.peft",
            "this version does not split adapters over ranks".into(),
            "remove it, or use parallelism.tensor, pipeline and expert 1 (sharding goes with it)",
        ),
        (
            ways.pipeline > 1 && (dpo || spec.distillation.is_some()),
            "spec.parallelism.pipeline",
            "this version has no pipeline for losses of several forward passes (DPO, distillation)"
                .into(),
            "use 1, and sharding or tensor instead",
        ),
        (
            shares && spec.training.optim == Optimizer::Adafactor,
            "spec.parallelism",
            "Adafactor needs whole parameters on each rank".into(),
            "use AdamW, or sharding None and tensor, pipeline and expert 1",
        ),
    ]
}

/// What trees and networks of tables have no use for.
fn tabular_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    if !spec.task.is_tabular() {
        return Vec::new();
    }
    let (workers, output) = (&spec.workers, &spec.output);
    let neural = spec.tabular.as_ref().and_then(|tabular| tabular.neural.as_ref());
    let (models, length) = match neural {
        None => ("trees", "use tabular.trees.nEstimators"),
        Some(_) => ("networks of tables", "use training.numTrainEpochs or maxSteps"),
    };
    let gap = |asked: bool, field, problem: String, fix| (asked, field, problem, fix);
    let mut gaps = vec![
        gap(
            workers.replicas != 1 || workers.processes_per_worker != 1,
            "spec.workers",
            format!("{models} are learned by one process"),
            "use replicas 1 and processesPerWorker 1",
        ),
        gap(
            workers.accelerator() == Accelerator::CUDA,
            "spec.workers.accelerator",
            format!("{models} are learned on CPUs"),
            "use CPU, and ask for no nvidia.com/gpu",
        ),
        gap(
            spec.parallelism != Parallelism::default(),
            "spec.parallelism",
            format!("{models} are learned by one process"),
            "remove it",
        ),
        gap(
            spec.distillation.is_some(),
            "spec.distillation",
            format!("{models} learn from rows"),
            "remove it",
        ),
        gap(!spec.data.clean.is_empty(), "spec.data.clean", "it is for texts".into(), "remove it"),
        gap(
            spec.stop_at_step.is_some(),
            "spec.stopAtStep",
            format!("{models} keep no checkpoint of a step that is asked for"),
            length,
        ),
        gap(
            output.checkpoints.is_some() || output.keep_checkpoints != default_keep_checkpoints(),
            "spec.output",
            format!("{models} keep one checkpoint, below output.destination, for restarts"),
            "remove checkpoints and keepCheckpoints",
        ),
    ];
    gaps.extend(learning_gap(spec, neural));
    gaps
}

/// What is said of learning and has no effect on trees, or on a network of tables.
fn learning_gap<'a>(spec: &TrainingJobSpec, neural: Option<&Neural>) -> Vec<Gap<'a>> {
    let Some(neural) = neural else {
        let seed = TrainingArguments { seed: spec.training.seed, ..TrainingArguments::default() };
        return vec![(
            spec.training != seed,
            "spec.training",
            "trees have none of these but seed".into(),
            "leave out all others; spec.tabular.trees has what trees have",
        )];
    };
    let mut gaps = vec![(
        spec.training != Neural::training(&spec.training),
        "spec.training",
        format!("networks of tables have none of these but {}", Neural::TRAINING),
        "leave out all others",
    )];
    if let Some((field, problem)) = neural.fault() {
        gaps.push((true, field, problem, "correct it"));
    }
    gaps
}

fn objective_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let (objective, peft) = (spec.objective.as_ref(), spec.peft.as_ref());
    vec![
        (
            objective.is_some_and(|objective| objective.type_ == ObjectiveType::DPO)
                && peft.is_some_and(|peft| peft.lora_dropout > 0.0),
            "spec.peft.loraDropout",
            "DPO trains without dropout".into(),
            "use 0",
        ),
        (
            objective.is_some_and(|objective| objective.threshold.is_some())
                && peft.is_some_and(|peft| !peft.merge_on_export),
            "spec.objective.threshold",
            "adapters by themselves have no threshold".into(),
            "set peft.mergeOnExport to true, or remove it",
        ),
        (
            peft.is_some_and(|peft| peft.base_quantization != BaseQuantization::None)
                && spec.parallelism.sharding != Sharding::None,
            "spec.peft.baseQuantization",
            "this version does not shard quantized weights".into(),
            "use None with sharding, or parallelism.sharding None",
        ),
    ]
}

/// Of how one step is made.
fn step_gaps(spec: &TrainingJobSpec) -> Vec<Gap<'_>> {
    let training = &spec.training;
    vec![(
        spec.task == Task::CausalLM
            && training.load_best_model_at_end
            && matches!(training.metric_for_best_model, Metric::F1 | Metric::F1Macro),
        "spec.training.metricForBestModel",
        "F1 is of classifiers".into(),
        "use loss or accuracy with CausalLM",
    )]
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
            ("data.train.image", "file_name".into()),
            ("data.train.messages", "turns".into()),
            ("data.train.prompt", "question".into()),
            ("data.train.completion", "answer".into()),
            ("data.train.chosen", "good".into()),
            ("data.train.rejected", "bad".into()),
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

    /// Fields at fault of a job of tables, by a change of its spec.
    fn table(change: &dyn Fn(&mut Value)) -> Vec<String> {
        let job = sample(|job| {
            let spec = &mut job["spec"];
            spec["task"] = "TabularClassification".into();
            spec.as_object_mut().unwrap().remove("model");
            spec["data"]["preparation"] = json!({});
            spec["workers"] = json!({});
            spec["training"] = json!({"seed": 3});
            change(spec);
        });
        unsupported(&job.spec).into_iter().map(|fault| fault.field).collect()
    }

    #[test]
    fn trees_have_no_use_for_what_networks_have() {
        type Change = fn(&mut Value);
        assert_eq!(table(&|_| {}), [""; 0]);
        let cases: [(Change, &str); 9] = [
            (|spec| spec["training"]["maxSteps"] = 3.into(), "spec.training"),
            (|spec| spec["workers"]["replicas"] = 2.into(), "spec.workers"),
            (|spec| spec["workers"]["accelerator"] = "CUDA".into(), "spec.workers.accelerator"),
            (|spec| spec["parallelism"] = json!({"sharding": "Full"}), "spec.parallelism"),
            (|spec| spec["data"]["clean"] = json!(["NFKC"]), "spec.data.clean"),
            (|spec| spec["data"]["train"]["text"] = "body".into(), "spec.data.train.text"),
            (|spec| spec["stopAtStep"] = 3.into(), "spec.stopAtStep"),
            (|spec| spec["output"]["keepCheckpoints"] = 5.into(), "spec.output"),
            (
                |spec| spec["data"]["preparation"] = json!({"filter": {"minCharacters": 3}}),
                "spec.data.preparation.filter",
            ),
        ];
        for (change, field) in cases {
            assert_eq!(table(&change), [field]);
        }
    }

    #[test]
    fn networks_of_tables_take_what_trains_them_and_no_more() {
        type Change = fn(&mut Value);
        let table = |change: &dyn Fn(&mut Value)| {
            table(&|spec| {
                spec["tabular"] = json!({"neural": {"architecture": "FTTransformer"}});
                spec["training"] = json!({
                    "perDeviceTrainBatchSize": 256, "learningRate": 1e-4, "weightDecay": 1e-5,
                    "numTrainEpochs": 100, "lrSchedulerType": "Constant", "evalStrategy": "Epoch",
                    "earlyStoppingPatience": 16, "earlyStoppingThreshold": 0.001, "seed": 3,
                    "maxGradNorm": 0.5, "loggingSteps": 20
                });
                change(spec);
            })
        };
        assert_eq!(table(&|_| {}), [""; 0]);
        let cases: [(Change, &str); 8] = [
            (|spec| spec["training"]["optim"] = "SGD".into(), "spec.training"),
            (|spec| spec["training"]["evalStrategy"] = "Steps".into(), "spec.training"),
            (|spec| spec["training"]["bf16"] = true.into(), "spec.training"),
            (|spec| spec["training"]["gradientAccumulationSteps"] = 2.into(), "spec.training"),
            (|spec| spec["workers"]["replicas"] = 2.into(), "spec.workers"),
            (|spec| spec["stopAtStep"] = 3.into(), "spec.stopAtStep"),
            (
                |spec| spec["tabular"]["neural"]["dToken"] = 100.into(),
                "spec.tabular.neural.attentionHeads",
            ),
            (
                |spec| spec["tabular"]["neural"]["layers"] = 3.into(),
                "spec.tabular.neural.architecture",
            ),
        ];
        for (change, field) in cases {
            assert_eq!(table(&change), [field]);
        }
    }

    #[test]
    fn what_does_not_go_with_a_split_model_is_refused() {
        let faults = |tensor: i32, sharding: &str| {
            let job = sample(|job| {
                job["spec"]["parallelism"] = json!({"tensor": tensor, "sharding": sharding});
                job["spec"]["peft"] = json!({"r": 4});
            });
            unsupported(&job.spec).into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert_eq!(faults(2, "None"), ["spec.peft"]);
        assert_eq!(faults(1, "Full"), [""; 0]);
    }
}
