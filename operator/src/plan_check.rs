//! Looks over a plan for what no plan may hold. Tests run it on every plan
//! that they can think of.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::children::{Child, Plan};
use crate::pods::USER;

/// Longest name of an object that becomes a DNS label.
const MAX_NAME: usize = 63;

/// Everything that is wrong with a plan.
pub fn faults(plan: &Plan) -> Vec<String> {
    let mut faults = Vec::new();
    for (place, child) in plan.children.iter().enumerate() {
        let id = format!("{} {}", child.kind().as_str(), child.name());
        let mut say = |problem: &str| faults.push(format!("{id}: {problem}"));
        common(child, &mut say);
        if plan.children[..place].iter().any(|other| other.id() == child.id()) {
            say("is in the plan twice");
        }
        if plan.children.get(place + 1).is_some_and(|next| next.kind() < child.kind()) {
            say("comes after what needs it");
        }
        match child {
            Child::Job(job) => {
                let template = job.spec.as_ref().map(|spec| &spec.template);
                pod(template.and_then(|template| template.spec.as_ref()), false, &mut say);
            }
            Child::Deployment(deployment) => {
                let template = deployment.spec.as_ref().map(|spec| &spec.template);
                let spec = template.and_then(|template| template.spec.as_ref());
                let named = spec.is_some_and(|spec| spec.service_account_name.is_some());
                pod(spec, named, &mut say);
            }
            Child::Role(role) => {
                role.rules.iter().flatten().for_each(|rule| narrow(rule, &mut say));
            }
            Child::NetworkPolicy(policy) => {
                let types = policy.spec.as_ref().and_then(|spec| spec.policy_types.as_ref());
                if types.is_none_or(|types| types.len() != 2) {
                    say("leaves one direction open");
                }
            }
            Child::ConfigMap(_)
            | Child::ServiceAccount(_)
            | Child::RoleBinding(_)
            | Child::Service(_)
            | Child::PodDisruptionBudget(_)
            | Child::HttpRoute(_)
            | Child::TrainingJob(_) => {}
        }
    }
    faults
}

/// What holds for every object.
fn common(child: &Child, say: &mut impl FnMut(&str)) {
    let meta = child.metadata();
    let name = child.name();
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(inner) {
        say("has a name that is no DNS label");
    }
    if meta.namespace.is_none() {
        say("has no namespace");
    }
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    match owners {
        [owner] if owner.controller == Some(true) && !owner.uid.is_empty() => {}
        _ => say("has not exactly one controlling owner"),
    }
    let labels = meta.labels.as_ref();
    let has = |label| labels.is_some_and(|labels| labels.contains_key(label));
    for label in [
        hearth_crds::names::LABEL_KIND,
        hearth_crds::names::LABEL_NAME,
        hearth_crds::names::LABEL_COMPONENT,
        hearth_crds::names::LABEL_MANAGED_BY,
    ] {
        if !has(label) {
            say("lacks a label by which it is found");
        }
    }
    if labels.into_iter().flatten().any(|(_, value)| value.len() > MAX_NAME) {
        say("has a label value that is too long");
    }
}

/// Pod Security `restricted`
/// (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>),
/// and what Hearth asks besides.
fn pod(spec: Option<&PodSpec>, may_have_token: bool, say: &mut impl FnMut(&str)) {
    let Some(spec) = spec else { return say("has no pod") };
    let security = spec.security_context.as_ref();
    if security.and_then(|s| s.run_as_non_root) != Some(true)
        || security.and_then(|s| s.run_as_user) != Some(USER)
    {
        say("may run as root");
    }
    let seccomp = security.and_then(|s| s.seccomp_profile.as_ref());
    if seccomp.is_none_or(|profile| profile.type_ != "RuntimeDefault") {
        say("has no seccomp profile");
    }
    let shares = [spec.host_network, spec.host_pid, spec.host_ipc];
    if shares.contains(&Some(true)) {
        say("shares a namespace of its host");
    }
    if spec.automount_service_account_token != Some(may_have_token) {
        say("has a token that it does not need, or lacks one that it needs");
    }
    for volume in spec.volumes.iter().flatten() {
        let allowed = volume.empty_dir.is_some()
            || volume.config_map.is_some()
            || volume.persistent_volume_claim.is_some();
        if !allowed {
            say("has a volume of a kind that it may not have");
        }
        if volume.empty_dir.as_ref().is_some_and(|dir| dir.size_limit.is_none()) {
            say("has an emptyDir without a limit");
        }
    }
    let first = spec.init_containers.iter().flatten();
    first.chain(&spec.containers).for_each(|c| container(c, spec, say));
}

fn container(container: &Container, pod: &PodSpec, say: &mut impl FnMut(&str)) {
    let security = container.security_context.as_ref();
    if security.and_then(|s| s.allow_privilege_escalation) != Some(false) {
        say("may gain privileges");
    }
    if security.and_then(|s| s.privileged) == Some(true) {
        say("is privileged");
    }
    if security.and_then(|s| s.read_only_root_filesystem) != Some(true) {
        say("may change its image");
    }
    let capabilities = security.and_then(|s| s.capabilities.as_ref());
    let drops = capabilities.and_then(|c| c.drop.as_ref());
    if drops.is_none_or(|drop| !drop.iter().any(|name| name == "ALL"))
        || capabilities.and_then(|c| c.add.as_ref()).is_some()
    {
        say("keeps capabilities");
    }
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    if limits.is_none_or(|limits| !limits.contains_key("memory")) {
        say("has no memory limit");
    }
    if container.image.as_deref().is_none_or(str::is_empty) {
        say("has no image");
    }
    let volumes = pod.volumes.as_deref().unwrap_or_default();
    for mount in container.volume_mounts.iter().flatten() {
        if !volumes.iter().any(|volume| volume.name == mount.name) {
            say("mounts a volume that is not there");
        }
    }
}

/// A role names its objects and its verbs.
fn narrow(rule: &PolicyRule, say: &mut impl FnMut(&str)) {
    let lists = [Some(&rule.verbs), rule.resources.as_ref(), rule.api_groups.as_ref()];
    if lists.into_iter().flatten().flatten().any(|entry| entry == "*") {
        say("grants everything of something");
    }
    if rule.resource_names.as_ref().is_none_or(Vec::is_empty) {
        say("grants more than one object");
    }
}
