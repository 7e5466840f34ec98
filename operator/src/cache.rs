//! What the watches have seen: one store a kind. Reads cost no request.

use std::collections::BTreeMap;

use hearth_crds::{ModelDeployment, TrainingJob, names};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};

use crate::children::{ANNOTATION_PARENT, ChildId, Kind, Live, LiveChildren};
use crate::observed::{JobView, PodView, live};

/// A TrainingJob, or what is known of one that cannot be read.
pub type GuardedJob = DeserializeGuard<TrainingJob>;
/// A ModelDeployment, or what is known of one that cannot be read.
pub type GuardedDeployment = DeserializeGuard<ModelDeployment>;

/// The stores.
#[derive(Clone)]
#[allow(missing_docs, reason = "one store a kind")]
pub struct Caches {
    pub training_jobs: Store<GuardedJob>,
    pub model_deployments: Store<GuardedDeployment>,
    pub jobs: Store<Job>,
    pub pods: Store<Pod>,
    pub deployments: Store<Deployment>,
    pub config_maps: Store<ConfigMap>,
    pub services: Store<PartialObjectMeta<Service>>,
    pub network_policies: Store<PartialObjectMeta<NetworkPolicy>>,
    pub disruption_budgets: Store<PartialObjectMeta<PodDisruptionBudget>>,
    pub service_accounts: Store<PartialObjectMeta<ServiceAccount>>,
    pub roles: Store<PartialObjectMeta<Role>>,
    pub role_bindings: Store<PartialObjectMeta<RoleBinding>>,
    pub claims: Store<PartialObjectMeta<PersistentVolumeClaim>>,
}

impl Caches {
    /// Whether a claim is there and stays there.
    pub fn has_claim(&self, namespace: &str, claim: &str) -> bool {
        let key = ObjectRef::new(claim).within(namespace);
        self.claims.get(&key).is_some_and(|found| found.metadata.deletion_timestamp.is_none())
    }

    /// The Job of this name.
    pub fn job(&self, namespace: &str, name: &str) -> Option<JobView> {
        let key = ObjectRef::new(name).within(namespace);
        self.jobs.get(&key).map(|job| JobView::of(&job))
    }

    /// Pods of a parent in the role `component`, by name.
    pub fn pods_of(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        component: &str,
    ) -> Vec<(BTreeMap<String, String>, PodView)> {
        let wanted = [
            (names::LABEL_KIND, kind.to_lowercase()),
            (names::LABEL_NAME, names::child(name, "")),
            (names::LABEL_COMPONENT, component.to_owned()),
        ];
        let mut pods: Vec<_> = self
            .pods
            .state_filter(|pod| {
                pod.metadata.namespace.as_deref() == Some(namespace)
                    && wanted.iter().all(|(key, value)| pod.labels().get(*key) == Some(value))
                    && pod.annotations().get(ANNOTATION_PARENT).is_none_or(|parent| parent == name)
            })
            .iter()
            .map(|pod| (pod.labels().clone(), PodView::of(pod)))
            .collect();
        pods.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        pods
    }

    /// The child of this kind and name, whoever owns it.
    pub fn child(&self, namespace: &str, id: &ChildId) -> Option<Live> {
        fn meta<K>(store: &Store<PartialObjectMeta<K>>, namespace: &str, name: &str) -> Option<Live>
        where
            K: Resource<DynamicType = ()> + Clone + 'static,
        {
            store.get(&ObjectRef::new(name).within(namespace)).map(|o| live(&o.metadata))
        }
        let name = id.name.as_str();
        match id.kind {
            Kind::ConfigMap => self
                .config_maps
                .get(&ObjectRef::new(name).within(namespace))
                .map(|map| live_config_map(&map)),
            Kind::Job => {
                self.jobs.get(&ObjectRef::new(name).within(namespace)).map(|job| live_job(&job))
            }
            Kind::Deployment => self
                .deployments
                .get(&ObjectRef::new(name).within(namespace))
                .map(|deployment| live(&deployment.metadata)),
            Kind::ServiceAccount => meta(&self.service_accounts, namespace, name),
            Kind::Role => meta(&self.roles, namespace, name),
            Kind::RoleBinding => meta(&self.role_bindings, namespace, name),
            Kind::Service => meta(&self.services, namespace, name),
            Kind::NetworkPolicy => meta(&self.network_policies, namespace, name),
            Kind::PodDisruptionBudget => meta(&self.disruption_budgets, namespace, name),
        }
    }

    /// All children that the object with this UID controls.
    pub fn owned_by(&self, namespace: &str, uid: &str) -> LiveChildren {
        let mut found = LiveChildren::new();
        self.config_maps.state().iter().for_each(|o| {
            keep(&mut found, Kind::ConfigMap, namespace, uid, (o.meta(), || live_config_map(o)));
        });
        self.jobs.state().iter().for_each(|o| {
            keep(&mut found, Kind::Job, namespace, uid, (o.meta(), || live_job(o)));
        });
        self.deployments.state().iter().for_each(|o| {
            keep(&mut found, Kind::Deployment, namespace, uid, (o.meta(), || live(o.meta())));
        });
        keep_all(&mut found, Kind::Service, namespace, uid, &self.services);
        keep_all(&mut found, Kind::ServiceAccount, namespace, uid, &self.service_accounts);
        keep_all(&mut found, Kind::Role, namespace, uid, &self.roles);
        keep_all(&mut found, Kind::RoleBinding, namespace, uid, &self.role_bindings);
        keep_all(&mut found, Kind::NetworkPolicy, namespace, uid, &self.network_policies);
        keep_all(&mut found, Kind::PodDisruptionBudget, namespace, uid, &self.disruption_budgets);
        found
    }
}

type Meta = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn keep_all<K>(
    found: &mut LiveChildren,
    kind: Kind,
    namespace: &str,
    uid: &str,
    store: &Store<PartialObjectMeta<K>>,
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    for object in store.state() {
        keep(found, kind, namespace, uid, (&object.metadata, || live(&object.metadata)));
    }
}

/// Keeps the view of an object that `uid` controls.
fn keep(
    found: &mut LiveChildren,
    kind: Kind,
    namespace: &str,
    uid: &str,
    (metadata, view): (&Meta, impl Fn() -> Live),
) {
    let controlled = metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid && owner.controller == Some(true));
    if controlled && metadata.namespace.as_deref() == Some(namespace) {
        let name = metadata.name.clone().unwrap_or_default();
        found.insert(ChildId { kind, name }, view());
    }
}

fn live_config_map(map: &ConfigMap) -> Live {
    Live { data: map.data.clone(), ..live(&map.metadata) }
}

fn live_job(job: &Job) -> Live {
    let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false);
    Live { suspended, ..live(&job.metadata) }
}
