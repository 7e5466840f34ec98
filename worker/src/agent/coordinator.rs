//! Decides, for the whole gang, what every agent does next.
//!
//! In: beats and the time since this process started. Out: [`Change`]s to
//! record and tell, and a [`Directive`] for each agent. Absent on purpose:
//! clocks, sockets, files, processes. Every line runs in a unit test.
//!
//! Invariant 5: all ranks of a gang share one generation, since c10d cannot
//! re-admit a single rank. So one lost rank stops every rank.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_crds::worker_config::{BATCH_HALVED, ExitCode, Failure};

use super::failure::{self, Cause, Weight};
use super::protocol::{Beat, RankReport, RankState};

/// The gang's size and budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Agents.
    pub agents: u32,
    /// Ranks of each agent.
    pub ranks_per_agent: u32,
    /// Failures after which the job ends.
    pub max_restarts: u32,
}

/// How long the coordinator waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// An agent that sent no beat for this long is lost.
    pub lease: Duration,
    /// From the first sign of a failure until the cause is chosen: the time
    /// that the other agents need to tell what they saw.
    pub settle: Duration,
    /// For all agents to join.
    pub join: Duration,
    /// For an agent to start its ranks.
    pub start: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(6),
            settle: Duration::from_millis(500),
            join: Duration::from_mins(30),
            start: Duration::from_secs(30),
        }
    }
}

/// What an earlier coordinator of the same run left on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Its newest generation.
    pub generation: u32,
    /// Failures so far.
    pub restarts: u32,
    /// It was lost while ranks ran: a failure of agent 0.
    pub was_running: bool,
    /// Its newest failure.
    pub last_failure: Option<Failure>,
}

/// Something that happened, to be recorded before any agent acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A generation starts.
    Started {
        /// Its number.
        generation: u32,
    },
    /// The gang broke and is replaced.
    Broke(Failure),
    /// Agents were asked to leave and their ranks have saved: no failure.
    Left,
    /// The job is over.
    Ended(Verdict),
}

/// How the job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All ranks finished.
    Succeeded,
    /// It cannot go on.
    Failed {
        /// Why.
        failure: Failure,
        /// Exit code of agent 0.
        exit_code: i32,
    },
}

impl Verdict {
    /// Exit code of agents other than 0. A permanent failure is told by agent
    /// 0 alone; after any other all are started again, so all must fail.
    pub fn exit_code_of_others(&self) -> i32 {
        match self {
            Self::Failed { exit_code, .. } if !ExitCode::is_permanent(*exit_code) => {
                ExitCode::Failure as i32
            }
            _ => ExitCode::Done as i32,
        }
    }
}

/// What an agent is to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Directive {
    /// No rank runs.
    Stop,
    /// Ranks of this generation run.
    Run(u32),
    /// Exit with this code.
    Finish(i32),
}

/// Where the gang is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Agents are missing or still stop ranks.
    Joining,
    /// Ranks run.
    Running,
    /// A failure was seen; its cause is being found.
    Breaking,
    /// Over. Agents may go once the result is recorded.
    Ended(Verdict),
}

/// A beat that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More agents than `replicas`.
    #[error("there is no agent {agent}: the job has {agents}")]
    NoSuchAgent {
        /// Asked.
        agent: u32,
        /// Known.
        agents: u32,
    },
    /// Another process took this agent's place.
    #[error("agent {agent} was replaced by a newer process")]
    Replaced {
        /// Which.
        agent: u32,
    },
}

#[derive(Clone, Debug)]
struct Seen {
    beat: Beat,
    at: Duration,
}

/// The state machine.
#[derive(Debug)]
pub struct Coordinator {
    shape: Shape,
    timing: Timing,
    stage: Stage,
    since: Duration,
    recorded: bool,
    generation: u32,
    restarts: u32,
    last_failure: Option<Failure>,
    /// The newest failure was only an effect: a lost agent may explain it.
    unexplained: bool,
    agents: Vec<Option<Seen>>,
    /// Incarnations of the present generation.
    gang: Vec<String>,
    gang_since: Duration,
    retired: BTreeSet<String>,
    /// Happened at the start; told by the first `advance`.
    pending: Option<Change>,
}

impl Coordinator {
    /// Waits for all agents. `carried` is the default for a fresh run.
    pub fn new(shape: Shape, timing: Timing, carried: Carried, now: Duration) -> Self {
        let mut new = Self {
            shape,
            timing,
            stage: Stage::Joining,
            since: now,
            recorded: false,
            generation: carried.generation,
            restarts: carried.restarts,
            last_failure: carried.last_failure,
            unexplained: false,
            agents: (0..shape.agents).map(|_| None).collect(),
            gang: Vec::new(),
            gang_since: now,
            retired: BTreeSet::new(),
            pending: None,
        };
        if carried.was_running {
            let cause = Cause::agent_lost(0, "was replaced while its ranks ran");
            new.pending = Some(new.restart_or_end(cause, now));
        }
        new
    }

