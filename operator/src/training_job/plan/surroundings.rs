//! What a job's pods need around them: configuration, names, walls.

use std::collections::BTreeMap;

use hearth_crds::worker_config::AGENT_PORT;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::config;
use super::job::COMPONENT;
use crate::children::Parent;
use crate::network;
use crate::settings::Settings;
use crate::source_rules::Backend;
use crate::training_job::validate::ValidJob;

/// The worker's configuration. Immutable, as the job's spec is.
pub(super) fn config_map(valid: &ValidJob, parent: &Parent) -> ConfigMap {
    let config = config::train_config(valid, &Backend::Cluster);
    let text = serde_json::to_string_pretty(&config).unwrap_or_default();
    ConfigMap {
        metadata: parent.child_meta(&valid.child_name(), COMPONENT),
        data: Some(BTreeMap::from([("config.json".to_owned(), text)])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// Gives each pod a name. Ranks meet before any of them is ready, so pods
/// that are not ready have names too.
pub(super) fn service(valid: &ValidJob, parent: &Parent) -> Service {
    Service {
        metadata: parent.child_meta(&valid.child_name(), COMPONENT),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(parent.selector(COMPONENT)),
            ports: Some(vec![ServicePort {
                name: Some("agent".to_owned()),
                port: i32::from(AGENT_PORT),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Pods talk to each other on every port (NCCL and Gloo choose theirs), to the
/// resolver, to a bucket where one is asked for, and to nobody else; the operator may ask an
/// agent how it is.
pub(super) fn network_policy(
    valid: &ValidJob,
    parent: &Parent,
    settings: &Settings,
) -> NetworkPolicy {
    let own = parent.selector(COMPONENT);
    let mut ingress = vec![network::from_pods(own.clone(), &[])];
    ingress.extend(network::from_operators(settings, &[AGENT_PORT]));
    let mut egress = vec![network::to_pods(own.clone(), &[]), network::to_dns()];
    if valid.spec.output.checkpoints.is_some() {
        egress.push(network::to_buckets());
    }
    NetworkPolicy {
        metadata: parent.child_meta(&valid.child_name(), COMPONENT),
        spec: Some(network::policy(own, ingress, egress)),
    }
}

/// A drain takes one pod at a time: training stops once for it, not twice. As a
/// number of pods that stay: `maxUnavailable` needs a scale subresource, which Jobs lack.
pub(super) fn budget(valid: &ValidJob, parent: &Parent) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: parent.child_meta(&valid.child_name(), COMPONENT),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(valid.spec.workers.replicas - 1)),
            selector: Some(LabelSelector {
                match_labels: Some(parent.selector(COMPONENT)),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
