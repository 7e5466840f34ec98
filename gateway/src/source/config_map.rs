//! A routing table in a ConfigMap, followed through the API.
//!
//! Needs `get` and `watch` on that one object and nothing else (Invariant 14),
//! so this is no `kube_runtime::watcher`, which lists. Each round reads the
//! object and then watches from there; any trouble ends the round, and the next
//! begins after a wait that doubles. A watch is renewed every few minutes, since
//! a connection may die without a word.

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use hearth_crds::routing::ROUTING_KEY;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use tokio::time::{Instant, sleep, timeout};

use super::{take_over, troubled};
use crate::metrics::TableTrouble;
use crate::state::State;

/// Longest wait for the answer to a read.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// The server ends a watch after this time.
const WATCH_SECONDS: u32 = 200;
/// And if it does not, we do.
const WATCH_LIMIT: Duration = Duration::from_secs(210);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error("cannot read ConfigMap {name}: {source}")]
    Read { name: String, source: kube::Error },
    #[error("cannot watch ConfigMap {name}: {source}")]
    Watch { name: String, source: kube::Error },
    #[error("the API server ended the watch of ConfigMap {name}: {message}")]
    Ended { name: String, message: String },
    #[error("the API server did not answer within {} s", READ_LIMIT.as_secs())]
    Silent,
    #[error(
        "there is no ConfigMap {name} in namespace {namespace}; hearth-operator makes it for a ModelDeployment"
    )]
    Missing { namespace: String, name: String },
    #[error("ConfigMap {name} has no key {ROUTING_KEY}")]
    NoKey { name: String },
}

impl RoundError {
    fn trouble(&self) -> TableTrouble {
        match self {
            Self::Missing { .. } | Self::NoKey { .. } => TableTrouble::Missing,
            _ => TableTrouble::Unreachable,
        }
    }
}

/// Follows the ConfigMap for ever.
pub fn follow(
    client: Client,
    namespace: String,
    name: String,
    state: Arc<State>,
) -> BoxFuture<'static, ()> {
    Box::pin(follow_for_ever(client, namespace, name, state))
}

async fn follow_for_ever(client: Client, namespace: String, name: String, state: Arc<State>) {
    let (namespace, name) = (namespace.as_str(), name.as_str());
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let mut wait = FIRST_WAIT;
    loop {
        let since = Instant::now();
        match round(&api, namespace, name, &state).await {
            Ok(()) => wait = FIRST_WAIT,
            Err(error) => {
                troubled(&state, error.trouble(), &error.to_string());
                if since.elapsed() > LONGEST_WAIT {
                    wait = FIRST_WAIT;
                }
                // Gateways that lost the same API server do not return together.
                sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// Reads the object, then takes over its changes until the watch ends.
async fn round(
    api: &Api<ConfigMap>,
    namespace: &str,
    name: &str,
    state: &State,
) -> Result<(), RoundError> {
    let read = timeout(READ_LIMIT, api.get_opt(name)).await.map_err(|_| RoundError::Silent)?;
    let object = read.map_err(|source| RoundError::Read { name: name.into(), source })?;
    let missing = || RoundError::Missing { namespace: namespace.into(), name: name.into() };
    let object = object.ok_or_else(missing)?;
    take_key(&object, name, state)?;

    let fields = WatchParams::default().fields(&format!("metadata.name={name}"));
    let fields = fields.timeout(WATCH_SECONDS);
    let version = object.resource_version().unwrap_or_default();
    let failed = |source| RoundError::Watch { name: name.into(), source };
    let started = timeout(READ_LIMIT, api.watch(&fields, &version)).await;
    let events = started.map_err(|_| RoundError::Silent)?.map_err(failed)?;
    tokio::pin!(events);
    let end = Instant::now() + WATCH_LIMIT;
    while let Ok(event) = tokio::time::timeout_at(end, events.try_next()).await {
        match event.map_err(failed)? {
            None => break,
            Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                take_key(&object, name, state)?;
            }
            Some(WatchEvent::Deleted(_)) => return Err(missing()),
            Some(WatchEvent::Bookmark(_)) => {}
            Some(WatchEvent::Error(status)) => {
                return Err(RoundError::Ended { name: name.into(), message: status.message });
            }
        }
    }
    Ok(())
}

fn take_key(object: &ConfigMap, name: &str, state: &State) -> Result<(), RoundError> {
    let text = object.data.as_ref().and_then(|data| data.get(ROUTING_KEY));
    take_over(state, text.ok_or_else(|| RoundError::NoKey { name: name.into() })?);
    Ok(())
}
