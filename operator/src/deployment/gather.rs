//! Reads what a deployment's decisions need: stores, and while a revision comes
//! or goes, the gateways over HTTP.

use std::collections::{BTreeMap, BTreeSet};

use hearth_crds::TrainingJob;
use hearth_crds::model_deployment::Routing;
use hearth_crds::names;
use hearth_crds::routing::{DriftReport, Measured, ROUTING_KEY, RoutingTable};
use hearth_crds::{condition, source::Source};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::marks::{ANNOTATION_ROLLOUT, ANNOTATION_ROUTED_AT, GATEWAY, QUANTIZE, SERVER};
use super::observed::{Model, Observed, Route, ServerDrift, ServerLoad, Workload};
use super::rollout::Record;
use super::target::{self, Target};
use super::training;
use super::validate::{Origin, ValidDeployment};
use crate::cache::GuardedJob;
use crate::children::{ChildId, Kind, Live};
use crate::context::Context;
use crate::error::{CallError, GatherError};
use crate::lost_pods::suspects;
use crate::observed::{Phase, PodView, controller, live};
use crate::seen::{Seen, Told};

/// Observes a deployment; gives its target too, where its model is here.
pub async fn observe(
    cx: &Context,
    valid: &ValidDeployment,
) -> Result<(Observed, Option<Target>), GatherError> {
    let namespace = valid.namespace.as_str();
    let origin = model(cx, valid);
    let training = training::job(valid, &origin);
    let model = match &training {
        Some(job) => trained(cx, valid, job),
        None => origin.clone(),
    };
    let target = target::of(valid, (&model, &origin), &cx.settings.images.worker);
    let mut ids: BTreeSet<_> = expected(valid, target.as_ref()).into_iter().collect();
    ids.extend(cx.caches.owned_by(namespace, &valid.uid).into_keys());
    let of_job = |name: String| ChildId { kind: Kind::TrainingJob, name };
    ids.extend(training.iter().map(|job| of_job(job.name_any())));
    ids.extend(cx.caches.jobs_of(namespace, &valid.uid).iter().map(|job| of_job(job.name_any())));
    let child = |id: ChildId| cx.child(namespace, &id).map(|live| (id, live));
    let children = ids.into_iter().filter_map(child).collect();
    let quantize = target
        .as_ref()
        .and_then(|target| target.artifact.as_ref())
        .and_then(|artifact| cx.caches.job(namespace, &artifact.job));
    let pods = |component, revision: Option<&str>| pods_of(cx, valid, component, revision);
    let artifact = target.as_ref().and_then(|t| t.artifact.as_ref()).map(|a| a.id.as_str());
    let quantize_pods: Vec<_> = pods(QUANTIZE, artifact)
        .into_iter()
        .filter(|pod| quantize.as_ref().is_some_and(|job| job.uid == pod.owner))
        .collect();
    let server_pods = pods(SERVER, target.as_ref().map(|t| t.revision.as_str()));
    let (routing, routed_at, record) = routing(cx, valid);
    let mut seen = Observed {
        missing_claims: missing_claims(cx, valid, target.as_ref()),
        children,
        model,
        training: training.map(Box::new),
        quantize,
        quantize_pods,
        servers: servers(cx, valid),
        server_pods,
        gateway: workload(cx, valid, &valid.child_name("gateway")),
        routing,
        routed_at,
        record,
        ..Observed::default()
    };
    let gateways = || answering(cx, pods(GATEWAY, None));
    if someone_must_go(&seen, target.as_ref()) {
        seen.gateways_at = Some(Box::pin(ask_routes(cx, &gateways())).await);
    }
    if seen.record.current.is_some() || valid.spec.serving.autoscaling.is_some() {
        seen.measured = Box::pin(ask_figures(cx, &gateways())).await;
    }
    if let Some(window) = window_of_tokens(valid) {
        seen.server_loads = Box::pin(ask_servers(cx, valid, window)).await;
    }
    if valid.spec.serving.drift.is_some() {
        let routed = seen.routed().map(str::to_owned);
        seen.drift = Box::pin(ask_drift(cx, valid, routed.as_deref())).await;
    }
    let (route, live) = Box::pin(route(cx, valid)).await?;
    seen.route = route;
    seen.children.extend(live);
    seen.silent_nodes = cx.silent_nodes(suspects(&seen.quantize_pods)).await?;
    Ok((seen, target))
}

