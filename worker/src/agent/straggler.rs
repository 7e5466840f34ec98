//! Finds the rank that all others of its gang wait for.
//!
//! In: each rank's newest steps ([`Pace`]), which its agent takes from its events and sends with
//! every beat. Out: a sentence, once. All ranks of a gang have the same time a step, so they are
//! compared by what is their own of it: the step without the wait for other ranks. On GPUs the
//! host cannot tell that wait from its kernels', and only the wait for data is compared. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hearth_crds::training_job::Parallelism;
use serde::{Deserialize, Serialize};

use crate::event::{Phase, RankEvent};
use crate::parallel::Layout;
use crate::parallel::layout::{EXPERT, PIPELINE};

/// Why a rank is told of.
pub const REASON: &str = "Straggler";

/// Steps over which the medians are taken.
const WINDOW: usize = 20;
/// Of a rank's start: they allocate, connect and warm up.
const FIRST_STEPS: u64 = 5;
/// A rank lags whose own time is so many times that of the others…
const FACTOR: f64 = 1.5;
/// …and so much of the step longer.
const SHARE: f64 = 0.2;
/// One that was told has recovered below these.
const RECOVERED_FACTOR: f64 = 1.25;
const RECOVERED_SHARE: f64 = 0.1;
/// Looks in a row that must agree, each of [`WINDOW`] new steps of every rank.
const LOOKS: u32 = 3;
/// Least time between two looks, so that a moment's trouble is none where steps are short.
const BETWEEN_LOOKS: Duration = Duration::from_secs(4);

/// A rank's newest steps: medians.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pace {
    /// Steps counted since the rank started.
    pub steps: u64,
    /// Seconds of a step.
    pub seconds: f64,
    /// Seconds of it in which the rank waited for its data.
    pub data_seconds: f64,
    /// Seconds of it in which the rank did not wait for other ranks; `None` where that is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_seconds: Option<f64>,
}

/// Follows one rank's steps.
#[derive(Clone, Debug, Default)]
pub struct PaceMeter {
    heard: u64,
    counted: u64,
    /// Something else than training came after the newest step.
    interrupted: bool,
    steps: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    data: f64,
    own: Option<f64>,
}

impl PaceMeter {
    /// Takes note of an event. The first steps, and each step after an evaluation or a
    /// checkpoint, do not count.
    pub fn hear(&mut self, event: &RankEvent) {
        match event {
            RankEvent::Phase { phase, .. } => self.interrupted |= *phase != Phase::Training,
            RankEvent::Step(report) => {
                self.heard += 1;
                let interrupted = std::mem::take(&mut self.interrupted);
                if self.heard <= FIRST_STEPS || interrupted {
                    return;
                }
                if self.steps.len() == WINDOW {
                    self.steps.pop_front();
                }
                self.steps.push_back(Sample {
                    seconds: report.seconds,
                    data: report.data_seconds,
                    own: report.blocked_seconds.map(|blocked| report.seconds - blocked),
                });
                self.counted += 1;
            }
            _ => {}
        }
    }

    /// The pace, once there are steps enough.
    pub fn pace(&self) -> Option<Pace> {
        if self.steps.len() < WINDOW {
            return None;
        }
        let of = |value: fn(&Sample) -> f64| median(self.steps.iter().map(value));
        let own: Option<Vec<f64>> = self.steps.iter().map(|step| step.own).collect();
        Some(Pace {
            steps: self.counted,
            seconds: of(|step| step.seconds)?,
            data_seconds: of(|step| step.data)?,
            own_seconds: own.and_then(|own| median(own.into_iter())),
        })
    }
}

/// One rank of the gang, as agent 0 knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Runner {
    /// `RANK`.
    pub rank: u32,
    /// Agent that runs it.
    pub agent: u32,
    /// Its newest steps, where it has made enough.
    pub pace: Option<Pace>,
}

/// Which of `ranks` have the same work: those of one stage, and with the same experts.
pub fn class(ways: &Parallelism, rank: u32, ranks: usize) -> Option<usize> {
    let layout = Layout::new(ways, rank as usize, ranks).ok()?;
    let (stage, experts) = (layout.along(PIPELINE), layout.along(EXPERT));
    Some(stage.0 * experts.1 + experts.0)
}

/// What a look finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A rank holds up the others.
    Lags(Told),
    /// A rank that was told of no longer does.
    Recovered {
        /// Which.
        rank: u32,
    },
}

/// A rank that holds up the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Agent that runs it.
    pub agent: u32,
    /// One sentence: which rank, how slow, in what, and what to do.
    pub message: String,
}

/// How a rank did in the newest looks.
#[derive(Clone, Debug, Default)]
struct Record {
    told: Option<Told>,
    /// Looks in a row that speak against what is told.
    against: u32,
}

/// Compares the ranks of a gang.
#[derive(Clone, Debug, Default)]
pub struct Stragglers {
    generation: u32,
    looked: Duration,
    /// Steps of each rank at the newest look.
    steps: BTreeMap<u32, u64>,
    records: BTreeMap<u32, Record>,
}

