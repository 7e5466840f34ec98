//! Turns a TrainingJob into a [`ValidJob`], or says everything that is wrong
//! with it.
//!
//! CEL has checked the shape already; what is here needs parsing, or is about
//! what this version offers. [`unsupported`] is the one list of the latter, for
//! the cluster and for local runs alike.

use hearth_crds::names;
use hearth_crds::preparation::Synonyms;
use hearth_crds::source::Source;
use hearth_crds::training_job::{Accelerator, DataSource, DataSpec, TrainingJob, TrainingJobSpec};
use kube::ResourceExt;

use crate::fault::{Fault, SpecFaults};
use crate::source_rules::{Backend, quantity_faults, reachable};
use crate::training_job::buckets;
pub use crate::training_job::unsupported::unsupported;

/// A job that can be planned: its locations are parsed and reachable, and all
/// that it asks for is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidJob {
    /// Namespace; `local` where there is none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID; empty in local runs.
    pub uid: String,
    /// The spec as it was written, defaults filled in.
    pub spec: TrainingJobSpec,
    /// Hugging Face directory to start from; `None` for the Tabular tasks.
    pub model: Option<Source>,
    /// Training rows.
    pub train: Source,
    /// Evaluation rows.
    pub eval: Option<Source>,
    /// Hugging Face directory of the model to learn from.
    pub teacher: Option<Source>,
    /// The job's directory.
    pub output: Source,
    /// Directory of prepared rows, where rows are prepared.
    pub prepared: Option<Source>,
    /// Words that mean the same, where texts are made of texts.
    pub synonyms: Option<Source>,
    /// Features that join the rows, in the order of the joins.
    pub features: Vec<Source>,
    /// Kueue's queue, where the job is in one.
    pub queue: Option<String>,
}

impl ValidJob {
    /// Name of the child Job, Service, ConfigMap, NetworkPolicy and PDB.
    pub fn child_name(&self) -> String {
        child_name(&self.name)
    }

    /// Name of the Job, ConfigMap and NetworkPolicy that prepare its rows.
    pub fn prepare_name(&self) -> String {
        names::child(&self.name, "prepare")
    }

    /// Hash of what the job starts with.
    pub fn spec_hash(&self) -> String {
        spec_hash(&self.spec)
    }

    /// Claims that the pods mount, with whether they are written to; sorted.
    pub fn claims(&self) -> std::collections::BTreeMap<&str, ClaimUse> {
        let mut claims = std::collections::BTreeMap::new();
        let read =
            [self.model.as_ref(), Some(&self.train), self.eval.as_ref(), self.teacher.as_ref()];
        for source in read.into_iter().flatten() {
            if let Some(claim) = source.claim() {
                claims.insert(claim, ClaimUse::Read);
            }
        }
        if let Some(claim) = self.prepared.as_ref().and_then(Source::claim) {
            claims.insert(claim, ClaimUse::Read);
        }
        if let Some(claim) = self.output.claim() {
            claims.insert(claim, ClaimUse::Write);
        }
        claims
    }

    /// Claims that the pod mounts which prepares the rows.
    pub fn prepare_claims(&self) -> std::collections::BTreeMap<&str, ClaimUse> {
        let read = [Some(&self.train), self.eval.as_ref(), self.synonyms.as_ref()];
        let read = read.into_iter().flatten().chain(&self.features);
        let mut claims: std::collections::BTreeMap<_, _> =
            read.filter_map(Source::claim).map(|claim| (claim, ClaimUse::Read)).collect();
        let written = self.prepared.as_ref().and_then(Source::claim);
        claims.extend(written.map(|claim| (claim, ClaimUse::Write)));
        claims
    }
}

/// How a claim is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimUse {
    /// Read-only.
    Read,
    /// Read and written.
    Write,
}

/// Name of the objects of the TrainingJob `name`.
pub fn child_name(name: &str) -> String {
    names::child(name, "train")
}

/// Hash of a spec, without what may change later: `suspend`, `stop`, `ttlSecondsAfterFinished`
/// and `workers.replicas`.
pub fn spec_hash(spec: &TrainingJobSpec) -> String {
    let mut spec = spec.clone();
    (spec.suspend, spec.stop, spec.ttl_seconds_after_finished) = (false, None, None);
    spec.workers.replicas = 1;
    names::digest(&spec)
}