/// The HTTPRoute, where one is asked for or may be there. It is read and not watched: where the
/// Gateway API is not installed, a watch would fail for ever.
async fn route(
    cx: &Context,
    valid: &ValidDeployment,
) -> Result<(Route, Option<(ChildId, Live)>), GatherError> {
    let namespace = valid.namespace.as_str();
    let table = ChildId { kind: Kind::ConfigMap, name: valid.child_name("routing") };
    let marked = cx.child(namespace, &table).is_some_and(|table| table.has_route);
    if valid.spec.routing == Routing::Gateway && !marked {
        return Ok((Route::NotAsked, None));
    }
    let id = ChildId { kind: Kind::HTTPRoute, name: valid.child_name("") };
    let api: Api<Told> = Api::namespaced_with(cx.client.clone(), namespace, &Kind::HTTPRoute);
    match cx.in_time(api.get(&id.name)).await {
        Ok(told) => {
            let seen = Seen::from(told);
            Ok((Route::Served(seen.status.parents.clone()), Some((id, live(&seen)))))
        }
        Err(CallError::Api(kube::Error::Api(status))) if status.code == 404 => {
            // Of a kind that is not served, the server says 404 without a reason.
            let served = status.reason == "NotFound";
            Ok((if served { Route::Served(Vec::new()) } else { Route::NotServed }, None))
        }
        Err(source) => Err(GatherError { what: format!("HTTPRoute {}", id.name), source }),
    }
}

/// Children that may have been written a moment ago.
fn expected(valid: &ValidDeployment, target: Option<&Target>) -> Vec<ChildId> {
    let id = |kind, name: &str| ChildId { kind, name: name.to_owned() };
    let gateway = valid.child_name("gateway");
    let mut ids: Vec<_> = Kind::CHILDREN.into_iter().map(|kind| id(kind, &gateway)).collect();
    ids.push(id(Kind::ConfigMap, &valid.child_name("routing")));
    ids.push(id(Kind::Service, &valid.child_name("")));
    if let Some(target) = target {
        let server = target.server_name(valid);
        ids.extend(Kind::CHILDREN.into_iter().map(|kind| id(kind, &server)));
        if let Some(artifact) = &target.artifact {
            ids.extend(Kind::CHILDREN.into_iter().map(|kind| id(kind, &artifact.job)));
        }
    }
    ids
}

fn model(cx: &Context, valid: &ValidDeployment) -> Model {
    match &valid.origin {
        Origin::Directory(uri) => Model::Here { uri: uri.clone(), digest: None },
        Origin::TrainingJob(name) => model_of_job(cx, valid, name),
        Origin::Sweep(name) => model_of_sweep(cx, valid, name),
    }
}

/// The model of a sweep's best trial, once all trials have ended.
fn model_of_sweep(cx: &Context, valid: &ValidDeployment, name: &str) -> Model {
    let key = ObjectRef::new(name).within(&valid.namespace);
    let guarded = cx.caches.sweeps.get(&key);
    let Some(Ok(sweep)) = guarded.as_deref().map(|guard| &guard.0) else {
        let message = format!(
            "namespace {} has no HyperparamSweep {name}: create it, or correct model.fromSweep",
            valid.namespace
        );
        return missing("MissingSweep", message, false);
    };
    let status = sweep.status.clone().unwrap_or_default();
    if let Some(failed) = condition::holding(&status.conditions, condition::sweep::FAILED) {
        let message = format!("HyperparamSweep {name} failed: {}", failed.message);
        return missing("SweepFailed", message, true);
    }
    match status
        .best
        .filter(|_| condition::is_true(&status.conditions, condition::sweep::SUCCEEDED))
    {
        Some(best) => model_of_job(cx, valid, &best.job),
        None => {
            missing("WaitingForSweep", format!("waits for HyperparamSweep {name} to end"), false)
        }
    }
}

/// The model that the deployment's own job leaves.
fn trained(cx: &Context, valid: &ValidDeployment, job: &TrainingJob) -> Model {
    let name = job.name_any();
    let key = ObjectRef::<GuardedJob>::new(&name).within(&valid.namespace);
    if cx.caches.training_jobs.get(&key).is_some() {
        return model_of_job(cx, valid, &name);
    }
    let message = format!("TrainingJob {name} of spec.compression.training is about to start");
    missing("WaitingForTraining", message, false)
}

