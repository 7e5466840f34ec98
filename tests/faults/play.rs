//! One play of a scenario: a namespace, a proxy, an operator, and the others.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::cast::{self, Cast};
use crate::cluster::{self, Cluster, until};
use crate::operator::{Bug, Operator, Settings};
use crate::proxy::{Proxy, Rules};
use crate::scenario::Scenario;
use crate::state::{self, State};

/// Longest from the end of all faults to the final state.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
/// The same for an operator with a bug. A good one takes a few seconds, but where it must wait
/// for a time limit of its own. After 30 s any operator looks again at what it wrote, and mends it.
const LIMIT_PLANTED: Duration = Duration::from_secs(18);
/// A story without faults may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

static PLAYS: Semaphore = Semaphore::const_new(14);
static NUMBER: AtomicU32 = AtomicU32::new(1);

/// A play that goes on.
pub(crate) struct Play {
    pub(crate) cluster: Cluster,
    pub(crate) proxy: Proxy,
    pub(crate) operator: Arc<Operator>,
    pub(crate) scenario: &'static Scenario,
    address: Ipv4Addr,
    cast: OnceCell<Cast>,
    limit: Duration,
    _permit: SemaphorePermit<'static>,
}

impl Play {
    /// Sets the stage: the operator runs, and there is no subject yet.
    pub(crate) async fn prepare(scenario: &'static Scenario, bug: Option<Bug>) -> Result<Self> {
        Self::with_election(scenario, bug, false).await
    }

    /// The same, with an operator that takes part in an election.
    pub(crate) async fn with_election(
        scenario: &'static Scenario,
        bug: Option<Bug>,
        leader_elect: bool,
    ) -> Result<Self> {
        let permit = PLAYS.acquire().await?;
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let namespace = format!("{}-{}-{number}", scenario.name, std::process::id());
        let client = cluster::client().await?;
        let cluster = Cluster::create(client.clone(), namespace).await?;
        let proxy = Proxy::start(client).await?;
        let settings = Settings {
            namespace: &cluster.namespace,
            port: proxy.port,
            name: "a",
            leader_elect,
            bug,
        };
        let operator = Arc::new(Operator::new(&settings)?);
        proxy.serves(operator.clone());
        let [_, _, high, low] = number.to_be_bytes();
        Ok(Self {
            cluster,
            proxy,
            operator,
            scenario,
            address: Ipv4Addr::new(127, 91, high, low),
            cast: OnceCell::new(),
            // A lease that nobody renews is taken over after 15 s alone.
            limit: if leader_elect || bug.is_none_or(|bug| bug == "waits-for-ever") {
                LIMIT
            } else {
                LIMIT_PLANTED
            },
            _permit: permit,
        })
    }

    /// The operator starts, and the story begins.
    pub(crate) async fn begin(&self) -> Result<()> {
        self.operator.start()?;
        self.raise().await
    }

    /// The story begins, with whatever operator there is.
    pub(crate) async fn raise(&self) -> Result<()> {
        self.cast
            .get_or_try_init(|| cast::play(&self.cluster, self.scenario, self.address))
            .await?;
        Ok(())
    }

    /// A play under these rules from its first moment.
    pub(crate) async fn under(
        scenario: &'static Scenario,
        bug: Option<Bug>,
        rules: Rules,
    ) -> Result<Self> {
        let play = Self::prepare(scenario, bug).await?;
        play.proxy.rules(rules);
        play.begin().await?;
        Ok(play)
    }

    /// Whether the story is over.
    pub(crate) async fn is_over(&self) -> Result<bool> {
        Ok((self.scenario.over)(&self.subject().await?))
    }

    async fn subject(&self) -> Result<Value> {
        let (plural, name) = self.scenario.subject;
        self.cluster.get(plural, name).await
    }

    /// What is known of a play that went wrong.
    async fn told(&self) -> String {
        let subject = self.subject().await.unwrap_or_default();
        format!("status: {:#}\nThe operator said:\n{}", subject["status"], self.operator.log())
    }

    /// The state in the end. Only for a play without faults: it waits until nothing is written.
    pub(crate) async fn outcome(&self) -> Result<State> {
        let settled = until(PATIENCE, "the story", async || {
            Ok((self.is_over().await? && self.proxy.quiet() > Duration::from_secs(3)).then_some(()))
        });
        if let Err(error) = settled.await {
            bail!("{}: {error:#}\n{}", self.cluster.namespace, self.told().await);
        }
        let state = state::read(&self.cluster).await?;
        if state.is_empty() || !self.subject().await?.is_null() {
            return Ok(state);
        }
        // What belonged to a subject that is gone goes, too.
        let empty = async || Ok(Some(state::read(&self.cluster).await?).filter(State::is_empty));
        until(PATIENCE, "the end of all children", empty).await
    }

    /// Waits until the state is `want`. Gives the time since the last fault, or tells what differs
    /// when the limit is over.
    pub(crate) async fn comes_to(&self, want: &State) -> Result<Duration> {
        let begun = Instant::now();
        let mut differs = "the story is not over".to_owned();
        loop {
            if self.is_over().await? {
                differs = state::difference(want, &state::read(&self.cluster).await?);
            }
            let since = self.proxy.last_fault().map_or(begun, |fault| fault.max(begun)).elapsed();
            if differs.is_empty() {
                return Ok(since);
            }
            // Faults that never end are ended by their operator.
            if since > self.limit || begun.elapsed() > self.limit * 2 {
                bail!(
                    "{} is not in its final state {} s after the last fault:\n{differs}\n{}",
                    self.cluster.namespace,
                    self.limit.as_secs(),
                    self.told().await
                );
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// The final state of a scenario without faults, and its number of writes. Played once a process.
pub(crate) async fn reference(scenario: &'static Scenario) -> Result<&'static (State, usize)> {
    static KNOWN: [OnceCell<(State, usize)>; 16] = [const { OnceCell::const_new() }; 16];
    let place = crate::scenario::ALL.iter().position(|other| other.name == scenario.name);
    KNOWN[place.unwrap_or_default()]
        .get_or_try_init(|| async {
            let play = Play::prepare(scenario, None).await?;
            play.begin().await?;
            let state = play.outcome().await?;
            Ok((state, play.proxy.writes()))
        })
        .await
}
