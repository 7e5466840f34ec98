//! `hearth watch NAME`: an object of a cluster, until it is done.

mod follow;
mod verdict;

use std::fmt::Debug;
use std::path::PathBuf;

use hearth_crds::{ModelDeployment, TrainingJob};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::NamespaceResourceScope;
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::args::{Kind, WatchArgs};
use crate::{display, exit, render};
use follow::Follower;

/// Why nothing can be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    #[error(
        "cannot tell which cluster to ask: {source}. Set KUBECONFIG to a kubeconfig file{}",
        tried(.file.as_deref())
    )]
    Kubeconfig { file: Option<PathBuf>, source: KubeconfigError },
    #[error("the kubeconfig cannot be used: {0}")]
    Client(#[source] kube::Error),
    #[error(
        "the cluster at {url} cannot be reached: {source}. Is it up, and is the kubeconfig's server right?"
    )]
    Unreachable { url: String, source: kube::Error },
    #[error(
        "there is no {kind} {name:?} in namespace {namespace:?}: `kubectl get {resource} -A` lists them all; -n chooses another namespace"
    )]
    NotFound { kind: &'static str, resource: &'static str, namespace: String, name: String },
    #[error(
        "this cluster does not know {kind}: install Hearth with `helm install hearth charts/hearth`"
    )]
    NotInstalled { kind: &'static str },
    #[error(
        "no access to {kind} {name:?} in namespace {namespace:?}: {message}. Ask for the verbs get, list and watch on {resource}.hearth.dev"
    )]
    Denied {
        kind: &'static str,
        resource: &'static str,
        namespace: String,
        name: String,
        message: String,
    },
    #[error("{kind} {name:?}: {source}")]
    Api { kind: &'static str, name: String, source: kube::Error },
    #[error("{kind} {name:?} was deleted")]
    Deleted { kind: &'static str, name: String },
}

fn tried(file: Option<&std::path::Path>) -> String {
    file.map(|file| format!(" (tried {})", file.display())).unwrap_or_default()
}

/// Follows the object; the process's exit code.
pub async fn run(args: &WatchArgs) -> i32 {
    match Box::pin(follow_until(args)).await {
        Ok(code) => code,
        Err(error) => {
            display::err(&format!("hearth watch: {error}"));
            exit::FAILED
        }
    }
}

async fn follow_until(args: &WatchArgs) -> Result<i32, WatchError> {
    let config = config(args.context.as_ref()).await?;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(WatchError::Client)?;
    let name = args.name.clone();
    let following = async {
        match args.kind {
            Kind::TrainingJob => {
                Follower::<TrainingJob>::new(client, namespace, name, url).until_done().await
            }
            Kind::ModelDeployment => {
                Follower::<ModelDeployment>::new(client, namespace, name, url).until_done().await
            }
        }
    };
    let Some(limit) = args.timeout else { return following.await };
    if let Ok(done) = timeout(limit, following).await {
        return done;
    }
    display::err(&format!(
        "hearth watch: {} is not done after {}; it goes on. See `kubectl describe {} {}`",
        args.name,
        render::time(limit.as_secs()),
        match args.kind {
            Kind::TrainingJob => "trainingjob",
            Kind::ModelDeployment => "modeldeployment",
        },
        args.name,
    ));
    Ok(exit::TIMED_OUT)
}

/// The job as it is now, and a client of its cluster.
pub(crate) async fn training_job(
    name: &str,
    namespace: Option<&str>,
    context: Option<&String>,
) -> Result<(Client, TrainingJob), WatchError> {
    read(name, namespace, context).await
}

/// The deployment as it is now, and a client of its cluster.
pub(crate) async fn model_deployment(
    name: &str,
    namespace: Option<&str>,
    context: Option<&String>,
) -> Result<(Client, ModelDeployment), WatchError> {
    read(name, namespace, context).await
}

async fn read<K>(
    name: &str,
    namespace: Option<&str>,
    context: Option<&String>,
) -> Result<(Client, K), WatchError>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + verdict::Followed
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let config = config(context).await?;
    let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
    let url = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(WatchError::Client)?;
    let follower = Follower::new(client.clone(), namespace, name.to_owned(), url);
    Ok((client, follower.read().await?))
}

/// KUBECONFIG or ~/.kube/config; inside a pod without either, the pod's own account.
async fn config(context: Option<&String>) -> Result<Config, WatchError> {
    let options = KubeConfigOptions { context: context.cloned(), ..KubeConfigOptions::default() };
    let read = match Kubeconfig::read() {
        Ok(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options).await,
        Err(error) => Err(error),
    };
    match (read, context.is_none()) {
        (Ok(config), _) => Ok(config),
        (Err(source), in_pod) => match Config::incluster() {
            Ok(config) if in_pod => Ok(config),
            _ => Err(WatchError::Kubeconfig {
                file: std::env::var_os("KUBECONFIG").map(PathBuf::from),
                source,
            }),
        },
    }
}
