//! What agents and their coordinator tell each other, over HTTP as JSON.
//!
//! Both messages carry a whole state, never a change: a lost or repeated
//! message does no harm, and a coordinator that was replaced learns all it
//! needs from the next beats.

use std::time::Duration;

use hearth_crds::worker_config::JobIdentity;
use serde::{Deserialize, Serialize};

use super::straggler::Pace;
use crate::event::Phase;

/// Path of `POST` for [`Beat`]; answered with [`Order`].
pub const BEAT_PATH: &str = "/agents/beat";

/// An agent's state, sent a few times a second and at once when a rank ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Beat {
    /// Index of the agent, from 0.
    pub agent: u32,
    /// Differs for each process: tells a replaced agent from a slow one.
    pub incarnation: String,
    /// The job that the agent was started for.
    pub job: JobIdentity,
    /// Newest generation that the agent started; 0 before the first.
    pub generation: u32,
    /// Ranks of that generation. Empty once all are stopped and reaped.
    pub ranks: Vec<RankReport>,
    /// Asked to stop by SIGTERM: its ranks save, then the agent goes.
    pub leaving: bool,
    /// The agent has seen [`Action::Finish`] and goes.
    pub done: bool,
    /// Power of the GPUs of its ranks, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_watts: Option<f64>,
}

/// One rank, as its agent sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RankReport {
    /// `RANK`.
    pub rank: u32,
    /// Whether it runs.
    pub state: RankState,
    /// Newest step that it reported.
    pub step: i64,
    /// What it said it does.
    pub phase: Phase,
    /// Milliseconds since it reported anything.
    pub silent_milliseconds: u64,
    /// Milliseconds of silence after which it counts as hung.
    pub limit_milliseconds: u64,
    /// What the kernel says keeps a silent rank from running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standstill: Option<Standstill>,
    /// Its newest steps, once it has made enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Pace>,
}

/// Why a process does not run, by its state in `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standstill {
    /// `T` or `t`: a signal or a debugger stopped it.
    Stopped,
    /// `D`: it waits for a device or a volume.
    Storage,
}

impl Standstill {
    /// Of a line of `/proc/PID/stat`.
    pub fn of_stat(stat: &str) -> Option<Self> {
        // The second field, the command in parentheses, may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        match rest.trim_start().chars().next()? {
            'T' | 't' => Some(Self::Stopped),
            'D' => Some(Self::Storage),
            _ => None,
        }
    }
}

impl RankReport {
    /// Silent for longer than a working rank ever is.
    pub fn is_hung(&self) -> bool {
        self.state == RankState::Running && self.silent_milliseconds > self.limit_milliseconds
    }

    /// Since it reported anything.
    pub fn silent(&self) -> Duration {
        Duration::from_millis(self.silent_milliseconds)
    }
}

/// Whether a rank runs, and how it ended where it does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RankState {
    /// The process runs (or is stopped by a signal).
    Running,
    /// It ended well.
    Finished,
    /// It exited with another code than 0.
    Exited {
        /// Exit code.
        code: i32,
        /// What the rank itself said, where it said anything.
        told: Option<Told>,
    },
    /// A signal ended it.
    Killed {
        /// Signal's number.
        signal: i32,
    },
    /// The process could not be started.
    NotStarted {
        /// The system's reason.
        message: String,
    },
}

/// A rank's own words on its failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// CamelCase.
    pub reason: String,
    /// One or two sentences.
    pub message: String,
}

/// What the coordinator wants of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Differs for each run of the job; survives a replaced coordinator.
    pub run: String,
    /// What to do.
    pub action: Action,
}

/// The state that an agent brings about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Action {
    /// No rank runs.
    Stop,
    /// The ranks of this generation run, or have ended by themselves.
    Run(Gang),
    /// The ranks of this generation save a checkpoint and end.
    Save {
        /// Generation number.
        generation: u32,
    },
    /// No rank runs and the agent exits.
    Finish {
        /// Exit code of every agent but agent 0.
        exit_code: i32,
    },
}

/// Where the ranks of a generation meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gang {
    /// Generation number, from 1.
    pub generation: u32,
    /// Agents that take part: those of the lowest indices.
    pub agents: u32,
    /// `MASTER_ADDR`.
    pub master_address: String,
    /// `MASTER_PORT`.
    pub master_port: u16,
}
