//! NetworkPolicies: rendezvous of ranks has no authentication of its own, so
//! each job's pods are closed to all others.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::settings::Settings;

/// A policy for the pods with these labels that lets through only what it lists.
pub fn policy(
    pods: BTreeMap<String, String>,
    ingress: Vec<NetworkPolicyIngressRule>,
    egress: Vec<NetworkPolicyEgressRule>,
) -> NetworkPolicySpec {
    NetworkPolicySpec {
        pod_selector: Some(selector(pods)),
        policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
        ingress: (!ingress.is_empty()).then_some(ingress),
        egress: (!egress.is_empty()).then_some(egress),
    }
}

/// Lets pods with these labels in the same namespace come in.
pub fn from_pods(labels: BTreeMap<String, String>, ports: &[u16]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule { from: Some(vec![peer_pods(labels)]), ports: tcp(ports) }
}

/// Lets everything in the namespace with this name come in.
pub fn from_namespace(name: &str, ports: &[u16]) -> NetworkPolicyIngressRule {
    let labels = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]);
    let peer = NetworkPolicyPeer {
        namespace_selector: Some(selector(labels)),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicyIngressRule { from: Some(vec![peer]), ports: tcp(ports) }
}

/// Lets the operator and the scraper of metrics come in.
pub fn from_operators(settings: &Settings, ports: &[u16]) -> Vec<NetworkPolicyIngressRule> {
    let namespaces = [Some(&settings.namespace), settings.metrics_namespace.as_ref()];
    namespaces.into_iter().flatten().map(|name| from_namespace(name, ports)).collect()
}

/// Lets everyone come in on these ports.
pub fn from_anywhere(ports: &[u16]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule { from: None, ports: tcp(ports) }
}

/// Lets pods go out to pods with these labels.
pub fn to_pods(labels: BTreeMap<String, String>, ports: &[u16]) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { to: Some(vec![peer_pods(labels)]), ports: tcp(ports) }
}

/// Lets pods go out to any address on these ports: the API server's address is
/// not known to a policy.
pub fn to_anywhere(ports: &[u16]) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule { to: None, ports: tcp(ports) }
}

/// Where services that speak S3 listen. The address is in a Secret, which the operator does not
/// read; for another port, another NetworkPolicy can stand beside the pods' own.
const BUCKET_PORTS: [u16; 3] = [80, 443, 9000];

/// Lets pods go out to buckets.
pub fn to_buckets() -> NetworkPolicyEgressRule {
    to_anywhere(&BUCKET_PORTS)
}

/// Lets pods ask for names. Where the resolver runs differs from cluster to
/// cluster (pods, or an address of the node), so any address is allowed.
pub fn to_dns() -> NetworkPolicyEgressRule {
    let port = |protocol: &str| NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(53)),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicyEgressRule { to: None, ports: Some(vec![port("UDP"), port("TCP")]) }
}

fn peer_pods(labels: BTreeMap<String, String>) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(selector(labels)), ..NetworkPolicyPeer::default() }
}

fn selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

/// TCP ports; none listed means all.
fn tcp(ports: &[u16]) -> Option<Vec<NetworkPolicyPort>> {
    let port = |number: &u16| NetworkPolicyPort {
        protocol: Some("TCP".to_owned()),
        port: Some(IntOrString::Int(i32::from(*number))),
        ..NetworkPolicyPort::default()
    };
    (!ports.is_empty()).then(|| ports.iter().map(port).collect())
}
