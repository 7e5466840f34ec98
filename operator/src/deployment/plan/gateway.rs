//! The gateways: the deployment's one address, whatever revision is behind it.

use std::collections::BTreeMap;

use hearth_crds::model_deployment::{Oidc, SecretRef};
use hearth_crds::pod::PodPlacement;
use hearth_crds::routing::{
    CANARY, GATEWAY_ADMIN_PORT, GATEWAY_PORT, Limits, ROUTING_KEY, RoutingTable, STABLE, Scaling,
    Shadow, Split, Variant,
};
use hearth_crds::worker_config::SERVE_PORT;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ContainerPort, PodTemplateSpec, ResourceRequirements, Service, ServiceAccount,
    ServicePort, ServiceSpec,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::frame::{Frame, budget};
use super::route;
use super::server::{grace, listen, never_fewer};
use crate::children::{ANNOTATION_HTTP_ROUTE, Child, LiveChildren};
use crate::deployment::marks::{ANNOTATION_ROLLOUT, ANNOTATION_ROUTED_AT, GATEWAY, SERVER};
use crate::deployment::policy::Decision;
use crate::deployment::rollout::Record;
use crate::deployment::target::server_name;
use crate::deployment::validate::ValidDeployment;
use crate::network;
use crate::pods::{self, Program};

/// Where the keys of an issuer are mounted.
const OIDC_KEYS: &str = "/etc/hearth/oidc";
/// Ports of API servers: the usual ones.
const API_SERVER_PORTS: [u16; 4] = [443, 6443, 8443, 16443];

