//! What the coordinator is told, and what it decides.

use std::time::Duration;

use hearth_crds::worker_config::{ExitCode, Failure};

/// The gang's size and budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Agents, as wanted now.
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
    /// For agents that would make the gang larger than the last one was. Then
    /// it starts as large as that.
    pub grow: Duration,
    /// For an agent to start its ranks.
    pub start: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(6),
            settle: Duration::from_millis(500),
            join: Duration::from_mins(30),
            grow: Duration::from_secs(20),
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
    /// Agents of its newest gang; 0 where it had none.
    pub agents: u32,
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
        /// Agents that take part.
        agents: u32,
    },
    /// The gang broke and is replaced.
    Broke(Failure),
    /// Agents were asked to leave and their ranks have saved: no failure.
    Left,
    /// Ranks have saved, for the gang is to have another size: no failure.
    Resized,
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
    /// Ranks of this generation save a checkpoint and end.
    Save(u32),
    /// Exit with this code.
    Finish(i32),
}