fn missing(reason: &'static str, message: String, hopeless: bool) -> Model {
    Model::Missing { reason, message, hopeless }
}

fn model_of_job(cx: &Context, valid: &ValidDeployment, name: &str) -> Model {
    let key = ObjectRef::new(name).within(&valid.namespace);
    let guarded = cx.caches.training_jobs.get(&key);
    let Some(Ok(job)) = guarded.as_deref().map(|guard| &guard.0) else {
        let message = format!(
            "namespace {} has no TrainingJob {name}: create it, or correct model.fromTrainingJob",
            valid.namespace
        );
        return missing("MissingTrainingJob", message, false);
    };
    let status = job.status.clone().unwrap_or_default();
    if let Some(failed) = condition::holding(&status.conditions, condition::training_job::FAILED) {
        let message = format!("TrainingJob {name} failed and left no model: {}", failed.message);
        return missing("TrainingFailed", message, true);
    }
    if let Some(stopped) = condition::holding(&status.conditions, condition::training_job::STOPPED)
    {
        let message =
            format!("TrainingJob {name} was stopped and left no model: {}", stopped.message);
        return missing("TrainingStopped", message, true);
    }
    let Some(model) = status.model else {
        return missing(
            "WaitingForTraining",
            format!("waits for TrainingJob {name} to end"),
            false,
        );
    };
    match Source::parse(&model.uri) {
        Ok(uri) => Model::Here { uri, digest: Some(model.digest) },
        Err(error) => missing("BadModelLocation", error.to_string(), true),
    }
}

fn missing_claims(cx: &Context, valid: &ValidDeployment, target: Option<&Target>) -> Vec<String> {
    let rows = [&valid.calibration_rows, &valid.gate_rows].into_iter().flatten();
    let mut claims: BTreeSet<&str> =
        rows.chain(&valid.adapters).filter_map(Source::claim).collect();
    if let Some(target) = target {
        claims.extend(target.model.claim());
        if let Some(artifact) = &target.artifact {
            let read = [Some(&artifact.from), artifact.reference.as_ref()];
            claims.extend(read.into_iter().flatten().filter_map(Source::claim));
        }
    }
    claims.extend(valid.spec.serving.node_cache.as_ref().map(|cache| cache.claim_name.as_str()));
    let missing = claims.into_iter().filter(|claim| !cx.caches.has_claim(&valid.namespace, claim));
    missing.map(str::to_owned).collect()
}

fn pods_of(
    cx: &Context,
    valid: &ValidDeployment,
    component: &str,
    revision: Option<&str>,
) -> Vec<PodView> {
    cx.caches
        .pods_of(&valid.namespace, "ModelDeployment", &valid.name, component)
        .into_iter()
        .filter(|(labels, _)| {
            revision.is_none_or(|wanted| {
                labels.get(names::LABEL_REVISION).is_some_and(|found| found == wanted)
            })
        })
        .map(|(_, pod)| pod)
        .collect()
}

fn servers(cx: &Context, valid: &ValidDeployment) -> BTreeMap<String, Workload> {
    let ours = |deployment: &Seen| {
        deployment.metadata.namespace.as_deref() == Some(&valid.namespace)
            && deployment.metadata.deleted.is_none()
            && controller(deployment) == Some(&valid.uid)
    };
    let servers = cx.caches.filter(Kind::Deployment, ours);
    let by_revision = servers.iter().filter_map(|deployment| {
        let revision = deployment.metadata.labels.get(names::LABEL_REVISION)?.to_owned();
        Some((revision, Workload::of(deployment)))
    });
    by_revision.collect()
}

fn workload(cx: &Context, valid: &ValidDeployment, name: &str) -> Option<Workload> {
    cx.caches.get(Kind::Deployment, &valid.namespace, name).map(|found| Workload::of(&found))
}

/// Whether there are servers that get no traffic and wait for none.
fn someone_must_go(seen: &Observed, target: Option<&Target>) -> bool {
    let reached = seen.reached();
    let rejected = seen.record.rejected.as_ref().map(|rejected| &rejected.revision);
    let expected = |revision: &String| {
        reached.contains(revision)
            || target.is_some_and(|t| t.revision == *revision && rejected != Some(revision))
    };
    !seen.servers.keys().all(expected)
}

