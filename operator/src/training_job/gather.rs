//! Reads what a job's decisions need: stores, and agent 0 over HTTP. Agent 0 is also told here
//! how many agents the job should have.

use std::collections::BTreeSet;

use crate::admission::Grant;
use crate::agent_client::AgentAnswer;
use crate::cache::Caches;
use crate::children::{ChildId, Kind, LiveChildren};
use crate::context::Context;
use crate::error::GatherError;
use crate::lost_pods::suspects;
use crate::observed::{JobView, Phase, PodView};
use crate::training_job::plan::prepare::PREPARE;
use crate::training_job::plan::{self, COMPONENT};
use crate::training_job::policy::{self, Stage};
use crate::training_job::validate::ValidJob;

/// What was observed of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its children.
    pub children: LiveChildren,
    /// The child Job.
    pub job: Option<JobView>,
    /// Worker pods, ended ones included.
    pub pods: Vec<PodView>,
    /// The Job that prepares the rows.
    pub prepare: Option<JobView>,
    /// Its pods, ended ones included.
    pub prepare_pods: Vec<PodView>,
    /// Claims that it names and that are not there.
    pub missing_claims: Vec<String>,
    /// Whether it may start.
    pub grant: Grant,
    /// What agent 0 said.
    pub agent: AgentAnswer,
    /// Nodes of pods that should have ended, where the node does not answer.
    pub silent_nodes: BTreeSet<String>,
}

/// Observes a job.
pub async fn observe(cx: &Context, valid: &ValidJob) -> Result<Observed, GatherError> {
    let (namespace, child) = (valid.namespace.as_str(), valid.child_name());
    let kinds =
        [Kind::ConfigMap, Kind::Service, Kind::NetworkPolicy, Kind::PodDisruptionBudget, Kind::Job];
    let children = kinds
        .into_iter()
        .map(|kind| ChildId { kind, name: child.clone() })
        .chain(valid.prepared.iter().flat_map(|_| plan::prepare::ids(valid)))
        .filter_map(|id| Some((id.clone(), cx.child(namespace, &id)?)))
        .collect();
    let job = cx.caches.job(namespace, &child);
    let stops = valid.spec.stop.is_some();
    let pods = pods_of(&cx.caches, namespace, &valid.name, job.as_ref(), stops);
    let prepare = cx.caches.job(namespace, &valid.prepare_name());
    let prepare = prepare.filter(|_| valid.prepared.is_some());
    let prepare_pods = match &prepare {
        Some(job) => owned_pods(&cx.caches, valid, PREPARE, job),
        None => Vec::new(),
    };
    let (read, prepared) = (valid.claims(), valid.prepare_claims());
    let claims: BTreeSet<&str> = read.into_keys().chain(prepared.into_keys()).collect();
    let missing_claims = claims
        .into_iter()
        .filter(|claim| !cx.caches.has_claim(namespace, claim))
        .map(str::to_owned)
        .collect();
    let agent = match first_agent(&pods) {
        Some(ip) if job.as_ref().is_some_and(|job| job.ended.is_none()) => {
            cx.ask_agent(&valid.uid, ip).await
        }
        _ => cx.last_answer(&valid.uid),
    };
    let suspected = [suspects(&pods), suspects(&prepare_pods)].into_iter().flatten().collect();
    let silent_nodes = cx.silent_nodes(suspected).await?;
    let grant = cx.admission.grant(&cx.caches, valid);
    Ok(Observed {
        children,
        job,
        pods,
        prepare,
        prepare_pods,
        missing_claims,
        grant,
        agent,
        silent_nodes,
    })
}

/// Tells agent 0 how many agents there should be, where it wants another number. What is lost
/// is told again at the next look.
pub async fn tell_size(cx: &Context, valid: &ValidJob, seen: &Observed, stage: &Stage) {
    let (Some(replicas), Some(ip)) = (policy::news_of_size(valid, stage), first_agent(&seen.pods))
    else {
        return;
    };
    match cx.resize_gang(&valid.uid, ip, replicas).await {
        Ok(()) => tracing::info!(job = valid.name, replicas, "agent 0 was told"),
        Err(error) => tracing::warn!(job = valid.name, %error, "agent 0 was not told of its size"),
    }
}

/// Worker pods of the TrainingJob `name` that its child Job made, ended ones included. One that
/// `stops` has pods for a while after its Job is gone.
pub(crate) fn pods_of(
    caches: &Caches,
    namespace: &str,
    name: &str,
    job: Option<&JobView>,
    stops: bool,
) -> Vec<PodView> {
    caches
        .pods_of(namespace, "TrainingJob", name, COMPONENT)
        .into_iter()
        .map(|(_, pod)| pod)
        // A job of the same name that was deleted may still have pods.
        .filter(|pod| job.map_or(stops, |job| job.uid == pod.owner))
        .collect()
}

/// Pods in the role `component` that `job` made.
fn owned_pods(caches: &Caches, valid: &ValidJob, component: &str, job: &JobView) -> Vec<PodView> {
    let pods = caches.pods_of(&valid.namespace, "TrainingJob", &valid.name, component);
    pods.into_iter().map(|(_, pod)| pod).filter(|pod| pod.owner == job.uid).collect()
}

/// Address of the pod that runs agent 0.
fn first_agent(pods: &[PodView]) -> Option<&str> {
    pods.iter()
        .find(|pod| pod.index == Some(0) && pod.phase == Phase::Running && pod.deadline.is_none())?
        .ip
        .as_deref()
}
