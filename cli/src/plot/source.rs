//! Where a run's points come from: `metrics.jsonl` of a directory, or agent 0
//! of a job that runs, through the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_crds::history::{History, HistoryPoint};
use hearth_crds::worker_config::AGENT_PORT;
use hearth_crds::{TrainingJob, names};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use crate::args::PlotArgs;
use crate::watch::{self, WatchError};

/// The file of an output directory.
const FILE: &str = "metrics.jsonl";
/// Longest wait for agent 0.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A run's points, oldest first.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) title: String,
    pub(super) points: Vec<HistoryPoint>,
}

/// Why there are no points.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error(
        "there is no {}: name the output directory of a job, or a TrainingJob of the cluster", .0.display()
    )]
    NoFile(PathBuf),
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{0}. (Curves on this machine: name a directory that holds metrics.jsonl.)")]
    Cluster(#[from] WatchError),
    #[error(
        "{name} has ended ({state}), and the agent that told its curves with it. They are in metrics.jsonl of {destination}, which this command cannot read: copy that file here and run `hearth plot FILE`"
    )]
    Ended { name: String, state: String, destination: String },
    #[error(
        "{name} trains on no worker now ({state}): `hearth watch {name}` follows it until it does"
    )]
    NotRunning { name: String, state: String },
    #[error(
        "pod {pod} of {name} tells nothing through the API server: {reason}. It takes the verb get on pods/proxy, and a network policy that lets the API server in; `kubectl port-forward pod/{pod} {AGENT_PORT}` and `curl localhost:{AGENT_PORT}/history` go another way"
    )]
    Silent { name: String, pod: String, reason: String },
}

/// Reads the points of a directory, of a file or of a job.
pub(super) async fn read(args: &PlotArgs) -> Result<Run, SourceError> {
    match local(&args.run) {
        Some(path) => of_file(path),
        None => of_job(args).await,
    }
}

/// The file that is meant, unless a job is: names of jobs hold no slash.
fn local(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let inside = path.join(FILE);
    if inside.is_file() || (path.is_dir() && name.contains('/')) {
        Some(inside)
    } else if path.is_file() || name.contains('/') {
        Some(path.to_owned())
    } else {
        None
    }
}

fn of_file(path: PathBuf) -> Result<Run, SourceError> {
    match std::fs::read(&path) {
        Ok(bytes) => {
            let points = points(&String::from_utf8_lossy(&bytes));
            Ok(Run { title: path.display().to_string(), points })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(SourceError::NoFile(path))
        }
        Err(source) => Err(SourceError::Read { path, source }),
    }
}

/// Points of the file's lines. Where steps go back a later attempt began, and
/// what it makes again replaces what was there.
fn points(text: &str) -> Vec<HistoryPoint> {
    text.lines().filter_map(HistoryPoint::of_line).fold(Vec::new(), |mut points, point| {
        let is_again = |old: &HistoryPoint| {
            let same_step_again = !point.is_evaluation() || old.is_evaluation();
            old.step > point.step || (old.step == point.step && same_step_again)
        };
        while points.last().is_some_and(is_again) {
            points.pop();
        }
        points.push(point);
        points
    })
}

async fn of_job(args: &PlotArgs) -> Result<Run, SourceError> {
    let (client, job) =
        watch::training_job(&args.run, args.namespace.as_deref(), args.context.as_ref()).await?;
    of_running(&client, &job).await
}

