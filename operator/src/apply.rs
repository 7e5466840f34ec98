//! The only writer. Server-side apply, one field manager, and no request whose
//! result is known beforehand.
//!
//! Some writes send one thing about an object: `spec.suspend` of a Job, the number of
//! its pods, and `spec.stop` of a trial, under managers of their own since an apply of
//! the whole leaves them out, and the failure of a pod whose node is gone.

#![expect(clippy::disallowed_methods, reason = "this is the one place that writes")]

use hearth_crds::names::MANAGER;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::runtime::events::{Event, EventType, Recorder};
use serde::Serialize;
use serde_json::{Value, json};

use crate::children::{
    ANNOTATION_HASH, ChildId, Kind, Live, LiveChildren, LostPod, NameTaken, Plan, Write, difference,
};
use crate::context::{Context, WrittenStatus};
use crate::error::{ApplyError, CallError, ReconcileError};
use crate::observed;
use crate::seen::{Seen, Told};

/// Field manager of `spec.suspend`.
const ADMISSION: &str = "hearth-admission";
/// Field manager of a Job's or a Deployment's number of pods.
const SCALE: &str = "hearth-scale";
/// Field manager of a trial's `spec.stop`.
const EARLY_STOPPING: &str = "hearth-early-stopping";

/// What a user should read in `kubectl describe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Something went wrong.
    pub warning: bool,
    /// CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub note: String,
}

/// Makes `plan` true for the children of `owner`. Gives the number of requests.
pub async fn run(
    cx: &Context,
    namespace: &str,
    owner: &str,
    plan: &Plan,
    live: &LiveChildren,
) -> Result<usize, ApplyError> {
    let writes = difference(plan, live, owner)?;
    let count = writes.len();
    for write in writes {
        perform(cx, namespace, write).await?;
    }
    Ok(count)
}

async fn perform(cx: &Context, namespace: &str, write: Write) -> Result<(), ApplyError> {
    match write {
        // Not forced: a stranger's object of this name must not be taken over.
        Write::Create(id, body) => {
            let params = PatchParams::apply(MANAGER);
            patch(cx, namespace, &id, (&params, &body, "create")).await
        }
        Write::Update(id, body) => {
            let params = PatchParams::apply(MANAGER).force();
            patch(cx, namespace, &id, (&params, &body, "apply")).await
        }
        Write::Suspend(id, suspend) => {
            let body = json!({
                "apiVersion": id.kind.api_version(),
                "kind": id.kind.as_str(),
                "metadata": {"name": id.name},
                "spec": {"suspend": suspend},
            });
            let params = PatchParams::apply(ADMISSION).force();
            patch(cx, namespace, &id, (&params, &body, "suspend")).await
        }
        Write::Scale(id, pods) => {
            let mut body = json!({
                "apiVersion": id.kind.api_version(),
                "kind": id.kind.as_str(),
                "metadata": {"name": id.name},
            });
            if id.kind == Kind::Deployment {
                body["spec"] = json!({"replicas": pods});
                // The next plan that has the Deployment in it writes it whole.
                body["metadata"]["annotations"] = json!({ANNOTATION_HASH: ""});
            } else {
                body["spec"] = json!({"parallelism": pods, "completions": pods});
            }
            let params = PatchParams::apply(SCALE).force();
            patch(cx, namespace, &id, (&params, &body, "scale")).await
        }
        Write::Stop(id, uid, stop) => {
            let body = json!({
                "apiVersion": id.kind.api_version(),
                "kind": id.kind.as_str(),
                "metadata": {"name": id.name, "uid": uid},
                "spec": {"stop": stop},
            });
            let params = PatchParams::apply(EARLY_STOPPING).force();
            patch(cx, namespace, &id, (&params, &body, "stop")).await
        }
        Write::Delete(id, uid) => delete(cx, namespace, &id, uid).await,
        Write::FailPod(pod) => fail_pod(cx, namespace, &pod).await,
    }
}