impl Stragglers {
    /// One that still holds up the others.
    pub fn told(&self) -> Option<&Told> {
        self.records.values().find_map(|record| record.told.as_ref())
    }

    /// Looks at the ranks of `generation`, as often as the caller likes; a new generation starts
    /// anew. Only ranks of the same [`class`] are compared. The worst of several comes last.
    pub fn look(
        &mut self,
        (generation, ranks): (u32, &[Runner]),
        class: impl Fn(u32) -> Option<usize>,
        now: Duration,
    ) -> Vec<Finding> {
        if generation != self.generation {
            *self = Self { generation, looked: now, ..Self::default() };
        }
        if !self.is_due(ranks, now) {
            return Vec::new();
        }
        self.looked = now;
        self.steps = ranks.iter().filter_map(|of| Some((of.rank, of.pace?.steps))).collect();

        let classes: Vec<Option<usize>> = ranks.iter().map(|runner| class(runner.rank)).collect();
        let mut lags: Vec<(f64, Finding)> = Vec::new();
        let mut recovered = Vec::new();
        for (runner, own_class) in ranks.iter().zip(&classes) {
            let peers = ranks
                .iter()
                .zip(&classes)
                .filter(|(peer, class)| peer.rank != runner.rank && *class == own_class)
                .filter_map(|(peer, _)| peer.pace.filter(|_| own_class.is_some()));
            let Some(lag) = Lag::of(runner.pace, peers) else { continue };
            let record = self.records.entry(runner.rank).or_default();
            let is_against = if record.told.is_some() { lag.is_over() } else { lag.matters() };
            record.against = if is_against { record.against + 1 } else { 0 };
            if record.against < LOOKS {
                continue;
            }
            record.against = 0;
            if record.told.take().is_some() {
                recovered.push(Finding::Recovered { rank: runner.rank });
            } else {
                let told = Told { agent: runner.agent, message: lag.sentence(runner) };
                record.told = Some(told.clone());
                lags.push((lag.excess(), Finding::Lags(told)));
            }
        }
        lags.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        recovered.into_iter().chain(lags.into_iter().map(|(_, finding)| finding)).collect()
    }

    /// Every rank has made a window of steps since the newest look.
    fn is_due(&self, ranks: &[Runner], now: Duration) -> bool {
        let is_new = |runner: &Runner| {
            let before = self.steps.get(&runner.rank).copied().unwrap_or(0);
            runner.pace.is_some_and(|pace| pace.steps >= before + WINDOW as u64)
        };
        ranks.len() > 1 && now >= self.looked + BETWEEN_LOOKS && ranks.iter().all(is_new)
    }
}

/// A rank's time against that of its peers.
#[derive(Clone, Copy, Debug)]
struct Lag {
    /// Of a step.
    seconds: f64,
    /// Own time or, where that is not known, the wait for data.
    own: f64,
    others: f64,
    /// The wait for data.
    data: f64,
    others_data: f64,
    only_data: bool,
}

impl Lag {
    /// `None` for a rank that no other has the work of.
    fn of(pace: Option<Pace>, peers: impl Iterator<Item = Pace> + Clone) -> Option<Self> {
        let pace = pace?;
        let others_data = median(peers.clone().map(|peer| peer.data_seconds))?;
        let others_own: Option<Vec<f64>> = peers.map(|peer| peer.own_seconds).collect();
        let own = pace.own_seconds.zip(others_own.and_then(|own| median(own.into_iter())));
        let (seconds, data) = (pace.seconds, pace.data_seconds);
        let (own, others, only_data) = match own {
            Some((own, others)) => (own, others, false),
            None => (data, others_data, true),
        };
        Some(Self { seconds, own, others, data, others_data, only_data })
    }

    fn excess(&self) -> f64 {
        self.own - self.others
    }

    fn matters(&self) -> bool {
        self.own > FACTOR * self.others && self.excess() >= SHARE * self.seconds
    }

    fn is_over(&self) -> bool {
        self.own < RECOVERED_FACTOR * self.others || self.excess() < RECOVERED_SHARE * self.seconds
    }

    fn sentence(&self, runner: &Runner) -> String {
        let Runner { rank, agent, .. } = runner;
        let who = format!("rank {rank} (agent {agent}) holds up the others");
        if self.only_data || 2.0 * (self.data - self.others_data) > self.excess() {
            let (own, others) = (milliseconds(self.data), milliseconds(self.others_data));
            return format!(
                "{who}: it waits {own} a step for its data, the others {others}; see what slows its node's way to the data"
            );
        }
        let own = milliseconds(self.own - self.data);
        let others = milliseconds(self.others - self.others_data);
        format!(
            "{who}: it computes {own} a step, the others {others}; see what else uses its node, and whether its processor is throttled"
        )
    }
}

fn milliseconds(seconds: f64) -> String {
    let milliseconds = seconds * 1e3;
    if milliseconds < 10.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

/// The lower of the two in the middle, where there are two.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
#[path = "straggler_stories.rs"]
mod stories;
