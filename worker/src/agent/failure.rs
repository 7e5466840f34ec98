//! Finds which of several failures caused the others, and says it in a sentence.
//!
//! When one rank dies, its peers fail a moment later in a collective. What
//! comes first is not always what was first, so causes are ranked by kind.

use hearth_crds::worker_config::{ExitCode, Failure};

use super::protocol::{RankReport, RankState, Standstill};

/// Reasons by which a rank says that a peer was lost: an effect, not a cause.
const LOST_PEER_REASONS: [&str; 4] = ["PeerLost", "RankHung", "CommunicationFailed", "Orphaned"];

/// Kinds of causes; the first is the likeliest to have caused the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Ends the job: a restart cannot help.
    Permanent,
    /// An agent's machine or process is gone, and its ranks with it.
    AgentLost,
    /// A signal ended the rank, or the rank failed by itself.
    Own,
    /// The rank is silent.
    Hung,
    /// The rank missed a peer.
    LostPeer,
}

/// A failure with what is needed to choose between several.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// Kind.
    pub weight: Weight,
    /// For status and events.
    pub failure: Failure,
    /// Exit code that the job ends with if nothing can be done.
    pub exit_code: i32,
}

impl Cause {
    /// Agent `agent` is gone; `how` ends the sentence.
    pub fn agent_lost(agent: u32, how: &str) -> Self {
        Self {
            weight: Weight::AgentLost,
            failure: Failure {
                rank: None,
                reason: "AgentLost".to_owned(),
                message: format!("agent {agent} {how}"),
            },
            exit_code: ExitCode::Failure as i32,
        }
    }
}

/// The likeliest cause among the ranks of one generation: `(agent, rank)` pairs.
pub fn of_ranks<'a>(ranks: impl Iterator<Item = (u32, &'a RankReport)> + Clone) -> Option<Cause> {
    let ended = ranks.clone().filter_map(|(agent, rank)| of_end(agent, rank));
    let hung = ranks.clone().any(|(_, rank)| rank.is_hung()).then(|| of_hang(ranks)).flatten();
    ended.chain(hung).min_by_key(|cause| cause.weight)
}

fn of_end(agent: u32, report: &RankReport) -> Option<Cause> {
    let RankReport { rank, step, .. } = report;
    let place = format!("rank {rank} (agent {agent})");
    let (weight, reason, message, exit_code) = match &report.state {
        RankState::Running | RankState::Finished => return None,
        RankState::Killed { signal } => (
            Weight::Own,
            "RankKilled".to_owned(),
            format!("{place} was ended by {} after step {step}{}", name(*signal), hint(*signal)),
            128 + signal,
        ),
        RankState::NotStarted { message } => (
            Weight::Own,
            "RankNotStarted".to_owned(),
            format!("{place} could not be started: {message}"),
            ExitCode::Failure as i32,
        ),
        RankState::Exited { code, told: Some(told) } => {
            let lost_peer = LOST_PEER_REASONS.contains(&told.reason.as_str());
            (
                weight(*code, lost_peer),
                told.reason.clone(),
                format!("{place}: {}", told.message),
                *code,
            )
        }
        RankState::Exited { code, told: None } => (
            weight(*code, false),
            "RankExited".to_owned(),
            format!("{place} exited with code {code} after step {step}; its log says more"),
            *code,
        ),
    };
    Some(Cause { weight, failure: Failure { rank: Some(*rank), reason, message }, exit_code })
}

fn weight(code: i32, lost_peer: bool) -> Weight {
    match (ExitCode::is_permanent(code), lost_peer) {
        (true, _) => Weight::Permanent,
        (false, true) => Weight::LostPeer,
        (false, false) => Weight::Own,
    }
}