async fn of_running(client: &Client, job: &TrainingJob) -> Result<Run, SourceError> {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let state = job.status.as_ref().and_then(|status| status.state.clone());
    let state = state.unwrap_or_else(|| "Pending".to_owned());
    if matches!(state.as_str(), "Succeeded" | "Failed" | "Stopped" | "Invalid") {
        let destination = job.spec.output.destination.clone();
        return Err(SourceError::Ended { name, state, destination });
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let workers = format!(
        "{}=trainingjob,{}={},{}=worker",
        names::LABEL_KIND,
        names::LABEL_NAME,
        names::child(&name, ""),
        names::LABEL_COMPONENT,
    );
    let silent = |pod: &str, reason: String| SourceError::Silent {
        name: name.clone(),
        pod: pod.to_owned(),
        reason,
    };
    let list = pods.list(&ListParams::default().labels(&workers)).await;
    let list = list.map_err(|error| silent("0", error.to_string()))?;
    let Some(pod) = list.items.iter().find(|pod| is_agent_0(pod)).map(Pod::name_any) else {
        return Err(SourceError::NotRunning { name, state });
    };
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{AGENT_PORT}/proxy/history");
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(|error| silent(&pod, error.to_string()))?;
    let answer = tokio::time::timeout(TIMEOUT, client.request::<History>(request)).await;
    let answer = answer
        .map_err(|_| silent(&pod, format!("no answer in {} s", TIMEOUT.as_secs())))?
        .map_err(|error| silent(&pod, error.to_string()))?;
    Ok(Run { title: format!("{namespace}/{name}"), points: answer.points })
}

/// The pod that has the coordinator, while it runs.
fn is_agent_0(pod: &Pod) -> bool {
    let index = pod.annotations().get("batch.kubernetes.io/job-completion-index");
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    index.is_some_and(|index| index == "0") && phase == Some("Running")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_later_attempt_replaces_what_it_makes_again() {
        let text = "{\"step\":10,\"loss\":1}\n{\"step\":10,\"eval\":{\"loss\":1}}\n\
                    {\"step\":20,\"loss\":2}\n{\"step\":30,\"loss\":3}\n\
                    {\"step\":20,\"loss\":4}\n{\"step\":20,\"eval\":{\"loss\":4}}\n{\"ste";
        let points = points(text);
        let steps: Vec<_> = points.iter().map(|point| (point.step, point.loss)).collect();
        assert_eq!(steps, [(10, Some(1.0)), (10, None), (20, Some(4.0)), (20, None)]);
    }

    #[test]
    fn directories_and_files_are_told_from_jobs() {
        let home = tempfile::tempdir().unwrap();
        let output = home.path().to_str().unwrap();
        let file = home.path().join(FILE);
        assert_eq!(local("spam"), None);
        assert_eq!(local(output), Some(file.clone()));
        let error = of_file(file.clone()).unwrap_err().to_string();
        assert!(error.contains("name the output directory of a job"), "{error}");
        std::fs::File::create(&file).unwrap();
        assert_eq!(local(file.to_str().unwrap()), Some(file.clone()));
        assert_eq!(of_file(file).unwrap().points, []);
    }

    /// A client of an API server that answers each path with a document.
    fn client(answers: impl Fn(&str) -> Value + Clone + Send + 'static) -> Client {
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let answer = answers(request.uri().path()).to_string();
            async move {
                let body = http_body_util::Full::new(bytes::Bytes::from(answer));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            }
        });
        Client::new(service, "default")
    }

    fn job(state: &str) -> TrainingJob {
        let document = json!({
            "apiVersion": "hearth.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": "spam", "namespace": "team"},
            "spec": {
                "task": "SequenceClassification", "model": {"source": "pvc://models/minilm"},
                "data": {"train": {"source": "pvc://data/spam.jsonl", "text": "text", "label": "label"}},
                "output": {"destination": "pvc://models/spam"}
            },
            "status": {"state": state}
        });
        serde_json::from_value(document).unwrap()
    }

    fn pods(index: &str, phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [{
            "metadata": {"name": "spam-0-x",
                "annotations": {"batch.kubernetes.io/job-completion-index": index}},
            "status": {"phase": phase}
        }]})
    }

    #[tokio::test]
    async fn a_running_job_is_asked_through_the_api_server() {
        let client = client(|path| match path {
            "/api/v1/namespaces/team/pods" => pods("0", "Running"),
            "/api/v1/namespaces/team/pods/spam-0-x:8470/proxy/history" => {
                json!({"points": [{"step": 3, "epoch": 0.5, "loss": 0.25}]})
            }
            other => panic!("asked for {other}"),
        });
        let run = of_running(&client, &job("Running")).await.unwrap();
        assert_eq!((run.title.as_str(), run.points[0].loss), ("team/spam", Some(0.25)));
    }

    #[tokio::test]
    async fn a_job_without_curves_is_told_what_to_do() {
        for (state, index, phase, want) in [
            ("Succeeded", "0", "Succeeded", "metrics.jsonl of pvc://models/spam"),
            ("Running", "1", "Running", "`hearth watch spam`"),
            ("Pending", "0", "Pending", "`hearth watch spam`"),
        ] {
            let client = client(move |_| pods(index, phase));
            let error = of_running(&client, &job(state)).await.unwrap_err().to_string();
            assert!(error.contains(want), "{state}: {error}");
        }
    }
}
