//! What admission decides on, from what the watches have seen. No I/O.

use std::collections::{BTreeMap, BTreeSet};

use hearth_crds::condition::{self, training_job as types};
use hearth_crds::pod::TaintEffect;
use hearth_crds::training_job::Workers;
use hearth_crds::{TrainingJob, names};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::amounts::{Amounts, is_device};
use super::policy::{Claim, Holder, Quota, Standing, Uid, View};
use super::pool::{Gang, Node, Taint};
use crate::cache::Caches;
use crate::observed::{JobView, PodView};
use crate::seen::{Kind, Seen};
use crate::training_job::gather::pods_of;
use crate::training_job::plan::pod_resources;
use crate::training_job::validate::{child_name, spec_hash};
use crate::training_job::{is_over, plan::COMPONENT};

/// Whether jobs with such workers are decided on: they ask for devices, or a ResourceQuota
/// limits what they ask for.
pub fn counts(caches: &Caches, namespace: &str, workers: &Workers) -> bool {
    let here = |quota: &Seen| quota.metadata.namespace.as_deref() == Some(namespace);
    asks_for_devices(workers) || !quotas(caches, here).is_empty()
}

fn asks_for_devices(workers: &Workers) -> bool {
    let asked = workers.resources.limits.keys().chain(workers.resources.requests.keys());
    asked.into_iter().any(|name| is_device(name))
}

/// The view, and those of `granted` that are still to be seen to run.
pub fn view(
    caches: &Caches,
    granted: &BTreeSet<Uid>,
    min_runtime: SignedDuration,
) -> (View, BTreeSet<Uid>) {
    let mut view = View {
        nodes: nodes(caches),
        quotas: quotas(caches, |_| true),
        min_runtime,
        ..View::default()
    };
    let mut still = BTreeSet::new();
    let priorities = Priorities::of(caches);
    for guarded in caches.training_jobs.state() {
        let Ok(job) = &guarded.0 else { continue };
        let namespace = job.namespace().unwrap_or_default();
        let counts = asks_for_devices(&job.spec.workers) || view.quotas.contains_key(&namespace);
        if is_over(job) || !counts {
            continue;
        }
        let claim = claim(job, &priorities);
        let child = caches.job(&namespace, &child_name(&claim.name));
        let child = child.filter(|child| child.ended.is_none());
        let runs = child.as_ref().is_some_and(|child| !child.suspended);
        let waits = may_start(job);
        let promised = !runs && waits && granted.contains(&claim.uid);
        let mut theirs =
            pods_of(caches, &namespace, &claim.name, child.as_ref(), job.spec.stop.is_some());
        theirs.retain(|pod| !pod.is_over());
        if promised {
            still.insert(claim.uid.clone());
        }
        let standing = match child {
            Some(child) if runs => Some(Standing::Runs(yields_since(job, &child))),
            _ if promised => Some(Standing::Runs(None)),
            _ if !theirs.is_empty() => Some(Standing::Leaving),
            _ => None,
        };
        if let Some(standing) = &standing {
            view.holders.push(holder(&claim, &theirs, standing.clone()));
        }
        if waits && matches!(standing, None | Some(Standing::Leaving)) {
            view.waiting.push(claim);
        }
    }
    (view, still)
}

fn holder(claim: &Claim, pods: &[PodView], standing: Standing) -> Holder {
    let mut bound = BTreeMap::new();
    for node in pods.iter().filter_map(|pod| pod.node.clone()) {
        *bound.entry(node).or_default() += 1;
    }
    let live = u32::try_from(pods.len()).unwrap_or(u32::MAX);
    Holder { claim: claim.clone(), bound, live, standing }
}

/// Since when a job runs that would yield if it were asked: one that its reconcile touches,
/// and whose queue is not Kueue's.
fn yields_since(job: &TrainingJob, child: &JobView) -> Option<Timestamp> {
    let ours = !job.labels().contains_key(names::LABEL_QUEUE);
    let same = child.spec_hash.as_deref() == Some(spec_hash(&job.spec).as_str());
    child.started.filter(|_| ours && same)
}

/// Whether a job would start if it were let: it was found valid as it is now, and nothing
/// else keeps it.
fn may_start(job: &TrainingJob) -> bool {
    let Some(status) = &job.status else { return false };
    let admitted = condition::get(&status.conditions, types::ADMITTED);
    !job.spec.suspend
        && job.spec.stop.is_none()
        && !job.labels().contains_key(names::LABEL_QUEUE)
        && status.observed_generation == job.metadata.generation
        && condition::is_true(&status.conditions, types::ACCEPTED)
        && admitted.is_none_or(|admitted| admitted.reason != "MissingClaim")
}