pub(super) fn children(frame: &Frame<'_>, decision: &Decision, live: &LiveChildren) -> Vec<Child> {
    let (valid, parent) = (frame.valid, &frame.parent);
    let name = valid.child_name("gateway");
    let routing = valid.child_name("routing");
    let meta = || parent.child_meta(&name, GATEWAY);
    let selector = || LabelSelector {
        match_labels: Some(parent.selector(GATEWAY)),
        ..LabelSelector::default()
    };
    let mut children = vec![
        Child::ConfigMap(table(frame, decision, &routing, route::is_or_will_be(valid, live))),
        Child::ServiceAccount(ServiceAccount {
            metadata: meta(),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }),
        Child::Role(Role { metadata: meta(), rules: Some(vec![may_read(&routing)]) }),
        Child::RoleBinding(RoleBinding {
            metadata: meta(),
            role_ref: RoleRef {
                api_group: Some("rbac.authorization.k8s.io".to_owned()),
                kind: "Role".to_owned(),
                name: name.clone(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: name.clone(),
                namespace: Some(valid.namespace.clone()),
                ..Subject::default()
            }]),
        }),
        Child::Service(Box::new(Service {
            metadata: parent.child_meta(&valid.child_name(""), GATEWAY),
            spec: Some(ServiceSpec {
                selector: Some(parent.selector(GATEWAY)),
                ports: Some(vec![ServicePort {
                    name: Some(scheme(valid).to_owned()),
                    port: if valid.spec.gateway.tls.is_some() { 443 } else { 80 },
                    target_port: Some(IntOrString::Int(i32::from(GATEWAY_PORT))),
                    protocol: Some("TCP".to_owned()),
                    ..ServicePort::default()
                }]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        })),
        Child::NetworkPolicy(wall(frame, &name)),
        Child::Deployment(Box::new(deployment(frame, &name, &routing))),
    ];
    if valid.spec.gateway.replicas > 1 {
        children.push(budget(meta(), selector()));
    }
    children
}

/// The routing table. Gateways watch it.
fn table(frame: &Frame<'_>, decision: &Decision, name: &str, has_route: bool) -> ConfigMap {
    let (valid, limits) = (frame.valid, &frame.valid.spec.gateway);
    let canary = decision.canary.as_ref().filter(|_| decision.route.is_some());
    let share = canary.map_or(0, |canary| canary.step.weight);
    let backend = |revision: &str| {
        format!("{}.{}.svc:{SERVE_PORT}", server_name(valid, revision), valid.namespace)
    };
    let variant = |name: &str, revision: &String, weight| Variant {
        name: name.to_owned(),
        revision: revision.clone(),
        backend: backend(revision),
        weight,
    };
    let stable = decision.route.iter().map(|revision| variant(STABLE, revision, 100 - share));
    let tried = canary
        .filter(|_| share > 0)
        .map(|canary| variant(CANARY, &canary.revision, canary.step.weight));
    let limits = Limits {
        max_body_bytes: limits.max_body_bytes.unsigned_abs(),
        max_in_flight_requests: limits.max_in_flight_requests.unsigned_abs(),
        request_timeout_seconds: limits.request_timeout_seconds.unsigned_abs(),
    };
    let split = canary.and_then(|canary| {
        let header = canary.step.user_header.clone()?;
        Some(Split::User { header, salt: format!("{}/{}", valid.name, canary.revision) })
    });
    let shadow = canary.and_then(|canary| {
        let revision = canary.revision.clone();
        Some(Shadow { backend: backend(&revision), revision, percent: canary.step.shadow? })
    });
    let table = RoutingTable {
        split: split.unwrap_or_default(),
        shadow,
        measure: canary.map(|canary| canary.measure.clone()),
        scaling: valid.spec.serving.autoscaling.as_ref().map(|autoscaling| Scaling {
            window_seconds: autoscaling.scale_down_delay_seconds.unsigned_abs(),
            hold_seconds: autoscaling.activation_timeout_seconds.unsigned_abs(),
        }),
        ..RoutingTable::new(valid.name.clone(), stable.chain(tried).collect(), limits)
    };
    let mut metadata = frame.parent.child_meta(name, GATEWAY);
    let since = decision.routed_at.map(|at| (ANNOTATION_ROUTED_AT.to_owned(), at.to_string()));
    let record = (decision.record != Record::default())
        .then(|| serde_json::to_string(&decision.record).unwrap_or_default())
        .map(|text| (ANNOTATION_ROLLOUT.to_owned(), text));
    let route = has_route.then(|| (ANNOTATION_HTTP_ROUTE.to_owned(), "true".to_owned()));
    let notes = since.into_iter().chain(record).chain(route);
    metadata.annotations.get_or_insert_default().extend(notes);
    let text = serde_json::to_string_pretty(&table).unwrap_or_default();
    ConfigMap {
        metadata,
        data: Some(BTreeMap::from([(ROUTING_KEY.to_owned(), text)])),
        ..ConfigMap::default()
    }
}

/// One object, by name; the operator itself holds these verbs, as it must to
/// give them away.
fn may_read(config_map: &str) -> PolicyRule {
    PolicyRule {
        api_groups: Some(vec![String::new()]),
        resources: Some(vec!["configmaps".to_owned()]),
        resource_names: Some(vec![config_map.to_owned()]),
        verbs: vec!["get".to_owned(), "watch".to_owned()],
        ..PolicyRule::default()
    }
}

/// Anyone may ask; gateways reach servers, names and the API server.
fn wall(frame: &Frame<'_>, name: &str) -> NetworkPolicy {
    let parent = &frame.parent;
    let mut ingress = vec![network::from_anywhere(&[GATEWAY_PORT])];
    ingress.extend(network::from_operators(frame.settings, &[GATEWAY_ADMIN_PORT]));
    let egress = vec![
        network::to_pods(parent.selector(SERVER), &[SERVE_PORT]),
        network::to_dns(),
        network::to_anywhere(&API_SERVER_PORTS),
    ];
    NetworkPolicy {
        metadata: parent.child_meta(name, GATEWAY),
        spec: Some(network::policy(parent.selector(GATEWAY), ingress, egress)),
    }
}

fn deployment(frame: &Frame<'_>, name: &str, routing: &str) -> Deployment {
    let (valid, images) = (frame.valid, &frame.settings.images);
    let mut container = pods::container(Program {
        name: GATEWAY,
        image: &images.gateway,
        pull_policy: &images.pull_policy,
        args: arguments(valid, routing),
        resources: resources(),
    });
    container.command = Some(vec!["hearth-gateway".to_owned()]);
    listen(&mut container, "http", GATEWAY_PORT);
    container.ports.get_or_insert_default().push(ContainerPort {
        name: Some("admin".to_owned()),
        container_port: i32::from(GATEWAY_ADMIN_PORT),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    });
    container.readiness_probe = Some(pods::http_probe("/readyz", GATEWAY_ADMIN_PORT, 2, 3));
    container.liveness_probe = Some(pods::http_probe("/healthz", GATEWAY_ADMIN_PORT, 10, 6));
    let mut pod = pods::pod(container, &PodPlacement::default());
    pod.service_account_name = Some(name.to_owned());
    // The one token in Hearth's pods: it reads the routing table.
    pod.automount_service_account_token = Some(true);
    pod.termination_grace_period_seconds = Some(grace(frame));
    pod.affinity = Some(pods::apart(frame.parent.selector(GATEWAY)));
    pods::leave_lost_nodes_after(&mut pod, pods::NODE_SILENCE_SECONDS);
    for (name, directory, secret) in secrets(valid) {
        pods::add_secret(&mut pod, name, &secret.secret_name, directory);
    }
    if let Some(oidc) = &valid.spec.gateway.oidc {
        pods::add_config_map(&mut pod, "oidc", &oidc.jwks_config_map_name, OIDC_KEYS);
    }
    Deployment {
        metadata: frame.parent.child_meta(name, GATEWAY),
        spec: Some(DeploymentSpec {
            replicas: Some(valid.spec.gateway.replicas),
            selector: LabelSelector {
                match_labels: Some(frame.parent.selector(GATEWAY)),
                ..LabelSelector::default()
            },
            strategy: Some(never_fewer()),
            revision_history_limit: Some(1),
            template: PodTemplateSpec {
                metadata: Some(frame.pod_meta(GATEWAY, None)),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// A request in flight may take as long at shutdown as at any other time.
fn arguments(valid: &ValidDeployment, routing: &str) -> Vec<String> {
    let drain = format!("{}s", valid.spec.gateway.request_timeout_seconds);
    let always =
        ["--namespace", &valid.namespace, "--config-map", routing, "--drain-timeout", &drain];
    let secrets = secrets(valid);
    let mounted = secrets
        .iter()
        .flat_map(|(name, directory, _)| [format!("--{name}"), (*directory).to_owned()]);
    let tokens = valid.spec.gateway.oidc.iter().flat_map(tokens);
    always.map(str::to_owned).into_iter().chain(mounted).chain(tokens).collect()
}

/// Whose tokens let in.
fn tokens(oidc: &Oidc) -> Vec<String> {
    let named = [
        ("--oidc-keys", OIDC_KEYS),
        ("--oidc-issuer", &oidc.issuer),
        ("--oidc-audience", &oidc.audience),
    ];
    let rate = oidc.requests_per_minute.map(|rate| format!("--oidc-requests-per-minute={rate}"));
    // In one piece, so that no text is taken for a flag.
    named.iter().map(|(flag, text)| format!("{flag}={text}")).chain(rate).collect()
}

/// What gateways mount: flag and volume, directory, Secret.
fn secrets(valid: &ValidDeployment) -> Vec<(&'static str, &'static str, &SecretRef)> {
    let gateway = &valid.spec.gateway;
    let keys = gateway.api_keys.as_ref().map(|secret| ("api-keys", "/etc/hearth/api-keys", secret));
    let tls = gateway.tls.as_ref().map(|secret| ("tls", "/etc/hearth/tls", secret));
    keys.into_iter().chain(tls).collect()
}

/// How clients talk to the gateway.
pub(in crate::deployment) fn scheme(valid: &ValidDeployment) -> &'static str {
    if valid.spec.gateway.tls.is_some() { "https" } else { "http" }
}

fn resources() -> ResourceRequirements {
    let of = |pairs: [(&str, &str); 2]| {
        let pair = |(name, figure): (&str, &str)| (name.to_owned(), Quantity(figure.to_owned()));
        Some(pairs.map(pair).into())
    };
    ResourceRequirements {
        requests: of([("cpu", "50m"), ("memory", "64Mi")]),
        limits: of([("cpu", "2"), ("memory", "512Mi")]),
        ..ResourceRequirements::default()
    }
}
