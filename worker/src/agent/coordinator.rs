//! Decides, for the whole gang, what every agent does next.
//!
//! In: beats and the time since this process started. Out: [`Change`]s to
//! record and tell, and a [`Directive`] for each agent. Absent on purpose:
//! clocks, sockets, files, processes. Every line runs in a unit test.
//!
//! Invariant 5: all ranks of a gang share one generation, since c10d cannot
//! re-admit a single rank. So one lost rank stops every rank; and a gang of
//! another size is another generation, which goes on from a checkpoint that the
//! one before it saved.

use std::time::Duration;

use hearth_crds::worker_config::{BATCH_HALVED, ExitCode, Failure};

use super::failure::{self, Cause, Weight};
use super::protocol::{Beat, RankReport, RankState};
use super::roster::{Refusal, Roster, Seen};
use super::terms::{Carried, Change, Directive, Shape, Timing, Verdict};

/// Where the gang is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Agents are missing or still stop ranks.
    Joining,
    /// Ranks run.
    Running,
    /// A failure was seen; its cause is being found.
    Breaking,
    /// Ranks save and end, so that a gang of another size can start.
    Resizing,
    /// Over. Agents may go once the result is recorded.
    Ended(Verdict),
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
    agents: Roster,
    /// Incarnations of the newest generation, by agent.
    gang: Vec<String>,
    gang_since: Duration,
    /// Agents of the newest generation, of an earlier coordinator's too.
    newest_size: u32,
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
            agents: Roster::new(timing.lease),
            gang: Vec::new(),
            gang_since: now,
            newest_size: carried.agents,
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
        self.agents.hear(beat, now)
    }

    /// Wants another number of agents from now on. Ranks go on until all of them stand by.
    pub fn resize(&mut self, agents: u32) {
        self.shape.agents = agents;
    }

    /// How many agents are wanted.
    pub fn wanted(&self) -> u32 {
        self.shape.agents
    }

    /// How many agents have ranks that run, or may run.
    pub fn size(&self) -> u32 {
        match self.stage {
            Stage::Running | Stage::Breaking | Stage::Resizing => self.newest_size,
            Stage::Joining | Stage::Ended(_) => 0,
        }
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
            Stage::Resizing => self.watch_saving(now),
            Stage::Breaking | Stage::Ended(_) => None,
        }
    }

    /// What an agent is to do now. One that the gang is without has no ranks.
    pub fn directive(&self, agent: u32) -> Directive {
        match &self.stage {
            Stage::Running | Stage::Breaking | Stage::Resizing if agent >= self.newest_size => {
                Directive::Stop
            }
            Stage::Running | Stage::Breaking => Directive::Run(self.generation),
            Stage::Resizing => Directive::Save(self.generation),
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
        let mut others = self.agents.all().filter(|seen| seen.beat.agent > 0);
        self.recorded && others.all(|seen| seen.beat.done || self.agents.is_lost(seen, now))
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
            .all()
            .filter(|seen| seen.beat.generation == self.generation)
            .flat_map(|seen| seen.beat.ranks.iter().map(|rank| (seen.beat.agent, rank)))
    }

    /// Agents that have to join or to stop their ranks before the next start.
    pub fn missing(&self, now: Duration) -> Vec<u32> {
        self.agents.missing(0..self.shape.agents, self.since, now).collect()
    }

    fn join(&mut self, now: Duration) -> Option<Change> {
        if self.unexplained
            && let Some(cause) = self.lost_agent(now)
        {
            self.last_failure = Some(cause.failure);
            self.unexplained = false;
        }
        let missing = self.missing(now);
        let newest = self.newest_size;
        let grows = (1..self.shape.agents).contains(&newest);
        if missing.is_empty() {
            return Some(self.start(self.shape.agents, now));
        }
        if grows && missing[0] >= newest && now >= self.since + self.timing.grow {
            return Some(self.start(newest, now));
        }
        if now < self.since + self.timing.join {
            return None;
        }
        let minutes = self.timing.join.as_secs_f64() / 60.0;
        let how = format!("did not join within {minutes:.1} min; see whether its pod can start");
        let Cause { failure, exit_code, .. } = Cause::agent_lost(missing[0], &how);
        Some(self.end(Verdict::Failed { failure, exit_code }, now))
    }

    fn start(&mut self, agents: u32, now: Duration) -> Change {
        let joined = self.agents.all().map(|seen| seen.beat.generation).max();
        self.generation = self.generation.max(joined.unwrap_or(0)) + 1;
        self.gang = self.agents.first(agents).map(|seen| seen.beat.incarnation.clone()).collect();
        self.newest_size = agents;
        self.unexplained = false;
        self.gang_since = now;
        self.enter(Stage::Running, now);
        Change::Started { generation: self.generation, agents }
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
        } else if self.may_resize(now) {
            self.enter(Stage::Resizing, now);
        }
        None
    }

    /// Whether the gang should have another size, and those to come stand by.
    fn may_resize(&self, now: Duration) -> bool {
        let (present, wanted) = (self.newest_size, self.shape.agents);
        present != wanted && self.agents.missing(present..wanted, self.gang_since, now).count() == 0
    }

    /// What fails while ranks save fails because its peers go; but for what no start can mend.
    fn watch_saving(&mut self, now: Duration) -> Option<Change> {
        if self.all_finished() {
            return Some(self.end(Verdict::Succeeded, now));
        }
        if let Some(cause) = self.cause(now).filter(|cause| cause.weight == Weight::Permanent) {
            return Some(self.restart_or_end(cause, now));
        }
        let ended = |seen: &Seen| seen.at > self.since && !seen.runs();
        let all_ended = self
            .agents
            .first(self.newest_size)
            .all(|seen| ended(seen) || self.agents.is_lost(seen, now));
        all_ended.then(|| {
            self.enter(Stage::Joining, now);
            Change::Resized
        })
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
        self.agents.first(self.newest_size).zip(&self.gang).find_map(|(seen, incarnation)| {
            let Beat { generation, ranks, .. } = &seen.beat;
            let joining = self.stage == Stage::Joining;
            let how = if seen.beat.incarnation != *incarnation {
                "was replaced by a new process".to_owned()
            } else if self.agents.is_lost(seen, now) {
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
            Some(Cause::agent_lost(seen.beat.agent, &how))
        })
    }

    fn all_finished(&self) -> bool {
        let all = (self.newest_size * self.shape.ranks_per_agent) as usize;
        self.ranks().filter(|(_, rank)| rank.state == RankState::Finished).count() == all
    }

    /// Agents of the gang that were asked to leave.
    fn leavers(&self) -> impl Iterator<Item = &Seen> {
        self.agents.first(self.newest_size).filter(|seen| seen.beat.leaving)
    }

    fn someone_leaves(&self) -> bool {
        self.leavers().next().is_some()
    }

    fn leavers_are_gone(&self, now: Duration) -> bool {
        self.leavers().all(|seen| !seen.runs() || self.agents.is_lost(seen, now))
    }
}

#[cfg(test)]
#[path = "coordinator_stories.rs"]
mod stories;
