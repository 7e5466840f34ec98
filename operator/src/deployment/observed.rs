//! What is known of a deployment before anything is decided.

use std::collections::{BTreeMap, BTreeSet};

use hearth_crds::TrainingJob;
use hearth_crds::model_deployment::CompressionReport;
use hearth_crds::routing::{DriftReport, Load, Measured, RoutingTable};
use hearth_crds::source::Source;
use k8s_openapi::jiff::Timestamp;

use super::marks::{
    ANNOTATION_ARTIFACT, ANNOTATION_COMPRESSION, ANNOTATION_DIGEST, ANNOTATION_MODEL,
};
use super::rollout::Record;
use crate::children::LiveChildren;
use crate::observed::{JobView, PodView};
use crate::seen::{RouteParent, Seen};

/// What was observed of a deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// All its children.
    pub children: LiveChildren,
    /// The model that is compressed or served: the one that it names, or what `training` makes of it.
    pub model: Model,
    /// The job that makes of it what is compressed.
    pub training: Option<Box<TrainingJob>>,
    /// Claims that it needs and that are not there.
    pub missing_claims: Vec<String>,
    /// The Job that compresses for the target.
    pub quantize: Option<JobView>,
    /// That Job's pods.
    pub quantize_pods: Vec<PodView>,
    /// Servers by revision.
    pub servers: BTreeMap<String, Workload>,
    /// Pods of the target's servers.
    pub server_pods: Vec<PodView>,
    /// The gateways.
    pub gateway: Option<Workload>,
    /// The routing table as it is.
    pub routing: Option<RoutingTable>,
    /// When a revision last lost its traffic.
    pub routed_at: Option<Timestamp>,
    /// How far a rollout is.
    pub record: Record,
    /// The revisions that each running gateway sends traffic to; asked only
    /// while an old revision waits to go. `None` where a gateway did not say.
    pub gateways_at: Option<Vec<Option<BTreeSet<String>>>>,
    /// What each running gateway has counted; asked only during a rollout, and where servers are
    /// scaled.
    pub measured: Vec<Option<Measured>>,
    /// What running servers say of the tokens in flight, by revision; asked only where servers are
    /// scaled by them.
    pub server_loads: BTreeMap<String, Vec<ServerLoad>>,
    /// What running servers of the revision that serves say of drift; asked only where that is asked for.
    pub drift: Vec<ServerDrift>,
    /// Nodes of pods that should have ended, where the node does not answer.
    pub silent_nodes: BTreeSet<String>,
    /// Its HTTPRoute.
    pub route: Route,
}

/// What a server says of the tokens in flight.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerLoad {
    /// Nothing.
    Silent,
    /// Its model counts none.
    NoTokens,
    /// So many.
    Tokens(Load),
}

/// What a server says of how far its requests are from training rows.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerDrift {
    /// Nothing.
    Silent,
    /// It does not watch them, and says why where it is not older.
    NotWatched(Option<String>),
    /// So far.
    Told(DriftReport),
}

/// An HTTPRoute of the Gateway API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Neither asked for nor there.
    #[default]
    NotAsked,
    /// This cluster does not know HTTPRoutes.
    NotServed,
    /// What Gateways say of it; nothing where there is none yet.
    Served(Vec<RouteParent>),
}

impl Observed {
    /// The revision that serves, beside which another may be tried.
    pub fn routed(&self) -> Option<&str> {
        self.routing.as_ref()?.variants.first().map(|variant| variant.revision.as_str())
    }

    /// The revisions that requests get to.
    pub fn reached(&self) -> BTreeSet<String> {
        self.routing.as_ref().map(RoutingTable::reached).unwrap_or_default()
    }
}

/// The model that a deployment names.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Model {
    /// Not there: reason and sentence.
    Missing {
        /// CamelCase.
        reason: &'static str,
        /// What to do.
        message: String,
        /// Waiting alone will not help.
        hopeless: bool,
    },
    /// Here.
    Here {
        /// The directory.
        uri: Source,
        /// Digest, where known.
        digest: Option<String>,
    },
    /// Not looked for.
    #[default]
    Unknown,
}

/// A live `apps/v1` Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// Pods wanted.
    pub wanted: i32,
    /// Pods of the newest template that have been ready for a while.
    pub available: i32,
    /// The newest template is everywhere, and enough pods are available.
    pub complete: bool,
    /// Why it makes no progress.
    pub stuck: Option<String>,
    /// The directory that is served.
    pub model: Option<String>,
    /// Digest of the source model.
    pub digest: Option<String>,
    /// The compression that the model came from.
    pub artifact: Option<String>,
    /// What that compression did.
    pub compression: Option<CompressionReport>,
}

impl Workload {
    /// As the watch saw it.
    pub fn of(deployment: &Seen) -> Self {
        let status = &deployment.status;
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let observed = status.observed_generation >= deployment.metadata.generation;
        let available = status.available_replicas.unwrap_or(0);
        let updated = status.updated_replicas.unwrap_or(0);
        let stuck = status
            .condition("Progressing")
            .filter(|condition| condition.status == "False")
            .map(|condition| condition.message.clone());
        let note = |key: &str| deployment.metadata.annotations.get(key).map(str::to_owned);
        Self {
            wanted,
            available,
            complete: observed && updated >= wanted && available >= wanted,
            stuck,
            model: note(ANNOTATION_MODEL),
            digest: note(ANNOTATION_DIGEST),
            artifact: note(ANNOTATION_ARTIFACT),
            compression: note(ANNOTATION_COMPRESSION)
                .and_then(|text| serde_json::from_str(&text).ok()),
        }
    }
}
