//! Turns a valid job into the objects that train it.
//!
//! In: [`ValidJob`], [`Observed`], [`Settings`]. Out: [`Plan`]. Absent on purpose: clients,
//! clocks, randomness, logs. The same job gives the same plan, byte for byte.

pub mod config;
mod job;
pub(crate) mod prepare;
mod surroundings;

pub use job::{COMPONENT, GRACE_SECONDS};
pub(crate) use job::{failure_policy, pod_resources};

use crate::children::{Child, ChildId, Kind, Parent, Plan};
use crate::observed::PodView;
use crate::settings::Settings;
use crate::training_job::gather::Observed;
use crate::training_job::policy;
use crate::training_job::validate::ValidJob;

/// The objects of a job. `suspend` is absent in a queue: Kueue owns the field.
///
/// While a job is held back, by its user or by admission, it has no pods, and nothing that
/// pods need is made; once its last pod has ended, what pods needed goes.
pub fn build(valid: &ValidJob, seen: &Observed, settings: &Settings, held: bool) -> Plan {
    let parent = parent(valid);
    let suspend = valid.queue.is_none().then_some(valid.spec.suspend || held);
    let mut children = match suspend {
        Some(true) => Vec::new(),
        Some(false) | None => around_pods(valid, &parent, settings),
    };
    children.push(Child::Job(Box::new(job::job(valid, &parent, &settings.images, suspend))));
    let prune = match suspend {
        Some(true) if !rests(seen) => Vec::new(),
        _ => superfluous(&children, prepare::ids(valid), seen),
    };
    let pods = Some(policy::pods(valid, seen));
    Plan { children, prune, suspend, pods, ..Plan::default() }
}

/// The objects that prepare the job's rows: nothing else is there before they have.
pub fn preparation(valid: &ValidJob, seen: &Observed, settings: &Settings) -> Plan {
    let parent = parent(valid);
    let suspend = valid.spec.suspend;
    let started = seen.prepare.is_some();
    // A Job that waits for nothing but its user's word is not made.
    let children = if suspend && !started {
        Vec::new()
    } else {
        prepare::children(valid, &parent, settings, suspend)
    };
    Plan { children, suspend: Some(suspend), ..Plan::default() }
}

fn parent(valid: &ValidJob) -> Parent {
    Parent {
        kind: "TrainingJob",
        namespace: valid.namespace.clone(),
        name: valid.name.clone(),
        uid: valid.uid.clone(),
    }
}

/// The Jobs that have pods.
pub(super) fn jobs(valid: &ValidJob) -> Vec<ChildId> {
    let prepares = valid.prepared.is_some().then(|| valid.prepare_name());
    let names = std::iter::once(valid.child_name()).chain(prepares);
    names.map(|name| ChildId { kind: Kind::Job, name }).collect()
}

/// Whether no pod runs, and none will be made: those that end save a checkpoint together.
fn rests(seen: &Observed) -> bool {
    seen.job.as_ref().is_none_or(|job| job.suspended) && seen.pods.iter().all(PodView::is_over)
}

fn superfluous(
    children: &[Child],
    kept: impl Iterator<Item = ChildId>,
    seen: &Observed,
) -> Vec<ChildId> {
    let wanted: Vec<_> = children.iter().map(Child::id).collect();
    // What prepared the rows stays for its log.
    let wanted: Vec<_> = wanted.into_iter().chain(kept).collect();
    seen.children.keys().filter(|id| !wanted.contains(id)).cloned().collect()
}

/// What the pods need, in the order of writing.
fn around_pods(valid: &ValidJob, parent: &Parent, settings: &Settings) -> Vec<Child> {
    let mut children = vec![
        Child::ConfigMap(surroundings::config_map(valid, parent)),
        Child::Service(Box::new(surroundings::service(valid, parent))),
        Child::NetworkPolicy(surroundings::network_policy(valid, parent, settings)),
    ];
    if valid.spec.workers.replicas > 1 {
        children.push(Child::PodDisruptionBudget(surroundings::budget(valid, parent)));
    }
    children
}
