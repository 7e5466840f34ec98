//! Hearth's API: the three custom resources of `hearth.dev/v1alpha1`, the
//! names of what the operator makes from them, and the two contracts that
//! cross a process boundary ([`worker_config`] and [`routing`]).
//!
//! Absent on purpose: clients, clocks, async. Everything here is data and
//! pure functions over it.

pub mod api_key;
pub mod compression;
pub mod condition;
pub mod entrance;
pub mod features;
pub mod history;
pub mod hyperparam_sweep;
pub mod latency;
pub mod load;
pub mod model_deployment;
pub mod names;
pub mod objective;
pub mod peft;
pub mod pod;
pub mod preparation;
pub mod pruning;
pub mod routing;
pub mod rules;
mod schema;
pub mod source;
pub mod tabular;
pub mod training_arguments;
pub mod training_job;
pub mod user_count;
pub mod worker_config;

pub use hyperparam_sweep::{HyperparamSweep, HyperparamSweepSpec, HyperparamSweepStatus};
pub use model_deployment::{ModelDeployment, ModelDeploymentSpec, ModelDeploymentStatus};
pub use training_arguments::TrainingArguments;
pub use training_job::{TrainingJob, TrainingJobSpec, TrainingJobStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of every Hearth resource.
pub const GROUP: &str = "hearth.dev";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";

/// Every CustomResourceDefinition, in the order in which they are installed.
pub fn all_crds() -> [CustomResourceDefinition; 3] {
    [TrainingJob::crd(), HyperparamSweep::crd(), ModelDeployment::crd()]
}
