//! Which kinds are watched, and whom a change concerns.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::Stream;
use hearth_crds::names;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::{Notify, mpsc};

use crate::cache::{Caches, GuardedDeployment, GuardedJob, GuardedSweep};
use crate::children::ANNOTATION_PARENT;
use crate::kept::Metadata;
use crate::pod_index::PodIndex;
use crate::seen::{Kind, Seen, Told};
use crate::watch::Watching;

/// Starts every watch and says which parents each one concerns.
pub fn watch_all(
    client: &Client,
    namespace: Option<&str>,
    watching: &Watching,
    parents: &Parents,
) -> Caches {
    let to_deployment = parents.deployments.clone();
    let model_deployments: Store<GuardedDeployment> = watching.start(
        Kind::ModelDeployment,
        (api(client, namespace), ()),
        None,
        Box::new(move |object| tell(&to_deployment, object)),
    );
    let (to_parents, waiting) = (parents.clone(), model_deployments.clone());
    let sweeps: Store<GuardedSweep> = watching.start(
        Kind::HyperparamSweep,
        (api(client, namespace), ()),
        None,
        Box::new(move |object| {
            tell(&to_parents.sweeps, object);
            to_parents.users_of_sweep(object, &waiting);
        }),
    );
    let (to_parents, waiting) = (parents.clone(), model_deployments.clone());
    let training_jobs: Store<GuardedJob> = watching.start(
        Kind::TrainingJob,
        (api(client, namespace), ()),
        None,
        Box::new(move |object| {
            tell(&to_parents.jobs, object);
            to_parents.of_child(&Metadata::of(object.meta()));
            to_parents.users_of_job(object, &waiting);
        }),
    );
    let ours = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER);
    let watch = |kind, labels, touched| {
        (kind, watching.start(kind, (api_of(client, namespace, kind), kind), labels, touched))
    };
    let pods = PodIndex::default();
    let mut seen: BTreeMap<Kind, Store<Seen>> = Kind::CHILDREN
        .into_iter()
        .chain([Kind::Pod])
        .map(|kind| {
            let (parents, index) = (parents.clone(), pods.clone());
            let touched = move |object: &Seen| {
                if kind == Kind::Pod {
                    index.saw(object);
                }
                parents.of_child(&object.metadata);
            };
            watch(kind, Some(&ours), Box::new(touched))
        })
        .collect();
    let to_parents = parents.clone();
    let (claim_jobs, claim_deployments) = (training_jobs.clone(), model_deployments.clone());
    seen.extend([watch(
        Kind::PersistentVolumeClaim,
        None,
        Box::new(move |claim: &Seen| {
            let namespace = claim.metadata.namespace.as_deref();
            to_parents.waiting_in(namespace, &claim_jobs, &claim_deployments);
        }),
    )]);
    Caches { training_jobs, sweeps, model_deployments, seen, pods }
}

/// Starts to watch what only admission looks at.
pub fn watch_pool(
    client: &Client,
    namespace: Option<&str>,
    watching: &Watching,
    changed: &Arc<Notify>,
    caches: &mut Caches,
) {
    for kind in [Kind::Node, Kind::ResourceQuota, Kind::PriorityClass] {
        let api = api_of(client, namespace.filter(|_| kind == Kind::ResourceQuota), kind);
        let changed = changed.clone();
        let touched = Box::new(move |_: &Seen| changed.notify_one());
        caches.seen.insert(kind, watching.start(kind, (api, kind), None, touched));
    }
}

/// Waits for the first list of every kind.
pub async fn ready(caches: &Caches) -> anyhow::Result<()> {
    caches.training_jobs.wait_until_ready().await?;
    caches.sweeps.wait_until_ready().await?;
    caches.model_deployments.wait_until_ready().await?;
    for store in caches.seen.values() {
        store.wait_until_ready().await?;
    }
    Ok(())
}

/// Sends a parent to its controller.
pub type Sender<K> = mpsc::UnboundedSender<ObjectRef<K>>;

/// The way from watches to a controller, which removes duplicates. Watches
/// never wait for it.
pub fn queue<K>() -> (Sender<K>, impl Stream<Item = Result<ObjectRef<K>, std::convert::Infallible>>)
where
    K: Resource<DynamicType = ()>,
{
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, futures::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|o| o.map(Ok))))
}

/// The controllers that a change may concern.
#[derive(Clone)]
pub struct Parents {
    /// That of TrainingJobs.
    pub jobs: Sender<GuardedJob>,
    /// That of HyperparamSweeps.
    pub sweeps: Sender<GuardedSweep>,
    /// That of ModelDeployments.
    pub deployments: Sender<GuardedDeployment>,
    /// Something that admission decides on has changed.
    pub changed: Arc<Notify>,
}

impl Parents {
    /// The parent of a child, by label and annotation: pods belong to a Job or
    /// a ReplicaSet, not to the parent itself.
    fn of_child(&self, child: &Metadata) {
        self.changed.notify_one();
        let namespace = child.namespace.as_deref().unwrap_or_default();
        let Some(parent) = child.annotations.get(ANNOTATION_PARENT) else { return };
        match child.labels.get(names::LABEL_KIND) {
            Some("trainingjob") => send(&self.jobs, parent, namespace),
            Some("hyperparamsweep") => send(&self.sweeps, parent, namespace),
            Some("modeldeployment") => send(&self.deployments, parent, namespace),
            _ => {}
        }
    }

    /// Deployments that serve this job's model.
    fn users_of_job(&self, job: &GuardedJob, deployments: &Store<GuardedDeployment>) {
        self.users_of(job.meta(), deployments, |from| from.from_training_job.as_deref());
    }

    /// Deployments that serve the model of this sweep's best trial.
    fn users_of_sweep(&self, sweep: &GuardedSweep, deployments: &Store<GuardedDeployment>) {
        self.users_of(sweep.meta(), deployments, |from| from.from_sweep.as_deref());
    }

    fn users_of(
        &self,
        object: &ObjectMeta,
        deployments: &Store<GuardedDeployment>,
        named: impl Fn(&hearth_crds::model_deployment::ModelRef) -> Option<&str>,
    ) {
        for deployment in deployments.state() {
            let Ok(found) = &deployment.0 else { continue };
            let from = named(&found.spec.model);
            if from == object.name.as_deref() && found.metadata.namespace == object.namespace {
                tell(&self.deployments, deployment.as_ref());
            }
        }
    }

    /// Objects of a namespace that may have waited for a claim.
    fn waiting_in(
        &self,
        namespace: Option<&str>,
        jobs: &Store<GuardedJob>,
        deployments: &Store<GuardedDeployment>,
    ) {
        let here = |object: Option<String>| object.as_deref() == namespace;
        jobs.state()
            .iter()
            .filter(|j| here(j.namespace()))
            .for_each(|j| tell(&self.jobs, j.as_ref()));
        let there = deployments.state();
        there
            .iter()
            .filter(|d| here(d.namespace()))
            .for_each(|d| tell(&self.deployments, d.as_ref()));
    }
}

/// Tells the controller of this object.
pub fn tell<K: Resource<DynamicType = ()>>(to: &Sender<K>, object: &K) {
    send(to, &object.name_any(), &object.namespace().unwrap_or_default());
}

fn send<K: Resource<DynamicType = ()>>(to: &Sender<K>, name: &str, namespace: &str) {
    // The receiver lives as long as the process.
    let _ = to.send(ObjectRef::new(name).within(namespace));
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn api_of(client: &Client, namespace: Option<&str>, kind: Kind) -> Api<Told> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    }
}
