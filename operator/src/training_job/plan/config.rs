//! The worker's configuration from a valid job, for pods and local processes.

use hearth_crds::objective::{Objective, ObjectiveType};
use hearth_crds::preparation::{self, PrepareConfig};
use hearth_crds::source::Source;
use hearth_crds::tabular::Tabular;
use hearth_crds::training_job::{DataSource, Task, TrainingJobSpec};
use hearth_crds::worker_config::{
    AGENT_PORT, CONFIG_VERSION, DataFile, JobIdentity, TrainConfig, TrainData, TrainDistillation,
};

use crate::source_rules::{Backend, path_of};
use crate::training_job::validate::ValidJob;

/// What `hearth-worker agent` is told. The same for every agent of the job:
/// an agent's index comes from its environment.
pub fn train_config(job: &ValidJob, backend: &Backend) -> TrainConfig {
    let spec = &job.spec;
    let (coordinator_host, coordinator_port) = match backend {
        Backend::Cluster => (coordinator_host(job), AGENT_PORT),
        Backend::Local(machine) => ("127.0.0.1".into(), machine.coordinator_port),
    };
    TrainConfig {
        version: CONFIG_VERSION.into(),
        job: identity(job),
        task: spec.task,
        accelerator: spec.workers.accelerator(),
        model: job.model.as_ref().map(|model| path_of(model, backend)),
        data: TrainData {
            train: data_file(&spec.data.train, &job.train, backend),
            eval: eval_file(job, backend),
            eval_split: spec.data.eval_split,
            clean: spec.data.clean.clone(),
            replace: spec.data.replace.clone(),
            mask: spec.data.mask.clone(),
            prepared: job.prepared.as_ref().map(|directory| {
                path_of(directory, backend).join(preparation::pointer(&identity(job)))
            }),
            max_bad_rows: spec.data.max_bad_rows.unsigned_abs(),
        },
        objective: spec.objective.clone().or_else(|| Objective::of_task(spec.task)),
        distillation: spec.distillation.as_ref().zip(job.teacher.as_ref()).map(
            |(distillation, teacher)| TrainDistillation {
                teacher: path_of(teacher, backend),
                temperature: distillation.temperature,
                alpha: distillation.alpha,
            },
        ),
        pruning: spec.pruning.clone(),
        peft: spec.peft.clone(),
        tabular: spec.task.is_tabular().then(|| tabular(spec)),
        training: spec.training.clone(),
        stop_at_step: spec.stop_at_step.map(i64::unsigned_abs),
        parallelism: spec.parallelism.clone(),
        replicas: spec.workers.replicas.unsigned_abs(),
        processes_per_worker: spec.workers.processes_per_worker.unsigned_abs(),
        output: path_of(&job.output, backend),
        output_uri: job.output.to_string(),
        checkpoints: spec.output.checkpoints.as_ref().map(|storage| storage.destination.clone()),
        keep_checkpoints: spec.output.keep_checkpoints.unsigned_abs(),
        max_restarts: spec.restart_policy.max_restarts.unsigned_abs(),
        coordinator_host,
        coordinator_port,
    }
}

/// Host name of agent 0: pod 0 of the child Job in the headless Service.
fn coordinator_host(job: &ValidJob) -> String {
    let child = job.child_name();
    format!("{child}-0.{child}")
}

/// Where the export is once the job has succeeded: `model` below the output.
pub fn model_uri(job: &ValidJob) -> String {
    job.output.join("model").to_string()
}

/// What `hearth-worker prepare` is told, where rows are prepared.
pub fn prepare_config(job: &ValidJob, backend: &Backend) -> Option<PrepareConfig> {
    let (preparation, output) = job.spec.data.preparation.as_ref().zip(job.prepared.as_ref())?;
    let data = &job.spec.data;
    let (texts, label, image) = fields(job);
    Some(PrepareConfig {
        version: CONFIG_VERSION.into(),
        job: identity(job),
        train: data_file(&data.train, &job.train, backend),
        eval: eval_file(job, backend),
        eval_split: data.eval_split,
        text_fields: texts.iter().map(|field| (*field).to_owned()).collect(),
        label: label.cloned(),
        image: image.cloned(),
        cleaning: data.cleaning(),
        max_bad_rows: data.max_bad_rows.unsigned_abs(),
        preparation: (**preparation).clone(),
        synonyms: job.synonyms.as_ref().map(|source| path_of(source, backend)),
        features: job.features.iter().map(|source| path_of(source, backend)).collect(),
        output: path_of(output, backend),
        output_uri: output.to_string(),
    })
}

/// How a table is learned. What rows are split by, and the times of windows, say nothing of rows to come.
fn tabular(spec: &TrainingJobSpec) -> Tabular {
    let mut asked = spec.tabular.as_deref().cloned().unwrap_or_default();
    let Some(preparation) = spec.data.preparation.as_ref().filter(|_| asked.features.is_empty())
    else {
        return asked;
    };
    let split = preparation.split.as_ref().and_then(|split| split.field.clone());
    let augment = preparation.augment.as_ref();
    let windows = augment.and_then(|augment| augment.table.as_ref()?.windows.as_ref());
    for field in split.into_iter().chain(windows.map(|windows| windows.time.clone())) {
        if !asked.exclude.contains(&field) {
            asked.exclude.push(field);
        }
    }
    asked
}