async fn patch(
    cx: &Context,
    namespace: &str,
    id: &ChildId,
    (params, body, verb): (&PatchParams, &Value, &'static str),
) -> Result<(), ApplyError> {
    cx.metrics.wrote(id.kind.as_str(), verb);
    let api = api(cx, namespace, id.kind);
    let answer = cx.in_time(api.patch(&id.name, params, &Patch::Apply(body))).await;
    let written = answer.map_err(|source| {
        match &source {
            // Others hold fields of an object that we have never written.
            CallError::Api(kube::Error::Api(status)) if status.code == 409 && verb == "create" => {
                NameTaken(id.clone()).into()
            }
            _ => write_error(id, source),
        }
    })?;
    cx.remember_write(namespace, id, observed::live(&Seen::from(written)));
    tracing::info!(kind = id.kind.as_str(), namespace, name = id.name, verb, "written");
    Ok(())
}

/// Deletes the object with this UID.
pub(crate) async fn delete(
    cx: &Context,
    namespace: &str,
    id: &ChildId,
    uid: String,
) -> Result<(), ApplyError> {
    cx.metrics.wrote(id.kind.as_str(), "delete");
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    let api = api(cx, namespace, id.kind);
    match cx.in_time(api.delete(&id.name, &params)).await {
        Ok(_) => {}
        // Gone, or another object by now: either way there is nothing to do.
        Err(CallError::Api(kube::Error::Api(status))) if [404, 409].contains(&status.code) => {}
        Err(source) => return Err(write_error(id, source)),
    }
    let gone = Live { uid, deleting: true, ..Live::default() };
    cx.remember_write(namespace, id, gone);
    tracing::info!(kind = id.kind.as_str(), namespace, name = id.name, "deleted");
    Ok(())
}

/// Marks a pod as failed by the loss of its node, so that its Job goes on.
async fn fail_pod(cx: &Context, namespace: &str, pod: &LostPod) -> Result<(), ApplyError> {
    cx.metrics.wrote("Pod", "fail");
    let now = cx.clock.now().to_string();
    let message = format!("node {} does not answer, and the pod's time to end is over", pod.node);
    let body = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name, "uid": pod.uid},
        "status": {
            "phase": "Failed",
            "reason": "NodeLost",
            "message": message,
            "conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "NodeLost",
                "message": message,
                "lastTransitionTime": now,
            }],
        },
    });
    let api = api(cx, namespace, Kind::Pod);
    let params = PatchParams::apply(MANAGER).force();
    match cx.in_time(api.patch_status(&pod.name, &params, &Patch::Apply(&body))).await {
        Ok(_) => {}
        Err(CallError::Api(kube::Error::Api(status))) if [404, 409].contains(&status.code) => {}
        Err(source) => return Err(ApplyError::FailPod { name: pod.name.clone(), source }),
    }
    tracing::warn!(namespace, pod = pod.name, node = pod.node, "pod given up: its node is lost");
    Ok(())
}

/// Writes an object's whole status. The caller has found that it differs.
pub async fn status(
    cx: &Context,
    kind: Kind,
    of: &ObjectReference,
    status: &impl Serialize,
) -> Result<(), ReconcileError> {
    let status = serde_json::to_value(status).unwrap_or_default();
    let (namespace, name) = (of.namespace.as_deref().unwrap_or_default(), of.name.as_deref());
    let (name, uid) = (name.unwrap_or_default(), of.uid.as_deref().unwrap_or_default());
    let body = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.as_str(),
        "metadata": {"name": name, "uid": uid},
        "status": status,
    });
    cx.metrics.wrote(kind.as_str(), "status");
    let api = api(cx, namespace, kind);
    let params = PatchParams::apply(MANAGER).force();
    let answer = cx.in_time(api.patch_status(name, &params, &Patch::Apply(&body))).await;
    let written =
        answer.map_err(|source| ReconcileError::Status { name: name.to_owned(), source })?;
    cx.remember_status(
        uid,
        WrittenStatus { version: observed::version(&written.metadata), status, at: cx.clock.now() },
    );
    Ok(())
}

/// Publishes events. One that is lost is logged: conditions say the same.
///
/// Each is an object of its own: one Recorder counts all events of an object with the same
/// reason as one series, and shows the first one's note only.
pub async fn notify(cx: &Context, about: &ObjectReference, action: &str, notices: &[Notice]) {
    for notice in notices {
        let recorder = Recorder::new(cx.client.clone(), cx.reporter.clone());
        cx.metrics.wrote("Event", "create");
        let event = Event {
            type_: if notice.warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.to_owned(),
            note: Some(notice.note.chars().take(1000).collect()),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = cx.in_time(recorder.publish(&event, about)).await {
            tracing::warn!(reason = notice.reason, error = error.said(), "event not published");
        }
    }
}

fn api(cx: &Context, namespace: &str, kind: Kind) -> Api<Told> {
    Api::namespaced_with(cx.client.clone(), namespace, &kind)
}

fn write_error(id: &ChildId, source: CallError) -> ApplyError {
    ApplyError::Write { kind: id.kind, name: id.name.clone(), source }
}
