//! What the watches have seen: one store a kind. Reads cost no request.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_crds::{HyperparamSweep, ModelDeployment, TrainingJob, names};
use kube::Resource;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store};

use crate::children::{ANNOTATION_PARENT, ChildId, Kind, Live, LiveChildren};
use crate::kept::{Metadata, Texts};
use crate::observed::{JobView, PodView, controller, live, live_metadata, owner};
use crate::pod_index::PodIndex;
use crate::seen::Seen;

/// A TrainingJob, or what is known of one that cannot be read.
pub type GuardedJob = DeserializeGuard<TrainingJob>;
/// A HyperparamSweep, or what is known of one that cannot be read.
pub type GuardedSweep = DeserializeGuard<HyperparamSweep>;
/// A ModelDeployment, or what is known of one that cannot be read.
pub type GuardedDeployment = DeserializeGuard<ModelDeployment>;

/// The stores.
#[derive(Clone)]
pub struct Caches {
    /// All TrainingJobs.
    pub training_jobs: Store<GuardedJob>,
    /// All HyperparamSweeps.
    pub sweeps: Store<GuardedSweep>,
    /// All ModelDeployments.
    pub model_deployments: Store<GuardedDeployment>,
    /// Hearth's objects of Kubernetes' own kinds, and all claims.
    pub seen: BTreeMap<Kind, Store<Seen>>,
    /// Whose the pods among them are.
    pub pods: PodIndex,
}

impl Caches {
    /// The object of this kind and name.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Seen>> {
        self.seen.get(&kind)?.get(&ObjectRef::new_with(name, kind).within(namespace))
    }

    /// The objects of a kind that `wanted` selects.
    pub fn filter(&self, kind: Kind, wanted: impl Fn(&Seen) -> bool) -> Vec<Arc<Seen>> {
        self.seen.get(&kind).map(|store| store.state_filter(wanted)).unwrap_or_default()
    }

    /// Whether a claim is there and stays there.
    pub fn has_claim(&self, namespace: &str, claim: &str) -> bool {
        self.get(Kind::PersistentVolumeClaim, namespace, claim)
            .is_some_and(|found| found.metadata.deleted.is_none())
    }

    /// The Job of this name.
    pub fn job(&self, namespace: &str, name: &str) -> Option<JobView> {
        self.get(Kind::Job, namespace, name).map(|job| JobView::of(&job))
    }

    /// Pods of a parent in the role `component`, by name.
    pub fn pods_of(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        component: &str,
    ) -> Vec<(Texts, PodView)> {
        let find = |pod: &str| self.get(Kind::Pod, namespace, pod);
        let wanted = [
            (names::LABEL_KIND, kind.to_lowercase()),
            (names::LABEL_COMPONENT, component.to_owned()),
        ];
        let pods = self.pods.pods(namespace, &names::child(name, ""), find);
        pods.iter()
            .filter(|pod| {
                let Metadata { labels, annotations, .. } = &pod.metadata;
                wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
                    && annotations.get(ANNOTATION_PARENT).is_none_or(|parent| parent == name)
            })
            .map(|pod| (pod.metadata.labels.clone(), PodView::of(pod)))
            .collect()
    }

    /// The child of this kind and name, whoever owns it.
    pub fn child(&self, namespace: &str, id: &ChildId) -> Option<Live> {
        if id.kind == Kind::TrainingJob {
            let job = self.training_jobs.get(&ObjectRef::new(&id.name).within(namespace))?;
            return Some(live_metadata(&Metadata::of(job.meta())));
        }
        self.get(id.kind, namespace, &id.name).map(|object| live(&object))
    }

    /// The TrainingJobs that the object with this UID controls.
    pub fn jobs_of(&self, namespace: &str, uid: &str) -> Vec<Arc<GuardedJob>> {
        self.training_jobs.state_filter(|job| {
            job.meta().namespace.as_deref() == Some(namespace) && owner(job.meta()) == Some(uid)
        })
    }

    /// All children that the object with this UID controls.
    pub fn owned_by(&self, namespace: &str, uid: &str) -> LiveChildren {
        let controlled = |object: &Seen| {
            object.metadata.namespace.as_deref() == Some(namespace)
                && controller(object) == Some(uid)
        };
        let children = Kind::CHILDREN.into_iter().flat_map(|kind| {
            self.filter(kind, controlled).into_iter().map(move |object| {
                (ChildId { kind, name: object.metadata.name.to_string() }, live(&object))
            })
        });
        children.collect()
    }
}
