//! What every reconcile shares, and the operator's short memory.
//!
//! The memory holds what this process did or heard a moment ago and the
//! watches may not show yet. Losing it costs a few needless requests, never
//! a wrong decision: all that counts is in the cluster.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::object::HasStatus;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admission::Admission;
use crate::agent_client::{AgentAnswer, AskError, PodClient};
use crate::cache::Caches;
use crate::children::{ChildId, Live};
use crate::error::{CallError, GatherError};
use crate::metrics::Metrics;
use crate::observed::version;
use crate::planted::{self, Bug};
use crate::seen::{Condition, Kind, Seen, Told};
use crate::settings::Settings;

/// Longest wait for one API request: kube sets no limit on reads.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer of an agent is good for this long.
const ANSWER_AGE: SignedDuration = SignedDuration::from_millis(1_500);
/// How long a write is believed against the watches.
const WRITE_AGE: SignedDuration = SignedDuration::from_secs(30);
/// Entries of objects that were deleted meanwhile are dropped after this time.
const MEMORY_AGE: SignedDuration = SignedDuration::from_hours(1);

/// Tells the time. Tests bring their own.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the Clock that all else takes")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// What every reconcile shares.
pub struct Context {
    /// The API.
    pub client: Client,
    /// What the watches have seen.
    pub caches: Caches,
    /// What plans need to know of the operator.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Metrics,
    /// Who events come from.
    pub reporter: kube::runtime::events::Reporter,
    /// Asks pods.
    pub pods: PodClient,
    /// Which jobs may start.
    pub admission: Admission,
    /// Memory.
    pub memory: Mutex<Memory>,
}

/// What this process did or heard a moment ago.
#[derive(Default)]
pub struct Memory {
    writes: HashMap<(String, ChildId), (Live, Timestamp)>,
    answers: HashMap<String, (AgentAnswer, Timestamp)>,
    statuses: HashMap<String, WrittenStatus>,
    failures: HashMap<String, (u32, Timestamp)>,
}

/// A status that this process wrote.
#[derive(Clone, Debug)]
pub struct WrittenStatus {
    /// Resource version that came of it.
    pub version: u64,
    /// What was written.
    pub status: Value,
    /// When.
    pub at: Timestamp,
}

