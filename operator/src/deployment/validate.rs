//! Turns a ModelDeployment into a [`ValidDeployment`], or says everything that
//! is wrong with it.

use hearth_crds::model_deployment::{ModelDeployment, ModelDeploymentSpec, Quantization};
use hearth_crds::names;
use hearth_crds::source::Source;
use hearth_crds::training_job::Task;
use kube::ResourceExt;

use super::rollout::Order;
use super::training;
use crate::children::Parent;
use crate::fault::{Fault, SpecFaults};
use crate::source_rules::{Backend, quantity_faults, reachable};
use crate::training_job::unsupported::unread_rows;
use crate::training_job::validate::raw_rows;

/// A deployment that can be planned.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidDeployment {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The spec as it was written, defaults filled in.
    pub spec: ModelDeploymentSpec,
    /// Where the model comes from.
    pub origin: Origin,
    /// Rows that weights are rounded by.
    pub calibration_rows: Option<Source>,
    /// Evaluation rows of the gate.
    pub gate_rows: Option<Source>,
    /// Where the smaller model goes, if that is said.
    pub destination: Option<Source>,
    /// Directories of the adapters, in the spec's order.
    pub adapters: Vec<Source>,
    /// Kueue's queue, where the deployment names one for what it trains.
    pub queue: Option<String>,
    /// What a person said about a rollout.
    pub order: Option<String>,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A TrainingJob of the same namespace.
    TrainingJob(String),
    /// The best trial of a HyperparamSweep of the same namespace.
    Sweep(String),
    /// A directory.
    Directory(Source),
}

