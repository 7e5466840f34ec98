//! Watches: one task a kind, each with its own backoff, so that one that fails
//! delays no other.
//!
//! Each task keeps a store and says which parents a change concerns. Errors
//! stay in the task. After several in a row, or a 410 on start (which kube
//! would repeat for ever with the same resource version), the watch begins
//! anew with a list.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, Store};
use kube::runtime::utils::StreamBackoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::metrics::Metrics;
use crate::planted::{self, Bug};
use crate::seen::Kind;

/// The server ends a watch after this time; load balancers forget idle connections later than
/// that. kube takes a watch for dead on which nothing came for 5 s longer, so that a connection
/// that died without a word is noticed within a minute.
const WATCH_SECONDS: u32 = 40;
/// An answer of which nothing came for so long does not come.
pub const SILENCE: Duration = Duration::from_secs(45);
/// Objects in one page of a list.
const PAGE: u32 = 100;
/// Errors in a row after which a watch begins anew.
const PATIENCE: u32 = 8;
/// Failing for this long is a reason to be restarted.
const STUCK: Duration = Duration::from_mins(10);

/// Which watches fail, and since when.
#[derive(Clone, Debug, Default)]
pub struct WatchHealth {
    failing: Arc<Mutex<BTreeMap<&'static str, Instant>>>,
}

impl WatchHealth {
    /// A kind whose watch has failed for ten minutes.
    pub fn stuck(&self) -> Option<&'static str> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.iter().find(|(_, since)| since.elapsed() >= STUCK).map(|(kind, _)| *kind)
    }

    fn well(&self, kind: &'static str) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(kind);
    }

    fn unwell(&self, kind: &'static str) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        failing.entry(kind).or_insert_with(Instant::now);
    }
}

/// What all watches share.
#[derive(Clone)]
pub struct Watching {
    /// Counters.
    pub metrics: Metrics,
    /// For the liveness probe.
    pub health: WatchHealth,
}

/// Is told each object that came, changed or went.
pub type Touched<K> = Box<dyn Fn(&K) + Send + Sync>;

impl Watching {
    /// Starts to watch `api`; `labels` selects. Of what comes, a `K` is kept.
    pub fn start<W, K>(
        &self,
        kind: Kind,
        (api, of): (Api<W>, K::DynamicType),
        labels: Option<&str>,
        touched: Touched<K>,
    ) -> Store<K>
    where
        W: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K: From<W> + Lookup + Clone + Send + Sync + 'static,
        K::DynamicType: Clone + Eq + Hash + Send + Sync,
    {
        let mut writer = Writer::new(of);
        let store = writer.as_reader();
        let mut config = watcher::Config::default().timeout(watch_seconds()).page_size(PAGE);
        if let Some(labels) = labels {
            config = config.labels(labels);
        }
        let shared = self.clone();
        tokio::spawn(async move {
            loop {
                shared.follow(kind.as_str(), (&api, &config), &mut writer, &touched).await;
            }
        });
        store
    }

    /// Follows one watch until it should begin anew.
    async fn follow<W, K>(
        &self,
        kind: &'static str,
        (api, config): (&Api<W>, &watcher::Config),
        writer: &mut Writer<K>,
        touched: &Touched<K>,
    ) where
        W: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        K: From<W> + Lookup + Clone + 'static,
        K::DynamicType: Clone + Eq + Hash,
    {
        let events = watcher::watcher(api.clone(), config.clone());
        let mut events = std::pin::pin!(StreamBackoff::new(events, DefaultBackoff::default()));
        let mut errors = 0;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    errors += 1;
                    self.metrics.watch_failed();
                    self.health.unwell(kind);
                    let said = said(&error);
                    tracing::warn!(kind, error = said, "watch failed; it is tried again");
                    if planted::is(Bug::KeepsAGoneVersion) {
                        continue;
                    }
                    if errors >= PATIENCE || is_gone(&error) {
                        return;
                    }
                    continue;
                }
            };
            errors = 0;
            self.health.well(kind);
            let event = match event {
                Event::Apply(object) => Event::Apply(K::from(unread(object))),
                Event::InitApply(object) => Event::InitApply(K::from(unread(object))),
                Event::Delete(object) => Event::Delete(K::from(object)),
                Event::Init => Event::Init,
                Event::InitDone => Event::InitDone,
            };
            writer.apply_watcher_event(&event);
            match &event {
                Event::Apply(object) | Event::Delete(object) => touched(object),
                // After a new list, everything may have changed.
                Event::InitDone => writer.as_reader().state().iter().for_each(|o| touched(o)),
                Event::Init | Event::InitApply(_) => {}
            }
        }
    }
}

/// Without what nobody reads, and is as large as all the rest.
fn unread<W: Resource>(mut object: W) -> W {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    object
}

fn watch_seconds() -> u32 {
    if planted::is(Bug::WaitsForEver) { 290 } else { WATCH_SECONDS }
}

/// What the API server said, or what broke.
fn said(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => format!("{}: {}", status.code, status.message),
        other => crate::agent_client::chain(other),
    }
}

/// Whether a watch was refused with 410 on its start.
fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}
