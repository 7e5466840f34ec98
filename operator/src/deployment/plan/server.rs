//! The servers of one revision.

use std::collections::BTreeMap;

use hearth_crds::model_deployment::ServedAdapter;
use hearth_crds::pod::Resources;
use hearth_crds::source::Source;
use hearth_crds::training_job::Accelerator;
use hearth_crds::worker_config::{
    AdapterDirectory, CONFIG_PATH, CONFIG_VERSION, FEATURE_STORE_PASSWORD_PATH, JobIdentity,
    NODE_CACHE_PATH, NodeCacheDirectory, SERVE_PORT, ServeConfig,
};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec,
    Service, ServicePort, ServiceSpec, SleepAction,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::frame::{Frame, budget};
use crate::admission::amounts::is_device;
use crate::children::Child;
use crate::deployment::marks::{
    ANNOTATION_ARTIFACT, ANNOTATION_COMPRESSION, ANNOTATION_DIGEST, ANNOTATION_MODEL, GATEWAY,
    SERVER,
};
use crate::deployment::policy::Decision;
use crate::deployment::target::Target;
use crate::network;
use crate::pods::{self, MemoryDefault};
use crate::source_rules::{Backend, path_of};
use crate::training_job::validate::ClaimUse;

/// Time for endpoints to forget a pod before it is told to end.
const PRE_STOP_SECONDS: i64 = 5;
/// Memory of a server that asks for none.
const MEMORY: MemoryDefault = MemoryDefault { request: "512Mi", limit: "8Gi" };