/// In a hang all ranks are silent, as the healthy ones wait in a collective: one
/// that the kernel keeps from running holds the others up, or else the one with
/// the fewest steps, or else the longest silent.
fn of_hang<'a>(ranks: impl Iterator<Item = (u32, &'a RankReport)>) -> Option<Cause> {
    let (agent, slowest) =
        ranks.filter(|(_, rank)| rank.state == RankState::Running).min_by_key(|(_, rank)| {
            (rank.standstill.is_none(), rank.step, u64::MAX - rank.silent_milliseconds)
        })?;
    let why = match slowest.standstill {
        None => "",
        Some(Standstill::Stopped) => "; its process is stopped",
        Some(Standstill::Storage) => "; its process waits for a device or a volume",
    };
    let failure = Failure {
        rank: Some(slowest.rank),
        reason: "RankHung".to_owned(),
        message: format!(
            "rank {} (agent {agent}) has reported nothing for {:.1} s while {:?} after step {}; the limit is {:.1} s{why}",
            slowest.rank,
            slowest.silent().as_secs_f64(),
            slowest.phase,
            slowest.step,
            slowest.limit_milliseconds as f64 / 1000.0,
        ),
    };
    Some(Cause { weight: Weight::Hung, failure, exit_code: ExitCode::Failure as i32 })
}

fn name(signal: i32) -> String {
    let known = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    known.to_owned()
}

/// The kernel's OOM killer sends SIGKILL too.
fn hint(signal: i32) -> &'static str {
    if signal == 9 { "; if its memory ran out, raise workers.resources.limits.memory" } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::protocol::Told;
    use crate::event::Phase;

    fn rank(rank: u32, state: RankState) -> RankReport {
        RankReport {
            rank,
            state,
            step: 12,
            phase: Phase::Training,
            silent_milliseconds: 100,
            limit_milliseconds: 30_000,
            standstill: None,
            pace: None,
        }
    }

    fn exited(code: i32, reason: Option<&str>) -> RankState {
        let told = |reason: &str| Told { reason: reason.into(), message: "Said so.".into() };
        RankState::Exited { code, told: reason.map(told) }
    }

    #[test]
    fn the_cause_is_told_from_its_effects() {
        let lost_peer = || exited(1, Some("PeerLost"));
        for (name, states, want) in [
            ("healthy", vec![RankState::Running, RankState::Finished], None),
            (
                "a signal",
                vec![lost_peer(), RankState::Killed { signal: 9 }],
                Some((1, "RankKilled")),
            ),
            ("own failure", vec![lost_peer(), exited(1, None)], Some((1, "RankExited"))),
            (
                "bad data ends the job, whoever died first",
                vec![RankState::Killed { signal: 9 }, exited(65, Some("BadData"))],
                Some((1, "BadData")),
            ),
            ("nobody says it was him", vec![lost_peer(), lost_peer()], Some((0, "PeerLost"))),
        ] {
            let ranks: Vec<_> =
                states.into_iter().zip(0..).map(|(state, number)| rank(number, state)).collect();
            let found = of_ranks(ranks.iter().map(|report| (0, report)));
            let found = found.map(|cause| (cause.failure.rank.unwrap(), cause.failure.reason));
            assert_eq!(found, want.map(|(rank, reason)| (rank, reason.to_owned())), "{name}");
        }
    }

    #[test]
    fn a_hang_is_put_down_to_the_rank_that_is_behind() {
        let mut waiting = rank(0, RankState::Running);
        waiting.step = 13;
        waiting.silent_milliseconds = 30_001;
        let mut stopped = rank(1, RankState::Running);
        stopped.silent_milliseconds = 29_990;
        let cause = of_ranks([(0, &waiting), (1, &stopped)].into_iter()).unwrap();
        assert_eq!((cause.failure.rank, cause.failure.reason.as_str()), (Some(1), "RankHung"));

        let mut stuck = rank(2, RankState::Running);
        (stuck.step, stuck.silent_milliseconds) = (13, 30_001);
        stuck.standstill = Standstill::of_stat("71 (a) R b) D 1 71");
        let ranks = [(0, &waiting), (1, &stopped), (2, &stuck)];
        let failure = of_ranks(ranks.into_iter()).unwrap().failure;
        assert_eq!(failure.rank, Some(2));
        assert!(failure.message.ends_with("waits for a device or a volume"), "{failure:?}");
    }

    #[test]
    fn messages_say_what_where_and_what_to_do() {
        let report = rank(3, RankState::Killed { signal: 9 });
        let cause = of_ranks(std::iter::once((1, &report))).unwrap();
        assert_eq!(
            cause.failure.message,
            "rank 3 (agent 1) was ended by SIGKILL after step 12; if its memory ran out, raise \
             workers.resources.limits.memory"
        );
        assert_eq!(cause.exit_code, 137);
    }
}
