//! The Job that compresses a model and judges the result.

use std::collections::BTreeMap;

use hearth_crds::source::Source;
use hearth_crds::worker_config::{
    CONFIG_PATH, CONFIG_VERSION, JobIdentity, QuantizeCalibration, QuantizeConfig, QuantizeGate,
};
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::frame::Frame;
use crate::children::Child;
use crate::deployment::marks::QUANTIZE;
use crate::deployment::target::{Artifact, Target, pruning_of};
use crate::network;
use crate::pods::{self, MemoryDefault};
use crate::source_rules::{Backend, path_of};
use crate::training_job::plan::config::data_file;
use crate::training_job::plan::failure_policy;
use crate::training_job::validate::ClaimUse;

/// Memory of a compression that asks for none.
const MEMORY: MemoryDefault = MemoryDefault { request: "1Gi", limit: "16Gi" };
/// Tries before a compression is given up; permanent errors are not retried.
const RETRIES: i32 = 3;

pub(super) fn children(frame: &Frame<'_>, target: &Target, artifact: &Artifact) -> Vec<Child> {
    let Some(config) = config(frame, target, artifact) else { return Vec::new() };
    let meta = || frame.meta(&artifact.job, QUANTIZE, &artifact.id);
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    let policy = network::policy(frame.parent.selector(QUANTIZE), Vec::new(), Vec::new());
    let wall = frame.valid.child_name("quantize");
    vec![
        Child::ConfigMap(ConfigMap {
            metadata: meta(),
            data: Some(BTreeMap::from([("config.json".to_owned(), text)])),
            immutable: Some(true),
            ..ConfigMap::default()
        }),
        Child::NetworkPolicy(NetworkPolicy {
            metadata: frame.parent.child_meta(&wall, QUANTIZE),
            spec: Some(policy),
        }),
        Child::Job(Box::new(Job {
            metadata: meta(),
            spec: Some(JobSpec {
                backoff_limit: Some(RETRIES),
                pod_failure_policy: Some(failure_policy(QUANTIZE)),
                pod_replacement_policy: Some("Failed".to_owned()),
                suspend: Some(false),
                template: template(frame, target, artifact),
                ..JobSpec::default()
            }),
            status: None,
        })),
    ]
}

fn config(frame: &Frame<'_>, target: &Target, artifact: &Artifact) -> Option<QuantizeConfig> {
    let valid = frame.valid;
    let compression = valid.spec.compression.as_ref()?;
    let calibration = compression.calibration.as_ref().zip(valid.calibration_rows.as_ref());
    let gate = compression.gate.as_ref().zip(valid.gate_rows.as_ref());
    Some(QuantizeConfig {
        version: CONFIG_VERSION.into(),
        job: JobIdentity {
            namespace: valid.namespace.clone(),
            name: valid.name.clone(),
            uid: valid.uid.clone(),
        },
        model: path_of(&artifact.from, &Backend::Cluster),
        reference: artifact.reference.as_ref().map(|model| path_of(model, &Backend::Cluster)),
        pruning: pruning_of(compression).cloned(),
        quantization: compression.quantization,
        group_size: compression.group_size(),
        output: path_of(&target.model, &Backend::Cluster),
        output_uri: target.model.to_string(),
        calibration: calibration.map(|(calibration, rows)| QuantizeCalibration {
            data: data_file(&calibration.data, rows, &Backend::Cluster),
            max_rows: calibration.max_rows.unsigned_abs(),
        }),
        gate: gate.map(|(gate, rows)| QuantizeGate {
            data: data_file(&gate.data, rows, &Backend::Cluster),
            metric: gate.metric,
            max_drop: gate.max_drop,
        }),
    })
}

fn template(frame: &Frame<'_>, target: &Target, artifact: &Artifact) -> PodTemplateSpec {
    let valid = frame.valid;
    let asked = valid.spec.compression.as_ref().map(|c| c.resources.clone()).unwrap_or_default();
    let args = ["quantize", "--config", CONFIG_PATH].map(str::to_owned).into();
    let container = pods::worker(QUANTIZE, &frame.settings.images, args, &asked, MEMORY);
    let mut pod = pods::pod(container, &valid.spec.serving.placement);
    pod.restart_policy = Some("Never".to_owned());
    pods::leave_lost_nodes_after(&mut pod, pods::NODE_SILENCE_SECONDS);
    pods::add_config(&mut pod, &artifact.job);
    let mut claims = BTreeMap::new();
    let rows = [valid.calibration_rows.as_ref(), valid.gate_rows.as_ref()];
    for read in rows.into_iter().chain([Some(&artifact.from), artifact.reference.as_ref()]) {
        claims.extend(read.and_then(Source::claim).map(|claim| (claim, ClaimUse::Read)));
    }
    claims.extend(target.model.claim().map(|claim| (claim, ClaimUse::Write)));
    pods::add_claims(&mut pod, &claims);
    PodTemplateSpec {
        metadata: Some(frame.pod_meta(QUANTIZE, Some(&artifact.id))),
        spec: Some(pod),
    }
}
