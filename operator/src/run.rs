//! Wires it all: watches ([`crate::watches`]), controllers, lease, probes, shutdown.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, applier};
use kube::runtime::events::Reporter;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Client, Config, Resource, ResourceExt};
use tokio::sync::Notify;

use crate::args::RunArgs;
use crate::cache::{GuardedDeployment, GuardedJob, GuardedSweep};
use crate::context::{Clock, Context, SystemClock};
use crate::error::{ReconcileError, retry_after};
use crate::http::Probes;
use crate::lease::Elector;
use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::watch::{SILENCE, WatchHealth, Watching};
use crate::watches::{Parents, queue, ready, tell, watch_all, watch_pool};
use crate::{admission, agent_client, deployment, http, sweep};

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
        client,
        caches: caches.clone(),
        settings: args.settings(),
        clock: Arc::new(SystemClock) as Arc<dyn Clock>,
        metrics: probes.metrics,
        reporter,
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
        control("TrainingJob", caches.training_jobs, job_queue, cx.clone(), planted::train),
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