/// The fields of texts, of the label and of the picture that a job's task reads.
fn fields(job: &ValidJob) -> (Vec<&String>, Option<&String>, Option<&String>) {
    let rows = &job.spec.data.train;
    let objective = job.spec.objective.clone().or_else(|| Objective::of_task(job.spec.task));
    match (job.spec.task, objective.map(|objective| objective.type_)) {
        (Task::ImageClassification, _) => (Vec::new(), Some(&rows.label), Some(&rows.image)),
        (Task::SequenceClassification, _) => (vec![&rows.text], Some(&rows.label), None),
        (Task::TabularClassification | Task::TabularRegression, _) => {
            (Vec::new(), Some(&rows.label), None)
        }
        (Task::CausalLM, Some(ObjectiveType::SFT)) => {
            (vec![&rows.messages, &rows.prompt, &rows.completion, &rows.text], None, None)
        }
        (Task::CausalLM, Some(ObjectiveType::DPO)) => {
            (vec![&rows.prompt, &rows.chosen, &rows.rejected], None, None)
        }
        (Task::CausalLM, _) => (vec![&rows.text], None, None),
    }
}

fn identity(job: &ValidJob) -> JobIdentity {
    JobIdentity { namespace: job.namespace.clone(), name: job.name.clone(), uid: job.uid.clone() }
}

fn eval_file(job: &ValidJob, backend: &Backend) -> Option<DataFile> {
    let rows = job.spec.data.eval.as_ref().zip(job.eval.as_ref());
    rows.map(|(rows, source)| data_file(rows, source, backend))
}

/// A file of rows as the back end's processes see it.
pub(crate) fn data_file(rows: &DataSource, source: &Source, backend: &Backend) -> DataFile {
    DataFile {
        path: path_of(source, backend),
        uri: rows.source.clone(),
        format: rows.format(),
        text: rows.text.clone(),
        image: rows.image.clone(),
        label: rows.label.clone(),
        messages: rows.messages.clone(),
        prompt: rows.prompt.clone(),
        completion: rows.completion.clone(),
        chosen: rows.chosen.clone(),
        rejected: rows.rejected.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_rules::LocalMachine;
    use crate::training_job::validate::{self, tests::sample};
    use serde_json::json;
    use std::path::{Path, PathBuf};

    #[test]
    fn pods_and_local_processes_get_the_same_but_for_places() {
        let valid = validate::job(&sample(|_| {}), &Backend::Cluster).unwrap();
        let pods = train_config(&valid, &Backend::Cluster);
        assert_eq!(pods.coordinator_host, "spam-train-0.spam-train");
        assert_eq!(pods.model.as_deref(), Some(Path::new("/mnt/hearth/models/minilm")));
        assert_eq!(model_uri(&valid), "pvc://models/spam/model");

        let job = sample(|j| {
            j["spec"]["model"]["source"] = "file:///m".into();
            j["spec"]["data"]["train"]["source"] = "file:///d/train.jsonl".into();
        });
        let claims = [("models", "/x/models"), ("data", "/x/data")]
            .map(|(claim, path)| (claim.to_owned(), PathBuf::from(path)));
        let local = Backend::Local(LocalMachine { claims: claims.into(), coordinator_port: 9000 });
        let config = train_config(&validate::job(&job, &local).unwrap(), &local);
        assert_eq!(config.coordinator_host, "127.0.0.1");
        assert_eq!(config.coordinator_port, 9000);
        assert_eq!(config.model.as_deref(), Some(Path::new("/m")));
        assert_eq!(config.data.eval.unwrap().path, Path::new("/x/data/eval.jsonl"));
        assert_eq!(config.output, Path::new("/x/models/spam"));
        assert_eq!(config.training, pods.training);
    }

    #[test]
    fn the_worker_is_told_the_loss_the_teacher_and_the_adapters() {
        let mut valid = validate::job(&sample(|_| {}), &Backend::Cluster).unwrap();
        let objective = train_config(&valid, &Backend::Cluster).objective.unwrap();
        assert_eq!(objective, Objective::new(ObjectiveType::Classification));
        valid.teacher = Some(Source::parse("pvc://teachers/large").unwrap());
        valid.spec.distillation = serde_json::from_value(
            json!({"teacher": {"source": "pvc://teachers/large"}, "alpha": 0.7}),
        )
        .unwrap();
        valid.spec.peft = serde_json::from_value(json!({"r": 16})).unwrap();
        let config = train_config(&valid, &Backend::Cluster);
        let distillation = config.distillation.unwrap();
        assert_eq!(distillation.teacher, Path::new("/mnt/hearth/teachers/large"));
        assert_eq!((distillation.temperature, distillation.alpha), (2.0, 0.7));
        assert_eq!(config.peft.unwrap().r, 16);
    }

    #[test]
    fn the_document_reads_back() {
        let valid = validate::job(&sample(|_| {}), &Backend::Cluster).unwrap();
        let config = train_config(&valid, &Backend::Cluster);
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
    }
}