    /// Takes note of a beat.
    pub fn hear(&mut self, beat: Beat, now: Duration) -> Result<(), Refusal> {
        let refusal = Refusal::NoSuchAgent { agent: beat.agent, agents: self.shape.agents };
        let slot = self.agents.get_mut(beat.agent as usize).ok_or(refusal)?;
        if self.retired.contains(&beat.incarnation) {
            return Err(Refusal::Replaced { agent: beat.agent });
        }
        if let Some(seen) = slot
            && seen.beat.incarnation != beat.incarnation
        {
            self.retired.insert(seen.beat.incarnation.clone());
        }
        *slot = Some(Seen { beat, at: now });
        Ok(())
    }

    /// Moves on by at most one stage.
    pub fn advance(&mut self, now: Duration) -> Option<Change> {
        if let Some(change) = self.pending.take() {
            return Some(change);
        }
        match self.stage {
            Stage::Joining => self.join(now),
            Stage::Running => self.watch(now),
            Stage::Breaking if now >= self.since + self.timing.settle => self.settle(now),
            Stage::Breaking | Stage::Ended(_) => None,
        }
    }

    /// What every agent is to do now.
    pub fn directive(&self) -> Directive {
        match &self.stage {
            Stage::Running | Stage::Breaking => Directive::Run(self.generation),
            Stage::Ended(verdict) if self.recorded => {
                Directive::Finish(verdict.exit_code_of_others())
            }
            Stage::Joining | Stage::Ended(_) => Directive::Stop,
        }
    }

    /// The result is on disk: agents may go.
    pub fn recorded(&mut self) {
        self.recorded = true;
    }

    /// Whether every other agent has gone or was told to.
    pub fn may_exit(&self, now: Duration) -> bool {
        let others = self.agents.iter().skip(1).flatten();
        self.recorded && others.clone().all(|seen| seen.beat.done || self.is_lost(seen, now))
    }