impl ValidDeployment {
    /// The deployment as the owner of objects.
    pub fn parent(&self) -> Parent {
        Parent {
            kind: "ModelDeployment",
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// What a person said about the rollout of this revision.
    pub fn order(&self, revision: &str) -> Option<Order> {
        self.order.as_deref().and_then(|text| Order::parse(text, revision))
    }

    /// Name of a child.
    pub fn child_name(&self, suffix: &str) -> String {
        names::child(&self.name, suffix)
    }
}

/// The deployment as something that can be planned, or everything wrong with it.
pub fn deployment(object: &ModelDeployment) -> Result<ValidDeployment, SpecFaults> {
    let spec = &object.spec;
    let mut faults = unsupported(spec);
    faults.extend(adapter_of_same_name(object));
    faults.extend(quantity_faults("spec.serving.resources", &spec.serving.resources));
    if let Some(compression) = &spec.compression {
        faults.extend(quantity_faults("spec.compression.resources", &compression.resources));
        faults.extend(training::faults(compression));
    }
    let mut source = |field: &str, uri: &str| match reachable(field, uri, &Backend::Cluster) {
        Ok(source) => Some(source),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    let model = &spec.model;
    let origin = match (&model.from_training_job, &model.from_sweep, &model.source) {
        (Some(job), _, _) => Some(Origin::TrainingJob(job.clone())),
        (None, Some(sweep), _) => Some(Origin::Sweep(sweep.clone())),
        (None, None, Some(uri)) => source("spec.model.source", uri).map(Origin::Directory),
        (None, None, None) => None,
    };
    let compression = spec.compression.as_ref();
    let calibration_rows = compression
        .and_then(|compression| compression.calibration.as_ref())
        .and_then(|calibration| {
            source("spec.compression.calibration.data.source", &calibration.data.source)
        });
    let gate_rows = compression
        .and_then(|compression| compression.gate.as_ref())
        .and_then(|gate| source("spec.compression.gate.data.source", &gate.data.source));
    let destination = compression
        .and_then(|compression| compression.destination.as_deref())
        .and_then(|uri| source("spec.compression.destination", uri));
    let adapters = spec.serving.adapters.iter().enumerate();
    let adapters = adapters
        .filter_map(|(nth, adapter)| {
            source(&format!("spec.serving.adapters[{nth}].source"), &adapter.source)
        })
        .collect();

    SpecFaults::unless_empty(faults, ())?;
    let origin = origin.ok_or_else(|| {
        Fault::invalid("spec.model", "names no model", "set fromTrainingJob, fromSweep or source")
    })?;
    Ok(ValidDeployment {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        spec: spec.clone(),
        origin,
        calibration_rows,
        gate_rows,
        destination,
        adapters,
        queue: object.labels().get(names::LABEL_QUEUE).cloned(),
        order: object.annotations().get(names::ANNOTATION_ORDER).cloned(),
    })
}

/// A request that names the deployment means the model without adapters.
fn adapter_of_same_name(object: &ModelDeployment) -> Option<Fault> {
    let name = object.name_any();
    let nth = object.spec.serving.adapters.iter().position(|adapter| adapter.name == name)?;
    Some(Fault::invalid(
        format!("spec.serving.adapters[{nth}].name"),
        "is the deployment's own name, by which requests ask for the model without adapters",
        "choose another name",
    ))
}

/// What a spec may say and this version does not do.
pub fn unsupported(spec: &ModelDeploymentSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    let scaling = spec.serving.autoscaling.as_ref();
    let generates = !spec.serving.adapters.is_empty()
        || scaling.is_some_and(|scaling| scaling.target_tokens_in_flight.is_some());
    if spec.serving.drift.is_some() && generates {
        faults.push(Fault::unsupported(
            "spec.serving.drift",
            "compares requests to models of tables and to classifiers, and adapters and targetTokensInFlight are of language models",
            "remove it",
        ));
    }
    if let Some(compression) = &spec.compression {
        let calibration = compression.calibration.as_ref().map(|calibration| &calibration.data);
        let gate = compression.gate.as_ref().map(|gate| &gate.data);
        for (field, data) in [("calibration", calibration), ("gate", gate)] {
            let field = format!("spec.compression.{field}.data");
            faults.extend(data.and_then(|data| raw_rows(&format!("{field}.format"), data)));
            faults
                .extend(data.into_iter().flat_map(|data| {
                    unread_rows(&field, data, Task::SequenceClassification, None)
                }));
        }
        if spec.serving.resources.gpus() > 0 && compression.quantization == Quantization::INT8 {
            faults.push(Fault::unsupported(
                "spec.serving.resources",
                "this version computes INT8 models on the CPU, and GPUs would idle",
                "remove nvidia.com/gpu, or use another quantization",
            ));
        }
    }
    faults
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A ModelDeployment, changed by `change`.
    pub(crate) fn sample(change: impl FnOnce(&mut Value)) -> ModelDeployment {
        let mut value = json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "spam", "namespace": "team-a", "uid": "u-2", "generation": 1},
            "spec": {
                "model": {"fromTrainingJob": "spam"},
                "compression": {
                    "quantization": "INT8",
                    "gate": {"data": {"source": "pvc://data/eval.jsonl"}, "maxDrop": 0.005},
                },
                "serving": {"replicas": 2},
            },
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_plain_deployment_is_valid() {
        let valid = deployment(&sample(|_| {})).unwrap();
        assert_eq!(valid.origin, Origin::TrainingJob("spam".into()));
        assert_eq!(valid.gate_rows.unwrap().to_string(), "pvc://data/eval.jsonl");
    }

    #[test]
    fn requests_to_a_classifier_may_be_watched() {
        let object = sample(|d| d["spec"]["serving"]["drift"] = json!({"maxPsi": 0.1}));
        let valid = deployment(&object).unwrap();
        assert!(valid.spec.serving.drift.is_some_and(|drift| drift.max_psi < 0.2));
    }

    #[test]
    fn every_refusal_names_its_field() {
        type Change = fn(&mut Value);
        let cases: [(&str, Change); 8] = [
            ("spec.serving.adapters[1].name:", |d| {
                d["spec"]["serving"]["adapters"] = json!([
                    {"name": "mails", "source": "pvc://m/a"}, {"name": "spam", "source": "pvc://m/b"},
                ]);
            }),
            ("spec.serving.adapters[0].source:", |d| {
                d["spec"]["serving"]["adapters"] = json!([{"name": "mails", "source": "s3://b/k"}]);
            }),
            ("spec.serving.drift:", |d| {
                d["spec"]["serving"]["drift"] = json!({});
                d["spec"]["serving"]["adapters"] =
                    json!([{"name": "mails", "source": "pvc://m/a"}]);
            }),
            ("spec.serving.drift:", |d| {
                d["spec"]["serving"]["drift"] = json!({});
                d["spec"]["serving"]["autoscaling"] =
                    json!({"maxReplicas": 2, "targetTokensInFlight": 500});
            }),
            ("spec.model.source:", |d| d["spec"]["model"] = json!({"source": "file:///m"})),
            ("spec.serving.resources:", |d| {
                d["spec"]["serving"]["resources"] = json!({"limits": {"nvidia.com/gpu": 1}});
            }),
            ("spec.compression.gate.data.messages:", |d| {
                d["spec"]["compression"]["gate"]["data"]["messages"] = "turns".into();
            }),
            ("spec.compression.gate.data.source:", |d| {
                d["spec"]["compression"]["gate"]["data"]["source"] = "s3://b/k".into();
            }),
        ];
        for (field, change) in cases {
            let faults = deployment(&sample(change)).unwrap_err();
            assert!(faults.to_string().starts_with(field), "{field}: {faults}");
        }
    }
}
