//! Wires it all: watches, controllers, lease, probes, shutdown.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use hearth_crds::names;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Config, Resource, ResourceExt};
use tokio::sync::{Notify, mpsc};

use crate::args::RunArgs;
use crate::cache::{Caches, GuardedDeployment, GuardedJob, GuardedSweep};
use crate::children::ANNOTATION_PARENT;
use crate::context::{Clock, Context, SystemClock};
use crate::error::{ReconcileError, retry_after};
use crate::http::Probes;
use crate::lease::Elector;
use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::pod_index::PodIndex;
use crate::seen::{Kind, Seen};
use crate::watch::{SILENCE, WatchHealth, Watching};
use crate::{admission, agent_client, deployment, http, sweep, training_job};

/// Reconciles at once, a controller. Each may hold one socket.
const CONCURRENCY: u16 = 8;

/// Runs until SIGTERM, or until another replica leads. Not async: a caller would compile all
/// of it once more.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(run_until_stopped(args))
}

async fn run_until_stopped(mut args: RunArgs) -> anyhow::Result<()> {
    // A container that restarts keeps its pod's name, but must not take its
    // predecessor's lease for its own: that one may have a request under way.
    let started = SystemClock.now().as_microsecond();
    args.identity = format!("{}_{:x}", args.identity, started ^ i64::from(std::process::id()));
    // Two TLS providers are compiled in; rustls will not choose between them.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Config::infer().await.context("no cluster: set KUBECONFIG, or run in a pod")?;
    let metrics = Metrics::default();
    let probes = Probes {
        metrics: metrics.clone(),
        watches: WatchHealth::default(),
        ready: Arc::new(AtomicBool::new(false)),
    };
    let listener = tokio::net::TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    tokio::spawn(axum::serve(listener, http::app(probes.clone())).into_future());

    lead(&args, &config, probes).await
}

/// Waits for the lease, acts while holding it, and returns an error on its loss.
async fn lead(args: &RunArgs, config: &Config, probes: Probes) -> anyhow::Result<()> {
    let mut stop = std::pin::pin!(asked_to_stop());
    if !args.leader_elect {
        return tokio::select! { ended = act(args, config, probes) => ended, () = stop => Ok(()) };
    }
    let elector = elector(args, config)?;
    // A replica that stands by is ready: it has nothing else to do.
    probes.ready.store(true, Ordering::Relaxed);
    tracing::info!(identity = args.identity, "waits to lead");
    tokio::select! { () = elector.acquire() => {}, () = &mut stop => return Ok(()) }
    tracing::info!(identity = args.identity, "leads");
    probes.metrics.leads(true);
    let lost = async {
        let lost = elector.hold().await;
        if planted::is(Bug::KeepsLeading) {
            std::future::pending::<()>().await;
        }
        lost
    };
    tokio::select! {
        lost = lost => Err(lost).context("exits, so that two never act"),
        ended = act(args, config, probes) => ended,
        () = stop => {
            elector.release().await;
            Ok(())
        }
    }
}

/// A client of its own for the lease: kube's usual one retries for longer than
/// the lease lasts.
fn elector(args: &RunArgs, config: &Config) -> anyhow::Result<Elector> {
    let mut config = config.clone();
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(5));
    let client = Client::try_from(config).context("cannot make a client for the lease")?;
    Ok(Elector::new(client, &args.namespace, &args.leader_election_id, &args.identity))
}

/// Watches and acts, for ever.
async fn act(args: &RunArgs, config: &Config, probes: Probes) -> anyhow::Result<()> {
    let mut config = config.clone();
    // Servers end a watch before that. kube sets no limit on a list.
    config.read_timeout = (!planted::is(Bug::WaitsForEver)).then_some(SILENCE);
    let client = planted::client(config).context("cannot make a client")?;
    let watching = Watching { metrics: probes.metrics.clone(), health: probes.watches.clone() };
    let (jobs, job_queue) = queue::<GuardedJob>();
    let (sweeps, sweep_queue) = queue::<GuardedSweep>();
    let (deployments, deployment_queue) = queue::<GuardedDeployment>();
    let changed = Arc::new(Notify::new());
    let parents = Parents { jobs, sweeps, deployments, changed: changed.clone() };
    let mut caches = watch_all(&client, args.watch_namespace.as_deref(), &watching, &parents);
    if args.admission {
        watch_pool(&client, args.watch_namespace.as_deref(), &watching, &changed, &mut caches);
    }
    ready(&caches).await?;
    probes.ready.store(true, Ordering::Relaxed);
    tracing::info!("all lists are here");

    let reporter =
        Reporter { controller: "hearth-operator".into(), instance: Some(args.identity.clone()) };
    let cx = Arc::new(Context {
        client: client.clone(),
        caches: caches.clone(),
        settings: args.settings(),
        clock: Arc::new(SystemClock) as Arc<dyn Clock>,
        metrics: probes.metrics,
        recorder: Recorder::new(client, reporter),
        pods: agent_client::PodClient::default(),
        admission: args.admission(),
        memory: std::sync::Mutex::default(),
    });
    tokio::spawn(tidy(cx.clone()));
    if args.admission {
        let jobs = parents.jobs.clone();
        tokio::spawn(admission::run::run(cx.clone(), changed, move |job| tell(&jobs, job)));
    }
    tokio::join!(
        control(
            "TrainingJob",
            caches.training_jobs,
            job_queue,
            cx.clone(),
            training_job::reconcile
        ),
        control("HyperparamSweep", caches.sweeps, sweep_queue, cx.clone(), sweep::reconcile),
        control(
            "ModelDeployment",
            caches.model_deployments,
            deployment_queue,
            cx,
            deployment::reconcile
        ),
    );
    Ok(())
}

