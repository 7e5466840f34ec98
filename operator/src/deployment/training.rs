//! The TrainingJob between a deployment's model and the one that is compressed. Pure.

use hearth_crds::TrainingJob;
use hearth_crds::model_deployment::{Compression, CompressionTraining};
use hearth_crds::names;
use hearth_crds::objective::Distillation;
use hearth_crds::source::Source;
use hearth_crds::training_job::{ModelSource, OutputSpec, TrainingJobSpec};

use super::observed::Model;
use super::target::beside;
use super::validate::ValidDeployment;
use crate::fault::Fault;
use crate::source_rules::Backend;
use crate::training_job::validate as jobs;

/// Role of the TrainingJob among the deployment's objects.
const COMPONENT: &str = "training";

/// The job that trains on from `model`, where the deployment asks for one and its model is here.
pub fn job(valid: &ValidDeployment, model: &Model) -> Option<TrainingJob> {
    let compression = valid.spec.compression.as_ref()?;
    let training = compression.training.as_ref()?;
    let Model::Here { uri, digest } = model else { return None };
    let id = names::digest(&(uri.to_string(), digest, training, &compression.pruning));
    let destination = || beside(uri, &format!("trained-{id}")).to_string();
    let destination = training.destination.clone().unwrap_or_else(destination);
    let name = valid.child_name(&format!("train-{id}"));
    let mut job = TrainingJob::new(&name, spec(compression, training, uri, destination));
    job.metadata = valid.parent().child_meta(&name, COMPONENT);
    if let Some(queue) = &valid.queue {
        let labels = job.metadata.labels.get_or_insert_default();
        labels.insert(names::LABEL_QUEUE.into(), queue.clone());
    }
    Some(job)
}

fn spec(
    compression: &Compression,
    training: &CompressionTraining,
    model: &Source,
    destination: String,
) -> TrainingJobSpec {
    let own = ModelSource { source: model.to_string() };
    let student = training.distillation.as_ref().and_then(|asked| asked.student.clone());
    TrainingJobSpec {
        task: training.task,
        model: Some(student.unwrap_or_else(|| own.clone())),
        data: training.data.clone(),
        objective: training.objective.clone(),
        distillation: training.distillation.as_ref().map(|asked| Distillation {
            teacher: own,
            temperature: asked.temperature,
            alpha: asked.alpha,
        }),
        pruning: compression.pruning.clone(),
        peft: None,
        tabular: None,
        training: training.training.clone(),
        parallelism: training.parallelism.clone(),
        workers: training.workers.clone(),
        output: OutputSpec { destination, keep_checkpoints: 1, checkpoints: None },
        stop_at_step: None,
        restart_policy: training.restart_policy.clone(),
        active_deadline_seconds: training.active_deadline_seconds,
        ttl_seconds_after_finished: None,
        suspend: false,
        stop: None,
    }
}

/// Everything that would be wrong with such a job, by the deployment's fields.
pub fn faults(compression: &Compression) -> Vec<Fault> {
    let Some(training) = &compression.training else { return Vec::new() };
    // The deployment's model may not be here yet; where it is, is no one's fault here.
    let model = Source::Pvc { claim: "model".into(), path: "model".into() };
    let destination = training.destination.clone().unwrap_or_else(|| model.to_string());
    let job = TrainingJob::new("training", spec(compression, training, &model, destination));
    let place = |field: &str| match field.strip_prefix("spec.").unwrap_or(field) {
        "model.source" => "spec.compression.training.distillation.student.source".to_owned(),
        "output.destination" => "spec.compression.training.destination".to_owned(),
        field if field.starts_with("pruning") => format!("spec.compression.{field}"),
        field => format!("spec.compression.training.{field}"),
    };
    let broken = hearth_crds::rules::training_job(&job).err().map(|broken| {
        Fault::invalid("spec.compression.training", broken.to_string(), "correct it")
    });
    let refused = jobs::job(&job, &Backend::Cluster).err();
    let refused = refused.iter().flat_map(|faults| faults.faults().iter().cloned());
    broken
        .into_iter()
        .chain(refused.map(|fault| Fault { field: place(&fault.field), ..fault }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::validate::{self, tests::sample};
    use serde_json::{Value, json};

    fn asked(compression: Value) -> Value {
        let mut training = json!({
            "task": "SequenceClassification",
            "data": {"train": {"source": "pvc://data/train.jsonl"}},
            "training": {"maxSteps": 10},
        });
        let given = compression["training"].as_object().cloned().unwrap_or_default();
        training.as_object_mut().unwrap().extend(given);
        let mut all = compression;
        all["training"] = training;
        all["quantization"] = "INT8".into();
        all
    }

    fn job_of(compression: Value, digest: &str) -> TrainingJob {
        let valid =
            validate::deployment(&sample(|d| d["spec"]["compression"] = asked(compression)))
                .unwrap();
        let uri = Source::parse("pvc://models/spam/model").unwrap();
        job(&valid, &Model::Here { uri, digest: Some(digest.into()) }).unwrap()
    }

    #[test]
    fn a_pruned_model_is_trained_on_beside_where_it_was() {
        let pruning = json!({"type": "Unstructured", "sparsity": 0.5});
        let job = job_of(json!({"pruning": pruning}), "d1");
        assert_eq!(job.spec.model.as_ref().unwrap().source, "pvc://models/spam/model");
        assert_eq!(serde_json::to_value(&job.spec.pruning).unwrap(), pruning);
        assert!(job.spec.distillation.is_none());
        let name = job.metadata.name.clone().unwrap();
        let id = name.strip_prefix("spam-train-").unwrap();
        assert_eq!(job.spec.output.destination, format!("pvc://models/spam/model-trained-{id}"));
        // The same model again is the same job, another one is not.
        assert_eq!(job_of(json!({"pruning": pruning}), "d1"), job);
        assert_ne!(job_of(json!({"pruning": pruning}), "d2").metadata.name, job.metadata.name);
    }

    #[test]
    fn the_deployments_model_teaches() {
        let student = json!({"student": {"source": "pvc://models/small"}, "alpha": 0.9});
        let job = job_of(json!({"training": {"distillation": student}}), "d1");
        assert_eq!(job.spec.model.as_ref().unwrap().source, "pvc://models/small");
        let learns = job.spec.distillation.unwrap();
        assert_eq!(learns.teacher.source, "pvc://models/spam/model");
        assert_eq!((learns.temperature, learns.alpha), (2.0, 0.9));
        // What pruning leaves learns from the whole.
        let job = job_of(
            json!({"pruning": {"type": "SemiStructured"}, "training": {"distillation": {}}}),
            "d1",
        );
        assert_eq!(job.spec.model, job.spec.distillation.map(|asked| asked.teacher));
    }

    #[test]
    fn what_the_job_would_be_refused_for_is_told_by_the_deployments_fields() {
        let pruning = json!({"type": "SemiStructured"});
        for (change, field) in [
            (
                json!({"workers": {"replicas": 2}, "parallelism": {"tensor": 2}}),
                "spec.compression.pruning.type",
            ),
            (json!({"destination": "file:///out"}), "spec.compression.training.destination"),
            (json!({"task": "TabularRegression"}), "spec.compression.training"),
            (
                json!({"distillation": {"student": {"source": "hf:"}}}),
                "spec.compression.training.distillation.student.source",
            ),
        ] {
            let compression = asked(json!({"pruning": pruning, "training": change}));
            let faults = validate::deployment(&sample(|d| d["spec"]["compression"] = compression));
            let faults = faults.unwrap_err().to_string();
            assert!(faults.starts_with(&format!("{field}:")), "{field}: {faults}");
        }
    }
}
