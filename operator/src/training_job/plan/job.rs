//! The Indexed Job that runs a job's agents.

use std::collections::BTreeMap;

use hearth_crds::names;
use hearth_crds::training_job::{Accelerator, Workers};
use hearth_crds::worker_config::{AGENT_PORT, CONFIG_PATH};
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerPort, PodTemplateSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::children::{ANNOTATION_PARENT, ANNOTATION_SPEC_HASH, Parent};
use crate::pods::{self, Images, MemoryDefault};
use crate::training_job::validate::ValidJob;

/// Role of a TrainingJob's pods.
pub const COMPONENT: &str = "worker";
/// The container that the failure policy names.
const CONTAINER: &str = "worker";
/// Seconds that a worker has for a checkpoint after SIGTERM.
pub const GRACE_SECONDS: i64 = 120;
/// Memory of workers that ask for none.
const MEMORY: MemoryDefault = MemoryDefault { request: "1Gi", limit: "16Gi" };

/// Resources of a worker's pod.
pub(crate) fn pod_resources(workers: &Workers) -> ResourceRequirements {
    pods::requirements(&workers.resources, MEMORY)
}

/// One pod an agent, each with a stable index and host name.
pub(super) fn job(
    valid: &ValidJob,
    parent: &Parent,
    images: &Images,
    suspend: Option<bool>,
) -> Job {
    let replicas = valid.spec.workers.replicas;
    let mut metadata = parent.child_meta(&valid.child_name(), COMPONENT);
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(ANNOTATION_SPEC_HASH.into(), valid.spec_hash());
    if let Some(queue) = &valid.queue {
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(names::LABEL_QUEUE.into(), queue.clone());
    }
    Job {
        metadata,
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".to_owned()),
            completions: Some(replicas),
            parallelism: Some(replicas),
            // Agents restart ranks in place; this counts lost pods.
            backoff_limit: Some(valid.spec.restart_policy.max_restarts),
            active_deadline_seconds: valid.spec.active_deadline_seconds,
            pod_failure_policy: Some(failure_policy(CONTAINER)),
            // Two pods of one index would write the same checkpoint, so the
            // next one waits until the last one has surely ended.
            pod_replacement_policy: Some("Failed".to_owned()),
            suspend,
            template: template(valid, parent, images),
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// sysexits end the job; a drain, a preemption or a lost node costs no retry.
pub(crate) fn failure_policy(container: &str) -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "FailJob".to_owned(),
                on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                    container_name: Some(container.to_owned()),
                    operator: "In".to_owned(),
                    values: (64..=78).collect(),
                }),
                on_pod_conditions: None,
            },
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_exit_codes: None,
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".to_owned(),
                    status: Some("True".to_owned()),
                }]),
            },
        ],
    }
}

/// Ranks are told to save a little before the pod's time is over.
fn arguments() -> Vec<String> {
    let grace = format!("--grace-seconds={}", GRACE_SECONDS - 10);
    ["agent", "--config", CONFIG_PATH, &grace].map(str::to_owned).into()
}

fn template(valid: &ValidJob, parent: &Parent, images: &Images) -> PodTemplateSpec {
    let workers = &valid.spec.workers;
    let mut container = pods::worker(CONTAINER, images, arguments(), &workers.resources, MEMORY);
    container.ports = Some(vec![ContainerPort {
        name: Some("agent".to_owned()),
        container_port: i32::from(AGENT_PORT),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }]);
    let secret = valid.spec.output.checkpoints.as_ref().and_then(|c| c.secret_name.as_deref());
    container.env_from = secret.map(|name| vec![pods::from_secret(name)]);
    // Only for an agent that hangs itself; hung ranks are the agents' business.
    container.liveness_probe = Some(pods::http_probe("/healthz", AGENT_PORT, 10, 12));

    let mut pod = pods::pod(container, &workers.placement);
    pod.restart_policy = Some("Never".to_owned());
    pod.subdomain = Some(valid.child_name());
    pod.termination_grace_period_seconds = Some(GRACE_SECONDS);
    pod.affinity = Some(pods::apart(parent.selector(COMPONENT)));
    pods::leave_lost_nodes_after(&mut pod, pods::NODE_SILENCE_SECONDS);
    pods::add_config(&mut pod, &valid.child_name());
    pods::add_claims(&mut pod, &valid.claims());
    if workers.accelerator() == Accelerator::CUDA {
        pods::add_shared_memory(&mut pod);
    }
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels(parent)),
            annotations: Some([(ANNOTATION_PARENT.to_owned(), valid.name.clone())].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    }
}

/// Labels by which the job's pods find each other. The component keeps a
/// deployment of the same name apart.
fn pod_labels(parent: &Parent) -> BTreeMap<String, String> {
    let mut labels = parent.labels(COMPONENT);
    labels.insert("app.kubernetes.io/name".into(), names::child(&parent.name, ""));
    labels
}