pub(super) fn children(frame: &Frame<'_>, target: &Target, decision: &Decision) -> Vec<Child> {
    let name = target.server_name(frame.valid);
    let meta = || frame.meta(&name, SERVER, &target.revision);
    let selector = || frame.selector(SERVER, &target.revision);
    let text = serde_json::to_string_pretty(&config(frame, target)).unwrap_or_default();
    let mut children = vec![
        Child::ConfigMap(ConfigMap {
            metadata: meta(),
            data: Some(BTreeMap::from([("config.json".to_owned(), text)])),
            ..ConfigMap::default()
        }),
        Child::Service(Box::new(Service {
            metadata: meta(),
            spec: Some(ServiceSpec {
                selector: selector().match_labels,
                ports: Some(vec![ServicePort {
                    name: Some("http".to_owned()),
                    port: i32::from(SERVE_PORT),
                    protocol: Some("TCP".to_owned()),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        })),
        Child::NetworkPolicy(wall(frame)),
        Child::Deployment(Box::new(deployment(frame, target, decision, &name))),
    ];
    let serving = &frame.valid.spec.serving;
    let most = serving.autoscaling.as_ref().map_or(serving.replicas, |auto| auto.max_replicas);
    if most > 1 {
        children.push(budget(meta(), selector()));
    }
    children
}

fn config(frame: &Frame<'_>, target: &Target) -> ServeConfig {
    let (valid, serving) = (frame.valid, &frame.valid.spec.serving);
    let count = |figure: i32| figure.unsigned_abs();
    ServeConfig {
        version: CONFIG_VERSION.into(),
        job: JobIdentity {
            namespace: valid.namespace.clone(),
            name: valid.name.clone(),
            uid: valid.uid.clone(),
        },
        revision: target.revision.clone(),
        model: path_of(&target.model, &Backend::Cluster),
        accelerator: accelerator(&serving.resources),
        runtime: serving.runtime,
        max_batch_size: count(serving.max_batch_size),
        max_batch_delay_milliseconds: count(serving.max_batch_delay_milliseconds),
        max_queue_depth: count(serving.max_queue_depth),
        max_body_bytes: valid.spec.gateway.max_body_bytes.unsigned_abs(),
        response_cache_bytes: serving.response_cache_bytes.unsigned_abs(),
        adapters: adapters(frame),
        features: serving.features.as_deref().cloned(),
        node_cache: serving.node_cache.as_ref().map(|cache| NodeCacheDirectory {
            path: NODE_CACHE_PATH.into(),
            claim: cache.claim_name.clone(),
            max_bytes: cache.max_bytes.map(i64::unsigned_abs),
        }),
        port: SERVE_PORT,
    }
}

fn adapters(frame: &Frame<'_>) -> Vec<AdapterDirectory> {
    let named = frame.valid.spec.serving.adapters.iter().zip(&frame.valid.adapters);
    let directory = |(adapter, source): (&ServedAdapter, &Source)| AdapterDirectory {
        name: adapter.name.clone(),
        path: path_of(source, &Backend::Cluster),
    };
    named.map(directory).collect()
}

fn accelerator(resources: &Resources) -> Accelerator {
    if resources.gpus() > 0 { Accelerator::CUDA } else { Accelerator::CPU }
}

/// Only gateways talk to servers, the operator and scrapers ask how they are, and servers talk to
/// nobody but their feature store. Policies know no names, so any address will do on its port.
fn wall(frame: &Frame<'_>) -> NetworkPolicy {
    let mut ingress = vec![network::from_pods(frame.parent.selector(GATEWAY), &[SERVE_PORT])];
    ingress.extend(network::from_operators(frame.settings, &[SERVE_PORT]));
    let store = frame.valid.spec.serving.features.as_ref();
    let egress = store.map(|of| vec![network::to_dns(), network::to_anywhere(&[of.port()])]);
    NetworkPolicy {
        metadata: frame.parent.child_meta(&frame.valid.child_name(SERVER), SERVER),
        spec: Some(network::policy(
            frame.parent.selector(SERVER),
            ingress,
            egress.unwrap_or_default(),
        )),
    }
}

fn deployment(frame: &Frame<'_>, target: &Target, decision: &Decision, name: &str) -> Deployment {
    let mut metadata = frame.meta(name, SERVER, &target.revision);
    let notes = metadata.annotations.get_or_insert_default();
    notes.insert(ANNOTATION_MODEL.into(), target.model.to_string());
    notes.extend(target.digest.clone().map(|digest| (ANNOTATION_DIGEST.into(), digest)));
    let made = target.artifact.as_ref().map(|artifact| artifact.id.clone());
    notes.extend(made.map(|id| (ANNOTATION_ARTIFACT.into(), id)));
    let report = decision.compression.as_ref().and_then(|r| serde_json::to_string(r).ok());
    notes.extend(report.map(|text| (ANNOTATION_COMPRESSION.into(), text)));
    let scaled = decision.replicas.get(&target.revision);
    let replicas = scaled.copied().unwrap_or(frame.valid.spec.serving.replicas);
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: frame.selector(SERVER, &target.revision),
            strategy: Some(never_fewer()),
            // Endpoints reach every node within this time, in practice.
            min_ready_seconds: Some(2),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(1),
            template: PodTemplateSpec {
                metadata: Some(frame.pod_meta(SERVER, Some(&target.revision))),
                spec: Some(pod(frame, target, name)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod(frame: &Frame<'_>, target: &Target, config: &str) -> PodSpec {
    let (images, serving) = (&frame.settings.images, &frame.valid.spec.serving);
    let args = ["serve", "--config", CONFIG_PATH].map(str::to_owned).into();
    let mut container = pods::worker(SERVER, images, args, &serving.resources, MEMORY);
    listen(&mut container, "http", SERVE_PORT);
    container.readiness_probe = Some(pods::http_probe("/readyz", SERVE_PORT, 2, 3));
    container.liveness_probe = Some(pods::http_probe("/healthz", SERVE_PORT, 10, 6));
    let mut pod = pods::pod(container, &serving.placement);
    pod.termination_grace_period_seconds = Some(grace(frame));
    pod.affinity = Some(pods::apart(frame.parent.selector(SERVER)));
    pods::leave_lost_nodes_after(&mut pod, pods::NODE_SILENCE_SECONDS);
    pods::add_config(&mut pod, config);
    let sources = std::iter::once(&target.model).chain(&frame.valid.adapters);
    let claims = sources.filter_map(Source::claim).map(|claim| (claim, ClaimUse::Read));
    pods::add_claims(&mut pod, &claims.collect());
    if let Some(secret) = serving.features.as_ref().and_then(|of| of.password_secret.as_ref()) {
        pods::add_key(
            &mut pod,
            "feature-store",
            (&secret.name, &secret.key),
            FEATURE_STORE_PASSWORD_PATH,
        );
    }
    if let Some(cache) = &serving.node_cache {
        pods::add_cache(&mut pod, copier(frame), &cache.claim_name, NODE_CACHE_PATH);
    }
    if accelerator(&serving.resources) == Accelerator::CUDA {
        pods::add_shared_memory(&mut pod);
    }
    pod
}

/// What copies the model to the node before the server starts. It gets what the server gets, but
/// devices: the pod asks for no more than without it, and no quota misses a figure.
fn copier(frame: &Frame<'_>) -> Container {
    let mut resources = frame.valid.spec.serving.resources.clone();
    resources.limits.retain(|name, _| !is_device(name));
    resources.requests.retain(|name, _| !is_device(name));
    let args = ["cache", "--config", CONFIG_PATH].map(str::to_owned).into();
    pods::worker("cache", &frame.settings.images, args, &resources, MEMORY)
}

/// Names a port, and waits before SIGTERM until nobody sends there any more.
/// The wait needs no shell in the image.
pub(super) fn listen(container: &mut Container, name: &str, port: u16) {
    container.ports.get_or_insert_default().push(ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    });
    container.lifecycle = Some(Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction { seconds: PRE_STOP_SECONDS }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    });
}

/// Room for the longest request after the wait before SIGTERM.
pub(super) fn grace(frame: &Frame<'_>) -> i64 {
    i64::from(frame.valid.spec.gateway.request_timeout_seconds) + PRE_STOP_SECONDS + 10
}

/// A rollout adds a pod before it takes one away.
pub(super) fn never_fewer() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(1)),
            max_unavailable: Some(IntOrString::Int(0)),
        }),
    }
}
