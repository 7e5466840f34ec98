//! The objects that prepare a job's rows: one pod, without GPUs, before any worker.

use std::collections::BTreeMap;

use hearth_crds::preparation::PrepareConfig;
use hearth_crds::worker_config::CONFIG_PATH;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::config::prepare_config;
use super::job::failure_policy;
use crate::children::{ANNOTATION_PARENT, ANNOTATION_SPEC_HASH, Child, ChildId, Kind, Parent};
use crate::network;
use crate::pods::{self, Images, MemoryDefault};
use crate::settings::Settings;
use crate::source_rules::Backend;
use crate::training_job::validate::ValidJob;

/// Role of the pod.
pub(crate) const PREPARE: &str = "prepare";
/// Memory of a preparation that asks for none.
const MEMORY: MemoryDefault = MemoryDefault { request: "1Gi", limit: "4Gi" };
/// Tries before a preparation is given up; permanent errors are not retried.
const RETRIES: i32 = 3;

/// The kinds of these objects.
pub(crate) const KINDS: [Kind; 3] = [Kind::ConfigMap, Kind::NetworkPolicy, Kind::Job];

/// Their names.
pub(crate) fn ids(valid: &ValidJob) -> impl Iterator<Item = ChildId> {
    let name = valid.prepare_name();
    KINDS.into_iter().map(move |kind| ChildId { kind, name: name.clone() })
}

/// The objects, in the order of writing; none where nothing is prepared. While `suspend`, the Job
/// makes no pod.
pub(super) fn children(
    valid: &ValidJob,
    parent: &Parent,
    settings: &Settings,
    suspend: bool,
) -> Vec<Child> {
    let Some(config) = prepare_config(valid, &Backend::Cluster) else { return Vec::new() };
    let policy = network::policy(parent.selector(PREPARE), Vec::new(), ways_out(valid, &config));
    vec![
        Child::ConfigMap(config_map(valid, parent, &config)),
        Child::NetworkPolicy(NetworkPolicy {
            metadata: parent.child_meta(&valid.prepare_name(), PREPARE),
            spec: Some(policy),
        }),
        Child::Job(Box::new(job(valid, parent, &settings.images, suspend))),
    ]
}

/// To buckets that rows are in, and to the model that translates, where there are such. Policies know no
/// names, so any address will do on their ports.
fn ways_out(valid: &ValidJob, config: &PrepareConfig) -> Vec<NetworkPolicyEgressRule> {
    let texts = config.preparation.augment.as_ref().and_then(|augment| augment.text.as_ref());
    let translator = texts.and_then(|texts| texts.back_translation.as_ref());
    let translator = translator.map(|to| network::to_anywhere(&[to.port()]));
    let buckets = valid.spec.data.is_in_bucket().then(network::to_buckets);
    let ways: Vec<_> = buckets.into_iter().chain(translator).collect();
    if ways.is_empty() { ways } else { [vec![network::to_dns()], ways].concat() }
}

fn config_map(valid: &ValidJob, parent: &Parent, config: &PrepareConfig) -> ConfigMap {
    let text = serde_json::to_string_pretty(config).unwrap_or_default();
    ConfigMap {
        metadata: parent.child_meta(&valid.prepare_name(), PREPARE),
        data: Some(BTreeMap::from([("config.json".to_owned(), text)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// Of one pod, with an index as workers have: its last words are worker 0's.
fn job(valid: &ValidJob, parent: &Parent, images: &Images, suspend: bool) -> Job {
    let mut metadata = parent.child_meta(&valid.prepare_name(), PREPARE);
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_SPEC_HASH.into(), valid.spec_hash());
    Job {
        metadata,
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".to_owned()),
            completions: Some(1),
            parallelism: Some(1),
            backoff_limit: Some(RETRIES),
            active_deadline_seconds: valid.spec.active_deadline_seconds,
            pod_failure_policy: Some(failure_policy(PREPARE)),
            pod_replacement_policy: Some("Failed".to_owned()),
            suspend: Some(suspend),
            template: template(valid, parent, images),
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn template(valid: &ValidJob, parent: &Parent, images: &Images) -> PodTemplateSpec {
    let asked = valid.spec.data.preparation.as_ref().map(|p| p.resources.clone());
    let args = ["prepare", "--config", CONFIG_PATH].map(str::to_owned).into();
    let mut container = pods::worker(PREPARE, images, args, &asked.unwrap_or_default(), MEMORY);
    let secret = valid.spec.data.secret_name.as_deref();
    container.env_from = secret.map(|name| vec![pods::from_secret(name)]);
    let mut pod = pods::pod(container, &valid.spec.workers.placement);
    pod.restart_policy = Some("Never".to_owned());
    pods::leave_lost_nodes_after(&mut pod, pods::NODE_SILENCE_SECONDS);
    pods::add_config(&mut pod, &valid.prepare_name());
    pods::add_claims(&mut pod, &valid.prepare_claims());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(parent.labels(PREPARE)),
            annotations: Some([(ANNOTATION_PARENT.to_owned(), valid.name.clone())].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    }
}
