//! Turns a valid job into the objects that train it.
//!
//! In: [`ValidJob`], [`Settings`]. Out: [`Plan`]. Absent on purpose: clients,
//! clocks, randomness, logs. The same job gives the same plan, byte for byte.

pub mod config;
mod job;
mod surroundings;

pub(crate) use job::failure_policy;

use hearth_crds::names;

use crate::children::{Child, Parent, Plan};
use crate::pods::Images;
use crate::training_job::validate::ValidJob;

/// Seconds that a worker has for a checkpoint after SIGTERM.
pub const GRACE_SECONDS: i64 = job::GRACE_SECONDS;

/// Role of a TrainingJob's pods.
pub const COMPONENT: &str = "worker";

/// What plans need to know of the operator itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Images of pods.
    pub images: Images,
    /// The operator's namespace, from which workers may be asked how they are.
    pub namespace: String,
    /// The namespace of the scraper of metrics, where there is one.
    pub metrics_namespace: Option<String>,
}

/// The objects of a job. `suspend` is absent in a queue: Kueue owns the field.
pub fn build(valid: &ValidJob, settings: &Settings) -> Plan {
    let parent = Parent {
        kind: "TrainingJob",
        namespace: valid.namespace.clone(),
        name: valid.name.clone(),
        uid: valid.uid.clone(),
    };
    let mut children = vec![
        Child::ConfigMap(surroundings::config_map(valid, &parent)),
        Child::Service(Box::new(surroundings::service(valid, &parent))),
        Child::NetworkPolicy(surroundings::network_policy(valid, &parent, settings)),
    ];
    // One pod cannot be drained a part at a time.
    if valid.spec.workers.replicas > 1 {
        children.push(Child::PodDisruptionBudget(surroundings::budget(valid, &parent)));
    }
    children.push(Child::Job(Box::new(job::job(valid, &parent, &settings.images))));
    let suspend = valid.queue.is_none().then_some(valid.spec.suspend);
    Plan { children, suspend, ..Plan::default() }
}

/// Labels by which the job's pods find each other. The component keeps a
/// deployment of the same name apart.
fn pod_labels(parent: &Parent) -> std::collections::BTreeMap<String, String> {
    let mut labels = parent.labels(COMPONENT);
    labels.insert("app.kubernetes.io/name".into(), names::child(&parent.name, ""));
    labels
}
