//! Command line and environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use k8s_openapi::jiff::SignedDuration;

use crate::admission::Admission;
use crate::pods::Images;
use crate::settings::Settings;

/// Hearth's operator.
#[derive(Debug, Parser)]
#[command(name = "hearth-operator", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `run` where left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the cluster and act.
    Run(RunArgs),
    /// Print the CustomResourceDefinitions as YAML.
    Crds(CrdsArgs),
}

/// Settings of `crds`.
#[derive(Debug, Args)]
pub struct CrdsArgs {
    /// Write manifests/crds and the chart's CRDs below this directory instead.
    #[arg(long, value_name = "DIRECTORY")]
    pub write: Option<PathBuf>,
}

/// Settings of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Image with hearth-worker.
    #[arg(long, env = "HEARTH_WORKER_IMAGE", default_value_t = image("worker"))]
    pub worker_image: String,
    /// Image with hearth-gateway.
    #[arg(long, env = "HEARTH_GATEWAY_IMAGE", default_value_t = image("operator"))]
    pub gateway_image: String,
    /// How pods pull both images.
    #[arg(long, env = "HEARTH_IMAGE_PULL_POLICY", value_enum, default_value_t = PullPolicy::IfNotPresent)]
    pub image_pull_policy: PullPolicy,
    /// The operator's own namespace: it keeps the lease, and workers answer to it.
    #[arg(long, env = "POD_NAMESPACE", default_value = "hearth-system")]
    pub namespace: String,
    /// The one namespace to act in; all of them where left out.
    #[arg(long, env = "HEARTH_WATCH_NAMESPACE", value_parser = non_empty)]
    pub watch_namespace: Option<String>,
    /// The namespace of Prometheus, which may then scrape the pods.
    #[arg(long, env = "HEARTH_METRICS_NAMESPACE", value_parser = non_empty)]
    pub metrics_namespace: Option<String>,
    /// Start jobs that ask for devices, or whose namespace has a ResourceQuota, as gangs: all
    /// pods of a job or none, by PriorityClass and age. Not for jobs in a queue of Kueue's.
    #[arg(long, env = "HEARTH_ADMISSION")]
    pub admission: bool,
    /// Seconds that a job may run before it makes room for one of a higher priority.
    #[arg(long, env = "HEARTH_ADMISSION_MIN_RUNTIME_SECONDS", default_value_t = 300)]
    pub admission_min_runtime_seconds: u32,
    /// Act only while holding a lease, so that replicas can stand by.
    #[arg(long, env = "HEARTH_LEADER_ELECT", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// Name of the lease.
    #[arg(long, env = "HEARTH_LEADER_ELECTION_ID", default_value = "hearth-operator")]
    pub leader_election_id: String,
    /// This replica's name in the lease; what tells one process of the pod from
    /// the next is added to it.
    #[arg(long, env = "POD_NAME", default_value = "hearth-operator")]
    pub identity: String,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "HEARTH_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Form of the log.
    #[arg(long, env = "HEARTH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

impl RunArgs {
    /// Which jobs may start.
    pub fn admission(&self) -> Admission {
        let seconds = SignedDuration::from_secs(self.admission_min_runtime_seconds.into());
        Admission::new(self.admission.then_some(seconds))
    }

    /// What plans need to know.
    pub fn settings(&self) -> Settings {
        Settings {
            images: Images {
                worker: self.worker_image.clone(),
                gateway: self.gateway_image.clone(),
                pull_policy: format!("{:?}", self.image_pull_policy),
            },
            namespace: self.namespace.clone(),
            metrics_namespace: self.metrics_namespace.clone(),
        }
    }
}

/// `imagePullPolicy` of a container.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "PascalCase")]
#[allow(missing_docs, reason = "Kubernetes' own names")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

fn image(name: &str) -> String {
    format!("hearth-{name}:{}", env!("CARGO_PKG_VERSION"))
}

fn non_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("is empty: leave it out for all namespaces".into())
    } else {
        Ok(text.into())
    }
}
