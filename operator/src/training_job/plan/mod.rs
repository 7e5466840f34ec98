//! Turns a valid job into the objects that train it.
//!
//! In: [`ValidJob`], [`Settings`]. Out: [`Plan`]. Absent on purpose: clients,
//! clocks, randomness, logs. The same job gives the same plan, byte for byte.

pub mod config;
mod job;
mod surroundings;

pub use job::{COMPONENT, GRACE_SECONDS};
pub(crate) use job::{failure_policy, pod_resources};

use crate::children::{Child, ChildId, Kind, Parent, Plan};
use crate::settings::Settings;
use crate::training_job::validate::ValidJob;

/// The objects of a job. `suspend` is absent in a queue: Kueue owns the field.
///
/// While a job is held back, by its user or by admission, it has no pods, and nothing that
/// pods need is made. A running Job should have `pods` of them.
pub fn build(valid: &ValidJob, settings: &Settings, held: bool, pods: i32) -> Plan {
    let parent = Parent {
        kind: "TrainingJob",
        namespace: valid.namespace.clone(),
        name: valid.name.clone(),
        uid: valid.uid.clone(),
    };
    let suspend = valid.queue.is_none().then_some(valid.spec.suspend || held);
    let child = valid.child_name();
    let mut children = match suspend {
        Some(true) => Vec::new(),
        Some(false) | None => around_pods(valid, &parent, settings),
    };
    children.push(Child::Job(Box::new(job::job(valid, &parent, &settings.images, suspend))));
    // One pod cannot be drained a part at a time.
    let prune = (valid.spec.workers.replicas == 1)
        .then(|| ChildId { kind: Kind::PodDisruptionBudget, name: child });
    Plan {
        children,
        prune: prune.into_iter().collect(),
        suspend,
        pods: Some(pods),
        ..Plan::default()
    }
}

/// The child Job.
pub(super) fn job_id(valid: &ValidJob) -> ChildId {
    ChildId { kind: Kind::Job, name: valid.child_name() }
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