impl Context {
    /// Waits for one API request, but not for ever.
    pub async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        // A request's future is large, and would be a part of every reconcile's.
        in_time(Box::pin(call)).await
    }

    /// The child as it is: as the watches show it, or as it was written since.
    pub fn child(&self, namespace: &str, id: &ChildId) -> Option<Live> {
        let seen = self.caches.child(namespace, id);
        let key = (namespace.to_owned(), id.clone());
        let now = self.clock.now();
        let mut memory = self.memory();
        let Some((written, at)) = memory.writes.get(&key) else {
            return seen;
        };
        let believed = now.duration_since(*at) <= WRITE_AGE;
        match seen {
            // Deleted by us, and the watch has not said so yet.
            Some(seen) if believed && written.deleting && seen.uid == written.uid => {
                Some(Live { deleting: true, ..seen })
            }
            Some(seen) if believed && !written.deleting && seen.version < written.version => {
                Some(written.clone())
            }
            None if believed && !written.deleting => Some(written.clone()),
            caught_up => {
                memory.writes.remove(&key);
                caught_up
            }
        }
    }

    /// Remembers a child that was just written.
    pub fn remember_write(&self, namespace: &str, id: &ChildId, live: Live) {
        let now = self.clock.now();
        self.memory().writes.insert((namespace.to_owned(), id.clone()), (live, now));
    }

    /// Whether this process wrote children of `owner` that the watch does not show as they are.
    pub fn has_unseen_writes(&self, namespace: &str, kind: Kind, owner: &str) -> bool {
        let ours = |(place, id): &(String, ChildId), live: &Live| {
            place == namespace && id.kind == kind && live.owner == owner
        };
        let ids: Vec<ChildId> = {
            let memory = self.memory();
            let writes = memory.writes.iter().filter(|(key, (live, _))| ours(key, live));
            writes.map(|((_, id), _)| id.clone()).collect()
        };
        let version = |live: Option<Live>| live.map(|live| live.version);
        let unseen = |id: &ChildId| {
            version(self.child(namespace, id)) != version(self.caches.child(namespace, id))
        };
        // All are looked at: what the watch has shown is forgotten.
        ids.iter().filter(|id| unseen(id)).count() > 0
    }

    /// Those of `nodes` that are not ready or not there. Nodes are read one by
    /// one and only when a pod hangs on one: watching them all would cost more
    /// than it tells.
    pub async fn silent_nodes(
        &self,
        nodes: BTreeSet<String>,
    ) -> Result<BTreeSet<String>, GatherError> {
        let api: Api<Told> = Api::all_with(self.client.clone(), &Kind::Node);
        let mut silent = BTreeSet::new();
        for name in nodes {
            let node = self
                .in_time(api.get_opt(&name))
                .await
                .map_err(|source| GatherError { what: format!("node {name}"), source })?;
            let ready = node
                .map(Seen::from)
                .and_then(|node| node.status.condition("Ready").map(Condition::holds))
                .unwrap_or(false);
            if !ready {
                silent.insert(name);
            }
        }
        Ok(silent)
    }

    /// Asks agent 0 of a job at this address, unless it answered just now.
    pub async fn ask_agent(&self, uid: &str, ip: &str) -> AgentAnswer {
        if let Some((answer, at)) = self.memory().answers.get(uid)
            && self.clock.now().duration_since(*at) < ANSWER_AGE
        {
            return answer.clone();
        }
        let answer = match self.pods.agent_status(ip).await {
            Ok(status) => AgentAnswer::Status(Box::new(status)),
            Err(error) => AgentAnswer::Silent(error.to_string()),
        };
        self.memory().answers.insert(uid.to_owned(), (answer.clone(), self.clock.now()));
        answer
    }

    /// Tells agent 0 of a job at this address how many agents there should be.
    pub async fn resize_gang(&self, uid: &str, ip: &str, replicas: u32) -> Result<(), AskError> {
        self.pods.resize_gang(ip, replicas).await?;
        // What it said before is old.
        self.memory().answers.remove(uid);
        Ok(())
    }

    /// The final result that an agent told before it ended, if it did.
    pub fn last_answer(&self, uid: &str) -> AgentAnswer {
        match self.memory().answers.get(uid) {
            Some((AgentAnswer::Status(status), _)) if status.result.is_some() => {
                AgentAnswer::Status(status.clone())
            }
            _ => AgentAnswer::NotAsked,
        }
    }

    /// The status that was written to an object since version `seen` of it.
    pub fn newer_status(&self, uid: &str, seen: u64) -> Option<WrittenStatus> {
        let mut memory = self.memory();
        let written = memory.statuses.get_mut(uid)?;
        if written.version > seen {
            return Some(written.clone());
        }
        // The watch has caught up: only the time is asked for from now on.
        written.status = Value::Null;
        None
    }

    /// An object's status: as the watch shows it, or as it was written since.
    pub fn status_of<K>(&self, object: &K) -> K::Status
    where
        K: Resource + HasStatus<Status: Clone + Default + DeserializeOwned>,
    {
        let uid = object.meta().uid.as_deref().unwrap_or_default();
        match self.newer_status(uid, version(object.meta())) {
            Some(written) => serde_json::from_value(written.status).unwrap_or_default(),
            None => object.status().cloned().unwrap_or_default(),
        }
    }

    /// When this process last wrote an object's status.
    pub fn status_written_at(&self, uid: &str) -> Option<Timestamp> {
        self.memory().statuses.get(uid).map(|written| written.at)
    }

    /// Remembers a status that was just written.
    pub fn remember_status(&self, uid: &str, written: WrittenStatus) {
        self.memory().statuses.insert(uid.to_owned(), written);
    }

    /// Counts a failure in a row of one object.
    pub fn count_failure(&self, uid: &str) -> u32 {
        let now = self.clock.now();
        let mut memory = self.memory();
        let entry = memory.failures.entry(uid.to_owned()).or_insert((0, now));
        *entry = (entry.0.saturating_add(1), now);
        entry.0
    }

    /// Ends an object's row of failures.
    pub fn clear_failures(&self, uid: &str) {
        self.memory().failures.remove(uid);
    }

    /// Drops what is long past.
    pub fn tidy(&self) {
        let now = self.clock.now();
        let fresh = |at: &Timestamp| now.duration_since(*at) < MEMORY_AGE;
        let mut memory = self.memory();
        memory.writes.retain(|_, (_, at)| fresh(at));
        memory.answers.retain(|_, (_, at)| fresh(at));
        memory.statuses.retain(|_, written| fresh(&written.at));
        memory.failures.retain(|_, (_, at)| fresh(at));
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // The maps are valid after any panic: each entry is written at once.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for one API request, at most [`CALL_TIMEOUT`].
pub async fn in_time<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    if planted::is(Bug::WaitsForEver) {
        return call.await.map_err(CallError::Api);
    }
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(CallError::Api),
        Err(_) => Err(CallError::Timeout(CALL_TIMEOUT)),
    }
}
