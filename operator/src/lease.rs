//! Leader election by a Lease, with client-go's figures: a lease lasts 15 s,
//! its holder renews every 2 s and gives up after 10 s without success.
//!
//! Whether somebody else's lease has run out is judged by this machine's clock
//! alone: by the time since its record was last seen to change. Clocks of two
//! machines are never compared. Every write names the resource version that it
//! builds on, so that of two candidates only one succeeds.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

use crate::context::{Clock, SystemClock};
use crate::error::CallError;

/// The three times of an election.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a lease lasts without being renewed.
    pub duration: Duration,
    /// How long its holder tries to renew it before it gives up.
    pub renew_deadline: Duration,
    /// Time between two attempts.
    pub retry_period: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Longest wait for one request.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why this process does not lead any more.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another process holds the lease, or it could not be renewed in time.
    #[error("the lease is lost: {why}")]
    Lost {
        /// What happened.
        why: String,
    },
}

/// What a candidate does about the lease that it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none.
    Create,
    /// It is this process's, or free, or has run out.
    Take,
    /// It is another's.
    Wait,
}

/// A lease as it was last seen to change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    version: Option<String>,
    holder: String,
    transitions: i32,
}

impl Record {
    fn of(lease: &Lease) -> Self {
        let spec = lease.spec.as_ref();
        Self {
            version: lease.metadata.resource_version.clone(),
            holder: spec.and_then(|s| s.holder_identity.clone()).unwrap_or_default(),
            transitions: spec.and_then(|s| s.lease_transitions).unwrap_or(0),
        }
    }
}

/// What to do about a record, which `ran_out` where it was seen unchanged for
/// longer than a lease lasts.
fn step(record: Option<&Record>, identity: &str, ran_out: bool) -> Step {
    match record {
        None => Step::Create,
        Some(record) if record.holder == identity || record.holder.is_empty() => Step::Take,
        Some(_) if ran_out => Step::Take,
        Some(_) => Step::Wait,
    }
}

/// A candidate for one lease.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    seen: tokio::sync::Mutex<Option<(Record, Instant)>>,
}

impl Elector {
    /// A candidate named `identity` for the lease `name`. The client must not
    /// retry by itself.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self::with_timing(client, (namespace, name), identity, Timing::default())
    }

    /// A candidate with other times than the usual ones.
    pub fn with_timing(
        client: Client,
        (namespace, name): (&str, &str),
        identity: &str,
        timing: Timing,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            timing,
            seen: tokio::sync::Mutex::new(None),
        }
    }

    /// Returns once the lease is held.
    pub async fn acquire(&self) {
        loop {
            match self.attempt().await {
                Ok(None) => return,
                Ok(Some(holder)) => tracing::debug!(holder, "another leads"),
                Err(error) => {
                    tracing::warn!(error = error.said(), "cannot read or take the lease");
                }
            }
            tokio::time::sleep(self.timing.retry_period).await;
        }
    }

    /// Renews the lease for as long as it can, and says why it no longer can.
    pub async fn hold(&self) -> LeaseError {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.timing.retry_period).await;
            let left = self.timing.renew_deadline.saturating_sub(renewed.elapsed());
            let why = match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(None)) => {
                    renewed = Instant::now();
                    continue;
                }
                Ok(Ok(Some(holder))) => {
                    return LeaseError::Lost { why: format!("{holder} holds it") };
                }
                Ok(Err(error)) => error.said(),
                Err(_) => "no answer".to_owned(),
            };
            tracing::warn!(error = why, "lease not renewed");
            if renewed.elapsed() >= self.timing.renew_deadline {
                let time = self.timing.renew_deadline;
                return LeaseError::Lost { why: format!("not renewed for {time:?}: {why}") };
            }
        }
    }

    /// Gives the lease back, so that the next leader need not wait.
    pub async fn release(&self) {
        let record = match &*self.seen.lock().await {
            Some((record, _)) if record.holder == self.identity => record.clone(),
            _ => return,
        };
        let outcome = self.write(&record, "", record.transitions).await;
        if let Err(error) = outcome {
            tracing::warn!(error = error.said(), "lease not given back; it runs out by itself");
        }
    }

    /// One attempt to take or renew the lease: `None` where this process now
    /// holds it, else who does.
    async fn attempt(&self) -> Result<Option<String>, CallError> {
        let found = self.call(self.api.get_opt(&self.name)).await?;
        let record = found.as_ref().map(Record::of);
        let age = self.notice(record.clone()).await;
        let ran_out = age >= self.timing.duration;
        let written = match (step(record.as_ref(), &self.identity, ran_out), record) {
            (Step::Create, _) | (_, None) => self.create().await?,
            (Step::Take, Some(record)) => {
                let changed = record.holder != self.identity;
                let transitions = record.transitions.saturating_add(i32::from(changed));
                self.write(&record, &self.identity, transitions).await?
            }
            (Step::Wait, Some(record)) => return Ok(Some(record.holder)),
        };
        self.notice(Some(Record::of(&written))).await;
        Ok(None)
    }

    /// Notes a record, and says for how long it has been the same.
    async fn notice(&self, record: Option<Record>) -> Duration {
        let mut seen = self.seen.lock().await;
        match (&*seen, record) {
            (Some((before, since)), Some(record)) if *before == record => since.elapsed(),
            (_, record) => {
                *seen = record.map(|record| (record, Instant::now()));
                Duration::ZERO
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a lease is no part of any plan")]
    async fn create(&self) -> Result<Lease, CallError> {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(self.spec(&self.identity, 0)),
        };
        self.call(self.api.create(&PostParams::default(), &lease)).await
    }

    #[expect(clippy::disallowed_methods, reason = "a lease is no part of any plan")]
    async fn write(
        &self,
        over: &Record,
        holder: &str,
        transitions: i32,
    ) -> Result<Lease, CallError> {
        let body = serde_json::json!({
            "metadata": {"resourceVersion": over.version},
            "spec": self.spec(holder, transitions),
        });
        self.call(self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(&body))).await
    }

    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer.map_err(CallError::Api),
            Err(_) => Err(CallError::Timeout(CALL_TIMEOUT)),
        }
    }

    /// The record of a holder. Its times are for people; no decision reads them.
    fn spec(&self, holder: &str, transitions: i32) -> LeaseSpec {
        let now = MicroTime(SystemClock.now());
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs().max(1)).ok(),
            acquire_time: (transitions == 0).then(|| now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}