    /// Where the gang is.
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Number of the newest gang; 0 before the first.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Failures so far.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The newest failure.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.last_failure.as_ref()
    }

    /// `(agent, report)` of every rank of the present generation.
    pub fn ranks(&self) -> impl Iterator<Item = (u32, &RankReport)> + Clone {
        self.agents
            .iter()
            .flatten()
            .filter(|seen| seen.beat.generation == self.generation)
            .flat_map(|seen| seen.beat.ranks.iter().map(|rank| (seen.beat.agent, rank)))
    }

    /// Agents that have to join or to stop their ranks before the next start.
    pub fn missing(&self, now: Duration) -> Vec<u32> {
        // A beat from before says nothing about ranks that were started since.
        let ready = |seen: &Seen| {
            let heard = seen.at > self.since && !self.is_lost(seen, now);
            heard && seen.beat.ranks.is_empty() && !seen.beat.leaving
        };
        let slots = (0..).zip(&self.agents);
        slots
            .filter(|(_, seen)| !seen.as_ref().is_some_and(ready))
            .map(|(agent, _)| agent)
            .collect()
    }

    fn join(&mut self, now: Duration) -> Option<Change> {
        if self.unexplained
            && let Some(cause) = self.lost_agent(now)
        {
            self.last_failure = Some(cause.failure);
            self.unexplained = false;
        }
        let missing = self.missing(now);
        if missing.is_empty() {
            let joined = self.agents.iter().flatten().map(|seen| seen.beat.generation).max();
            self.generation = self.generation.max(joined.unwrap_or(0)) + 1;
            self.gang =
                self.agents.iter().flatten().map(|seen| seen.beat.incarnation.clone()).collect();
            self.unexplained = false;
            self.gang_since = now;
            self.enter(Stage::Running, now);
            return Some(Change::Started { generation: self.generation });
        }
        if now < self.since + self.timing.join {
            return None;
        }
        let minutes = self.timing.join.as_secs_f64() / 60.0;
        let how = format!("did not join within {minutes:.1} min; see whether its pod can start");
        let Cause { failure, exit_code, .. } = Cause::agent_lost(missing[0], &how);
        Some(self.end(Verdict::Failed { failure, exit_code }, now))
    }

    fn watch(&mut self, now: Duration) -> Option<Change> {
        if self.all_finished() {
            return Some(self.end(Verdict::Succeeded, now));
        }
        let cause = self.cause(now);
        let permanent = cause.as_ref().is_some_and(|cause| cause.weight == Weight::Permanent);
        if self.someone_leaves() && !permanent {
            // Ranks that save must not be disturbed; what fails meanwhile fails
            // because its peers go.
            return self.leavers_are_gone(now).then(|| {
                self.enter(Stage::Joining, now);
                Change::Left
            });
        }
        if cause.is_some() {
            self.enter(Stage::Breaking, now);
        }
        None
    }

    fn settle(&mut self, now: Duration) -> Option<Change> {
        match self.cause(now) {
            // A rank that seemed to hang went on.
            None => {
                self.enter(Stage::Running, now);
                None
            }
            Some(cause) if self.someone_leaves() && cause.weight != Weight::Permanent => {
                self.enter(Stage::Running, now);
                None
            }
            Some(cause) => Some(self.restart_or_end(cause, now)),
        }
    }

    fn restart_or_end(&mut self, cause: Cause, now: Duration) -> Change {
        let Cause { weight, failure, exit_code } = cause;
        if weight == Weight::Permanent {
            return self.end(Verdict::Failed { failure, exit_code }, now);
        }
        // A rank that asks for a smaller batch did not fail, and a batch can be halved so often.
        let is_failure = failure.reason != BATCH_HALVED;
        if is_failure && self.restarts >= self.shape.max_restarts {
            let failure = Failure {
                rank: failure.rank,
                reason: "RestartsExhausted".to_owned(),
                message: format!(
                    "training failed {} times, and maxRestarts allows {}; the last failure was {}: {}",
                    self.restarts + 1,
                    self.shape.max_restarts,
                    failure.reason,
                    failure.message
                ),
            };
            let exit_code = ExitCode::RestartsExhausted as i32;
            return self.end(Verdict::Failed { failure, exit_code }, now);
        }
        self.restarts += u32::from(is_failure);
        self.unexplained = weight == Weight::LostPeer;
        self.last_failure = Some(failure.clone());
        self.enter(Stage::Joining, now);
        Change::Broke(failure)
    }

    fn end(&mut self, verdict: Verdict, now: Duration) -> Change {
        if let Verdict::Failed { failure, .. } = &verdict {
            self.last_failure = Some(failure.clone());
        }
        self.enter(Stage::Ended(verdict.clone()), now);
        Change::Ended(verdict)
    }

    fn enter(&mut self, stage: Stage, now: Duration) {
        self.stage = stage;
        self.since = now;
    }

    fn cause(&self, now: Duration) -> Option<Cause> {
        let of_ranks = failure::of_ranks(self.ranks());
        self.lost_agent(now).into_iter().chain(of_ranks).min_by_key(|cause| cause.weight)
    }

    fn lost_agent(&self, now: Duration) -> Option<Cause> {
        (0..).zip(self.agents.iter().zip(&self.gang)).find_map(|(agent, (seen, incarnation))| {
            let seen = seen.as_ref()?;
            let Beat { generation, ranks, .. } = &seen.beat;
            let joining = self.stage == Stage::Joining;
            let how = if seen.beat.incarnation != *incarnation {
                "was replaced by a new process".to_owned()
            } else if self.is_lost(seen, now) {
                let silent = now.saturating_sub(seen.at).as_secs_f64();
                format!("has sent no heartbeat for {silent:.1} s; its pod or node is gone")
            } else if joining {
                return None;
            } else if *generation == self.generation && ranks.is_empty() {
                "stopped its ranks, as it could not reach agent 0".to_owned()
            } else if *generation < self.generation && now > self.gang_since + self.timing.start {
                "did not start its ranks".to_owned()
            } else {
                return None;
            };
            Some(Cause::agent_lost(agent, &how))
        })
    }

    fn all_finished(&self) -> bool {
        let all = (self.shape.agents * self.shape.ranks_per_agent) as usize;
        self.ranks().filter(|(_, rank)| rank.state == RankState::Finished).count() == all
    }

    fn someone_leaves(&self) -> bool {
        self.agents.iter().flatten().any(|seen| seen.beat.leaving)
    }

    fn leavers_are_gone(&self, now: Duration) -> bool {
        let mut leavers = self.agents.iter().flatten().filter(|seen| seen.beat.leaving);
        leavers.all(|seen| {
            let stopped = seen.beat.ranks.iter().all(|rank| rank.state != RankState::Running);
            stopped || self.is_lost(seen, now)
        })
    }

    fn is_lost(&self, seen: &Seen, now: Duration) -> bool {
        now.saturating_sub(seen.at) > self.timing.lease
    }
}

#[cfg(test)]
#[path = "coordinator_stories.rs"]
mod stories;