fn claim(job: &TrainingJob, priorities: &Priorities) -> Claim {
    let workers = &job.spec.workers;
    Claim {
        uid: job.uid().unwrap_or_default(),
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
        priority: priorities.value(workers.placement.priority_class_name.as_deref()),
        created: job.metadata.creation_timestamp.as_ref().map(|t| t.0).unwrap_or_default(),
        gang: gang(workers),
    }
}

/// Pods of these workers.
fn gang(workers: &Workers) -> Gang {
    let resources = pod_resources(workers);
    let limits = resources.limits.unwrap_or_default();
    // Where only a limit is given, Kubernetes asks for as much.
    let mut requests = limits.clone();
    requests.extend(resources.requests.unwrap_or_default());
    let (asked, most) = (Amounts::of(&requests, |_| true), Amounts::of(&limits, |_| true));
    let mut charge = Amounts::default();
    for (name, amount) in asked.0 {
        if !is_device(&name) {
            charge.0.insert(name.clone(), amount);
        }
        charge.0.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in most.0.into_iter().filter(|(name, _)| !is_device(name)) {
        charge.0.insert(format!("limits.{name}"), amount);
    }
    charge.0.extend(["pods", "count/pods"].map(|key| (key.to_owned(), 1000)));
    Gang {
        pods: u32::try_from(workers.replicas).unwrap_or(0),
        devices: Amounts::of(&requests, is_device),
        charge,
        placement: workers.placement.clone(),
    }
}

/// Quotas that count every pod, of the namespaces that have any.
fn quotas(caches: &Caches, wanted: impl Fn(&Seen) -> bool) -> BTreeMap<String, Vec<Quota>> {
    let counts_all = |quota: &Seen| {
        wanted(quota)
            && quota.spec.scopes.as_ref().is_none_or(Vec::is_empty)
            && quota.spec.scope_selector.is_none()
    };
    let counts = |key: &str| {
        key.contains("cpu") || key.contains("memory") || key.contains("pods") || key.contains('/')
    };
    let mut quotas: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for seen in caches.filter(Kind::ResourceQuota, counts_all) {
        let quota = Quota {
            name: seen.metadata.name.to_string(),
            hard: Amounts::of(seen.spec.hard.iter().flatten(), counts),
            used: Amounts::of(seen.status.used.iter().flatten(), counts),
        };
        if !quota.hard.0.is_empty() {
            let namespace = seen.metadata.namespace.as_deref().unwrap_or_default();
            quotas.entry(namespace.to_owned()).or_default().push(quota);
        }
    }
    quotas
}

/// Nodes that take pods, less what pods of deployments use.
fn nodes(caches: &Caches) -> Vec<Node> {
    let ready = |node: &Seen| {
        node.spec.unschedulable != Some(true)
            && node.status.condition("Ready").is_some_and(crate::seen::Condition::holds)
    };
    let mut nodes: Vec<_> =
        caches.filter(Kind::Node, ready).iter().map(|node| node_of(node)).collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let other = |pod: &Seen| {
        pod.spec.node_name.is_some()
            && !PodView::of(pod).is_over()
            && pod.metadata.labels.get(names::LABEL_COMPONENT) != Some(COMPONENT)
    };
    for pod in caches.filter(Kind::Pod, other) {
        let on = |node: &&mut Node| Some(&node.name) == pod.spec.node_name.as_ref();
        let Some(node) = nodes.iter_mut().find(on) else { continue };
        for container in &pod.spec.containers {
            node.devices.add(&Amounts::of(&container.resources.requests, is_device), -1);
        }
    }
    nodes
}

fn node_of(node: &Seen) -> Node {
    let taint = |taint: &k8s_openapi::api::core::v1::Taint| {
        let effect = match taint.effect.as_str() {
            "NoExecute" => TaintEffect::NoExecute,
            "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
            _ => TaintEffect::NoSchedule,
        };
        Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default(), effect }
    };
    Node {
        name: node.metadata.name.to_string(),
        labels: node.metadata.labels.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        taints: node.spec.taints.iter().flatten().map(taint).collect(),
        devices: Amounts::of(node.status.allocatable.iter().flatten(), is_device),
    }
}

/// Values of the PriorityClasses.
struct Priorities {
    of: BTreeMap<String, i64>,
    default: i64,
}

impl Priorities {
    fn of(caches: &Caches) -> Self {
        let classes = caches.filter(Kind::PriorityClass, |_| true);
        let default = classes.iter().find(|class| class.global_default == Some(true));
        Self {
            default: default.and_then(|class| class.value).unwrap_or(0),
            of: classes
                .iter()
                .map(|c| (c.metadata.name.to_string(), c.value.unwrap_or(0)))
                .collect(),
        }
    }

    fn value(&self, class: Option<&str>) -> i64 {
        let named = class.and_then(|class| match class {
            "system-cluster-critical" => Some(2_000_000_000),
            "system-node-critical" => Some(2_000_001_000),
            _ => self.of.get(class).copied(),
        });
        named.unwrap_or(self.default)
    }
}