fn routing(
    cx: &Context,
    valid: &ValidDeployment,
) -> (Option<RoutingTable>, Option<Timestamp>, Record) {
    let name = valid.child_name("routing");
    let Some(map) = cx.caches.get(Kind::ConfigMap, &valid.namespace, &name) else {
        return (None, None, Record::default());
    };
    let text = map.data.as_ref().and_then(|data| data.get(ROUTING_KEY));
    let note = |key: &str| map.metadata.annotations.get(key);
    let at = note(ANNOTATION_ROUTED_AT).and_then(|text| text.parse().ok());
    let record = note(ANNOTATION_ROLLOUT).and_then(|text| serde_json::from_str(text).ok());
    (text.and_then(|text| serde_json::from_str(text).ok()), at, record.unwrap_or_default())
}

/// Gateways that can be asked. One that should have ended by now is on a dead node.
fn answering(cx: &Context, pods: Vec<PodView>) -> Vec<PodView> {
    pods.into_iter().filter(|pod| answers(cx, pod)).collect()
}

fn answers(cx: &Context, pod: &PodView) -> bool {
    let now = cx.clock.now();
    pod.phase == Phase::Running && pod.deadline.is_none_or(|deadline| deadline > now)
}

/// Seconds over which servers are asked for their tokens, where servers are scaled by them.
fn window_of_tokens(valid: &ValidDeployment) -> Option<u32> {
    let autoscaling = valid.spec.serving.autoscaling.as_ref()?;
    autoscaling.target_tokens_in_flight?;
    Some(autoscaling.scale_down_delay_seconds.unsigned_abs())
}

async fn ask_servers(
    cx: &Context,
    valid: &ValidDeployment,
    window: u32,
) -> BTreeMap<String, Vec<ServerLoad>> {
    let pods = cx.caches.pods_of(&valid.namespace, "ModelDeployment", &valid.name, SERVER);
    let ask = pods.into_iter().filter(|(_, pod)| answers(cx, pod)).filter_map(|(labels, pod)| {
        let revision = labels.get(names::LABEL_REVISION)?.to_owned();
        Some(async move { (revision, ask_server(cx, &pod, window).await) })
    });
    let mut loads: BTreeMap<String, Vec<ServerLoad>> = BTreeMap::new();
    for (revision, load) in futures::future::join_all(ask).await {
        loads.entry(revision).or_default().push(load);
    }
    loads
}

async fn ask_server(cx: &Context, pod: &PodView, window: u32) -> ServerLoad {
    let Some(ip) = pod.ip.as_deref() else { return ServerLoad::Silent };
    match cx.pods.server_load(ip, window).await {
        Ok(Some(load)) => ServerLoad::Tokens(load),
        Ok(None) => ServerLoad::NoTokens,
        Err(_) => ServerLoad::Silent,
    }
}

async fn ask_drift(
    cx: &Context,
    valid: &ValidDeployment,
    revision: Option<&str>,
) -> Vec<ServerDrift> {
    let Some(revision) = revision else { return Vec::new() };
    let pods = pods_of(cx, valid, SERVER, Some(revision));
    let ask = pods.iter().filter(|pod| answers(cx, pod)).map(|pod| async {
        let Some(ip) = pod.ip.as_deref() else { return ServerDrift::Silent };
        match cx.pods.server_drift(ip).await {
            Ok(Some(DriftReport { not_watched: Some(why), .. })) => {
                ServerDrift::NotWatched(Some(why))
            }
            Ok(Some(report)) => ServerDrift::Told(report),
            Ok(None) => ServerDrift::NotWatched(None),
            Err(_) => ServerDrift::Silent,
        }
    });
    futures::future::join_all(ask).await
}

async fn ask_routes(cx: &Context, gateways: &[PodView]) -> Vec<Option<BTreeSet<String>>> {
    let ask = gateways.iter().map(|pod| async {
        let table = cx.pods.gateway_routing(pod.ip.as_deref()?).await.ok()?;
        Some(table.reached())
    });
    futures::future::join_all(ask).await
}

async fn ask_figures(cx: &Context, gateways: &[PodView]) -> Vec<Option<Measured>> {
    let ask =
        gateways.iter().map(|pod| async { cx.pods.gateway_figures(pod.ip.as_deref()?).await.ok() });
    futures::future::join_all(ask).await
}