/// The job as something that can be planned, or everything wrong with it.
pub fn job(job: &TrainingJob, backend: &Backend) -> Result<ValidJob, SpecFaults> {
    let spec = &job.spec;
    let queue = job.labels().get(names::LABEL_QUEUE).cloned();
    let mut faults = unsupported(spec);
    faults.extend(contradictions(spec, queue.as_deref(), backend));
    faults.extend(quantity_faults("spec.workers.resources", &spec.workers.resources));

    let [train, eval] = buckets::rows(&spec.data, backend)
        .map(|found| found.and_then(|found| found.map_err(|fault| faults.push(fault)).ok()));
    let mut source = |field: &str, uri: &str| match reachable(field, uri, backend) {
        Ok(source) => Some(source),
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    let model = spec.model.as_ref().map(|model| source("spec.model.source", &model.source));
    let teacher = spec.distillation.as_ref().map(|distillation| {
        source("spec.distillation.teacher.source", &distillation.teacher.source)
    });
    let output = source("spec.output.destination", &spec.output.destination);
    let prepared = spec.data.preparation.as_ref().map(|preparation| match &preparation.output {
        Some(uri) => source("spec.data.preparation.output", uri),
        None => output.as_ref().map(|output| output.join("data")),
    });

    let synonyms = synonyms(&spec.data)
        .map(|asked| source("spec.data.preparation.augment.text.synonyms.source", &asked.source));
    let joins = spec.data.preparation.iter().flat_map(|preparation| &preparation.join);
    let features = joins.enumerate().filter_map(|(place, join)| {
        source(&format!("spec.data.preparation.join[{place}].source"), &join.source)
    });
    let features: Vec<Source> = features.collect();

    SpecFaults::unless_empty(faults, ())?;
    let (Some(train), Some(output)) = (train, output) else {
        return Err(Fault::invalid("spec", "has a location without a place", "correct it").into());
    };
    Ok(ValidJob {
        namespace: job.namespace().unwrap_or_else(|| "local".into()),
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        spec: spec.clone(),
        model: model.flatten(),
        train,
        eval,
        teacher: teacher.flatten(),
        output,
        prepared: prepared.flatten(),
        synonyms: synonyms.flatten(),
        features,
        queue,
    })
}

fn synonyms(data: &DataSpec) -> Option<&Synonyms> {
    data.preparation.as_ref()?.augment.as_ref()?.text.as_ref()?.synonyms.as_ref()
}

/// What is wrong with formats.
fn data_faults(spec: &TrainingJobSpec) -> Vec<Fault> {
    let data = &spec.data;
    if data.preparation.is_some() {
        let fields =
            |rows: &DataSource| DataSource { source: String::new(), format: None, ..rows.clone() };
        let differ = data.eval.as_ref().is_some_and(|rows| fields(rows) != fields(&data.train));
        let fault = Fault::invalid(
            "spec.data.eval",
            "names its fields otherwise than data.train, and both are prepared alike",
            "name them alike in both files and here",
        );
        return differ.then_some(fault).into_iter().collect();
    }
    let named = [("train", Some(&data.train)), ("eval", data.eval.as_ref())];
    let raw = named.into_iter().filter_map(|(name, rows)| Some((name, rows?)));
    raw.filter_map(|(name, rows)| raw_rows(&format!("spec.data.{name}.format"), rows)).collect()
}

/// What is wrong with a format that is read by preparation alone, where there is none.
pub(crate) fn raw_rows(field: &str, rows: &DataSource) -> Option<Fault> {
    let format = rows.format();
    format.needs_preparation().then(|| {
        Fault::invalid(
            field,
            format!("{} is read by preparation, and there is none", format.name()),
            "write data.preparation: {} where it is offered, or use JSONL or Parquet",
        )
    })
}

/// Fields that cannot both be as they are.
fn contradictions(spec: &TrainingJobSpec, queue: Option<&str>, backend: &Backend) -> Vec<Fault> {
    let mut faults = Vec::new();
    let (workers, gpus) = (&spec.workers, spec.workers.resources.gpus());
    if workers.accelerator() == Accelerator::CUDA && gpus < workers.processes_per_worker {
        faults.push(Fault::invalid(
            "spec.workers.processesPerWorker",
            format!("{} CUDA processes share {gpus} GPUs", workers.processes_per_worker),
            "set resources.limits[nvidia.com/gpu] to at least processesPerWorker, or accelerator to CPU",
        ));
    }
    faults.extend(data_faults(spec));
    faults.extend(buckets::secret_fault(&spec.data, backend));
    if let Some(storage) = &spec.output.checkpoints {
        faults.extend(buckets::checkpoint_fault(storage, backend));
    }
    if *backend != Backend::Cluster {
        let clocks = [
            ("spec.activeDeadlineSeconds", spec.active_deadline_seconds.is_some()),
            ("spec.ttlSecondsAfterFinished", spec.ttl_seconds_after_finished.is_some()),
        ];
        faults.extend(clocks.into_iter().filter(|(_, set)| *set).map(|(field, _)| {
            Fault::invalid(
                field,
                "a local run has nobody who keeps its time",
                "remove it; timeout(1) ends a local run as a deadline would",
            )
        }));
    }
    if *backend != Backend::Cluster && spec.stop.is_some() {
        faults.push(Fault::invalid(
            "spec.stop",
            "a local run is not begun to be stopped",
            "remove it; Ctrl-C stops a local run after a checkpoint",
        ));
    }
    if let Some(queue) = queue
        && spec.suspend
    {
        faults.push(Fault::invalid(
            "spec.suspend",
            format!("the job is in the Kueue queue {queue}, and Kueue decides when it starts"),
            format!("set it to false, or remove the label {}", names::LABEL_QUEUE),
        ));
    }
    faults
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A TrainingJob of the cluster, changed by `change`.
    pub(crate) fn sample(change: impl FnOnce(&mut Value)) -> TrainingJob {
        let mut value = json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "TrainingJob",
            "metadata": {"name": "spam", "namespace": "team-a", "uid": "u-1", "generation": 1},
            "spec": {
                "task": "SequenceClassification",
                "model": {"source": "pvc://models/minilm"},
                "data": {"train": {"source": "pvc://data/train.jsonl"},
                         "eval": {"source": "pvc://data/eval.jsonl"}},
                "workers": {"replicas": 2},
                "output": {"destination": "pvc://models/spam"},
            },
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_plain_job_is_valid() {
        let valid = job(&sample(|_| {}), &Backend::Cluster).unwrap();
        assert_eq!(valid.child_name(), "spam-train");
        let claims: Vec<_> = valid.claims().into_iter().collect();
        assert_eq!(claims, [("data", ClaimUse::Read), ("models", ClaimUse::Write)]);
    }

    #[test]
    fn a_teachers_claim_is_mounted_for_reading() {
        let teacher = Some(Source::parse("pvc://teachers/large").unwrap());
        let valid = ValidJob { teacher, ..job(&sample(|_| {}), &Backend::Cluster).unwrap() };
        assert_eq!(valid.claims().get("teachers"), Some(&ClaimUse::Read));
    }

    #[test]
    fn every_refusal_names_its_field_and_fix() {
        type Change = fn(&mut Value);
        let cases: [(&str, &str, Change); 11] = [
            ("spec.output.checkpoints.destination:", "Invalid", |j| {
                let checkpoints = json!({"destination": "pvc://models/checkpoints"});
                j["spec"]["output"]["checkpoints"] = checkpoints;
            }),
            ("spec.model.source:", "Invalid", |j| {
                j["spec"]["model"]["source"] = "file:///tmp/model".into();
            }),
            ("spec.model.source:", "Unsupported", |j| {
                j["spec"]["model"]["source"] = "hf://org/name".into();
            }),
            ("spec.model.source:", "Unsupported", |j| {
                j["spec"]["model"]["source"] = "s3://bucket/model".into();
            }),
            ("spec.data.train.source:", "Invalid", |j| {
                j["spec"]["data"]["train"]["source"] = "s3://bucket/rows".into();
            }),
            ("spec.data.preparation.output:", "Unsupported", |j| {
                j["spec"]["data"]["preparation"] = json!({"output": "s3://bucket/prepared"});
            }),
            ("spec.data.secretName:", "Invalid", |j| {
                j["spec"]["data"]["secretName"] = "bucket".into();
                j["spec"]["data"]["preparation"] = json!({});
            }),
            ("spec.output.destination:", "Invalid", |j| {
                j["spec"]["output"]["destination"] = "pvc://models/../etc".into();
            }),
            ("spec.workers.processesPerWorker:", "Invalid", |j| {
                j["spec"]["workers"] = json!({"accelerator": "CUDA"});
            }),
            ("spec.workers.resources.limits[memory]:", "Invalid", |j| {
                j["spec"]["workers"]["resources"] = json!({"limits": {"memory": "8GB"}});
            }),
            ("spec.suspend:", "Invalid", |j| {
                j["spec"]["suspend"] = true.into();
                j["metadata"]["labels"] = json!({"kueue.x-k8s.io/queue-name": "gpu"});
            }),
        ];
        for (field, reason, change) in cases {
            let faults = job(&sample(change), &Backend::Cluster).unwrap_err();
            assert_eq!(faults.faults().len(), 1, "{field}: {faults}");
            assert!(faults.to_string().starts_with(field), "{field}: {faults}");
            assert_eq!(faults.reason(), reason, "{faults}");
        }
    }

    #[test]
    fn the_hash_ignores_what_may_change() {
        let plain = job(&sample(|_| {}), &Backend::Cluster).unwrap().spec_hash();
        let paused =
            job(&sample(|j| j["spec"]["suspend"] = true.into()), &Backend::Cluster).unwrap();
        let larger = job(
            &sample(|j| j["spec"]["workers"]["processesPerWorker"] = 3.into()),
            &Backend::Cluster,
        )
        .unwrap();
        assert_eq!(plain, paused.spec_hash());
        let stopped = job(&sample(|j| j["spec"]["stop"] = json!({})), &Backend::Cluster).unwrap();
        assert_eq!(plain, stopped.spec_hash());
        assert_ne!(plain, larger.spec_hash());
    }
}