/// Sends a parent to its controller.
pub type Sender<K> = mpsc::UnboundedSender<ObjectRef<K>>;

/// The way from watches to a controller, which removes duplicates. Watches
/// never wait for it.
fn queue<K>() -> (Sender<K>, impl Stream<Item = Result<ObjectRef<K>, std::convert::Infallible>>)
where
    K: Resource<DynamicType = ()>,
{
    let (sender, mut receiver) = mpsc::unbounded_channel();
    (sender, futures::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|o| o.map(Ok))))
}

/// One controller: at most [`CONCURRENCY`] reconciles at once, never two of
/// one object.
async fn control<K, F, Q>(
    name: &'static str,
    store: Store<DeserializeGuard<K>>,
    queue: Q,
    cx: Arc<Context>,
    reconcile: impl Fn(Arc<DeserializeGuard<K>>, Arc<Context>) -> F + Copy + Send,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
    Q: Stream<Item = Result<ObjectRef<DeserializeGuard<K>>, std::convert::Infallible>> + Send,
{
    let timed = move |object: Arc<DeserializeGuard<K>>, cx: Arc<Context>| {
        let uid = object.meta().uid.clone().unwrap_or_default();
        let work = reconcile(object, cx.clone());
        Box::pin(async move {
            let began = std::time::Instant::now();
            let ended = work.await;
            cx.metrics.reconciled(name, began.elapsed());
            if ended.is_ok() {
                cx.clear_failures(&uid);
            }
            ended
        })
    };
    let on_error =
        move |object: Arc<DeserializeGuard<K>>, error: &ReconcileError, cx: Arc<Context>| {
            let uid = object.meta().uid.clone().unwrap_or_default();
            let category = error.category();
            cx.metrics.failed(name, category);
            let failures = cx.count_failure(&uid);
            let wait = retry_after(category, failures, jitter(&cx));
            tracing::warn!(
                object = object.name_any(),
                namespace = object.namespace(),
                error = error.sentence(),
                failures,
                retry_in = ?wait,
                "reconcile failed"
            );
            if planted::is(Bug::ForgetsFailures) {
                return Action::await_change();
            }
            Action::requeue(wait)
        };
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let queue = Box::pin(queue);
    let done = applier(timed, on_error, cx, store, queue, config);
    done.for_each(|outcome| async move {
        if let Err(controller::Error::QueueError(never)) = outcome {
            match never {}
        }
    })
    .await;
}

/// A figure in 0..1 from the clock's fine digits: enough to spread retries.
fn jitter(cx: &Context) -> f64 {
    f64::from(cx.clock.now().subsec_nanosecond() % 1000) / 1000.0
}

async fn tidy(cx: Arc<Context>) {
    let mut hourly = tokio::time::interval(Duration::from_hours(1));
    loop {
        hourly.tick().await;
        cx.tidy();
    }
}

/// Starts every watch and says which parents each one concerns.
fn watch_all(
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
            to_parents.of_child(object.meta());
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
        Box::new(move |claim| {
            let namespace = claim.metadata.namespace.as_deref();
            to_parents.waiting_in(namespace, &claim_jobs, &claim_deployments);
        }),
    )]);
    Caches { training_jobs, sweeps, model_deployments, seen, pods }
}

/// Starts to watch what only admission looks at.
fn watch_pool(
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

/// The controllers that a change may concern.
#[derive(Clone)]
struct Parents {
    jobs: Sender<GuardedJob>,
    sweeps: Sender<GuardedSweep>,
    deployments: Sender<GuardedDeployment>,
    /// Something that admission decides on has changed.
    changed: Arc<Notify>,
}

impl Parents {
    /// The parent of a child, by label and annotation: pods belong to a Job or
    /// a ReplicaSet, not to the parent itself.
    fn of_child(&self, child: &ObjectMeta) {
        self.changed.notify_one();
        let namespace = child.namespace.clone().unwrap_or_default();
        let annotations = child.annotations.as_ref();
        let Some(parent) = annotations.and_then(|all| all.get(ANNOTATION_PARENT)) else { return };
        let labels = child.labels.as_ref();
        match labels.and_then(|all| all.get(names::LABEL_KIND)).map(String::as_str) {
            Some("trainingjob") => send(&self.jobs, parent, &namespace),
            Some("hyperparamsweep") => send(&self.sweeps, parent, &namespace),
            Some("modeldeployment") => send(&self.deployments, parent, &namespace),
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

fn tell<K: Resource<DynamicType = ()>>(to: &Sender<K>, object: &K) {
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

fn api_of(client: &Client, namespace: Option<&str>, kind: Kind) -> Api<Seen> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &kind),
        None => Api::all_with(client.clone(), &kind),
    }
}

/// Waits for the first list of every kind.
async fn ready(caches: &Caches) -> anyhow::Result<()> {
    caches.training_jobs.wait_until_ready().await?;
    caches.sweeps.wait_until_ready().await?;
    caches.model_deployments.wait_until_ready().await?;
    for store in caches.seen.values() {
        store.wait_until_ready().await?;
    }
    Ok(())
}

/// Returns on SIGTERM or Ctrl-C.
async fn asked_to_stop() {
    let interrupted = tokio::signal::ctrl_c();
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! { _ = interrupted => {}, _ = terminated.recv() => {} }
        }
        Err(_) => {
            let _ = interrupted.await;
        }
    }
}
