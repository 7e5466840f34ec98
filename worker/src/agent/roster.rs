//! Who has been heard, and when. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use super::protocol::{Beat, RankState};

/// Agents that a job may have: `replicas` of the TrainingJob goes no further.
pub const MOST_AGENTS: u32 = 1024;

/// A beat that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More agents than any job has.
    #[error("there is no agent {agent}: a job has at most {MOST_AGENTS}")]
    NoSuchAgent {
        /// Asked.
        agent: u32,
    },
    /// Another process took this agent's place.
    #[error("agent {agent} was replaced by a newer process")]
    Replaced {
        /// Which.
        agent: u32,
    },
}

/// The newest beat of an agent.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it said.
    pub beat: Beat,
    /// When, since the coordinator began.
    pub at: Duration,
}

impl Seen {
    /// Whether one of its ranks runs.
    pub fn runs(&self) -> bool {
        self.beat.ranks.iter().any(|rank| rank.state == RankState::Running)
    }
}

/// All agents, those that the job does not want yet or any more included.
#[derive(Debug)]
pub struct Roster {
    /// An agent that sent no beat for this long is lost.
    lease: Duration,
    agents: Vec<Option<Seen>>,
    retired: BTreeSet<String>,
}

impl Roster {
    /// Nobody was heard. Silence of `lease` means that an agent is lost.
    pub fn new(lease: Duration) -> Self {
        Self { lease, agents: Vec::new(), retired: BTreeSet::new() }
    }

    /// Takes note of a beat.
    pub fn hear(&mut self, beat: Beat, now: Duration) -> Result<(), Refusal> {
        let agent = beat.agent;
        if agent >= MOST_AGENTS {
            return Err(Refusal::NoSuchAgent { agent });
        }
        if self.retired.contains(&beat.incarnation) {
            return Err(Refusal::Replaced { agent });
        }
        let index = agent as usize;
        if self.agents.len() <= index {
            self.agents.resize_with(index + 1, || None);
        }
        let slot = &mut self.agents[index];
        if let Some(before) = slot
            && before.beat.incarnation != beat.incarnation
        {
            self.retired.insert(before.beat.incarnation.clone());
        }
        *slot = Some(Seen { beat, at: now });
        Ok(())
    }

    /// Those of agents `0..count` that were heard.
    pub fn first(&self, count: u32) -> impl Iterator<Item = &Seen> + Clone {
        self.agents.iter().take(count as usize).flatten()
    }

    /// All that were heard.
    pub fn all(&self) -> impl Iterator<Item = &Seen> + Clone {
        self.agents.iter().flatten()
    }

    /// Those of `agents` that have not said since `since` that they stand by.
    pub fn missing(
        &self,
        agents: std::ops::Range<u32>,
        since: Duration,
        now: Duration,
    ) -> impl Iterator<Item = u32> {
        // A beat from before says nothing about ranks that were started since.
        let ready = move |seen: &Seen| {
            let heard = seen.at > since && !self.is_lost(seen, now);
            heard && seen.beat.ranks.is_empty() && !seen.beat.leaving
        };
        let seen = |agent: u32| self.agents.get(agent as usize).and_then(Option::as_ref);
        agents.filter(move |agent| !seen(*agent).is_some_and(ready))
    }

    /// Whether it has been silent for too long.
    pub fn is_lost(&self, seen: &Seen, now: Duration) -> bool {
        now.saturating_sub(seen.at) > self.lease
    }
}
