//! What a sweep does next: a pure function of its trials.

use hearth_crds::hyperparam_sweep::{Goal, TrialCounts};
use hearth_crds::training_job::{Stop, StopReason, TrainingJob, five_digits};

use super::gather::Observed;
use super::search::halving::Climb;
use super::search::median::Median;
use super::search::{self, Method, space::Point};
use super::trial::{self, State, Trial};
use super::validate::ValidSweep;

/// So many points in a row, each refused as a job, end a search.
const REFUSED_IN_A_ROW: usize = 64;

/// What a sweep does next, and how it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Jobs of new trials.
    pub start: Vec<TrainingJob>,
    /// Jobs of running trials that are to stop, and why.
    pub stop: Vec<(String, Stop)>,
    /// Trials by outcome, the new ones included.
    pub counts: TrialCounts,
    /// The best trial, with its metric.
    pub best: Option<(Trial, f64)>,
    /// Why the trial failed that failed last, with its number and rung.
    pub last_failure: Option<((usize, usize), String)>,
    /// Set where no trial is to come.
    pub end: Option<End>,
    /// The store lags behind what was written: look again soon.
    pub catching_up: bool,
}

/// How a sweep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All trials have ended.
    Done,
    /// More failed than may.
    TooManyFailed,
    /// None has a metric.
    NoMetric,
}

/// Decides. A combination that no job can have takes its number and counts as failed.
pub fn decide(valid: &ValidSweep, seen: &Observed) -> Decision {
    let mut run = Run { valid, trials: with_gaps(valid, &seen.trials), start: Vec::new() };
    let limits = &valid.spec.trials;
    let exhausted = !seen.catching_up && run.fill();
    let stop = if seen.catching_up { Vec::new() } else { behind(valid, &seen.trials) };
    let counts = run.counts();
    let best = best(&run.trials, valid.spec.objective.goal);
    let last_failure = run.trials.iter().rev().find_map(|trial| match &trial.state {
        State::Failed(why) => Some(((trial.number, trial.rung), why.clone())),
        _ => None,
    });
    let full = run.trials.len() >= size(limits.max) || exhausted;
    let end = match () {
        () if counts.running > 0 || seen.catching_up => None,
        () if counts.failed > limits.max_failed => Some(End::TooManyFailed),
        () if full && best.is_none() => Some(End::NoMetric),
        () if full => Some(End::Done),
        () => None,
    };
    let (start, catching_up) = (run.start, seen.catching_up);
    Decision { start, stop, counts, best, last_failure, end, catching_up }
}

/// Running trials that early stopping ends, by the names of their jobs.
fn behind(valid: &ValidSweep, trials: &[Trial]) -> Vec<(String, Stop)> {
    let Some(rule) = &valid.spec.early_stopping else { return Vec::new() };
    let (metric, goal) = (valid.spec.objective.metric.as_str(), valid.spec.objective.goal);
    let late = |trial: &&Trial| {
        let newest = trial.curve.last();
        newest.is_some_and(|(step, _)| *step >= rule.start_step.unsigned_abs())
    };
    let running = trials.iter().filter(|trial| trial.state == State::Running && !trial.stopping);
    let mut judged = running.filter(late).peekable();
    if judged.peek().is_none() {
        return Vec::new();
    }
    let losses = |trial: &Trial| -> Vec<(u64, f64)> {
        trial.curve.iter().map(|(step, value)| (*step, loss(*value, goal))).collect()
    };
    let ended = trials.iter().filter(|trial| matches!(trial.state, State::Succeeded(_)));
    let ended: Vec<_> = ended.map(losses).collect();
    let mut median = Median::of(ended.iter().map(Vec::as_slice), size(rule.min_trials));
    let stop = |trial: &Trial| {
        let found = median.judge(&losses(trial))?;
        // A loss is a value with its sign changed, or not: the same again gives the value.
        let [best, others] = [found.best, found.median].map(|told| five_digits(loss(told, goal)));
        let message = format!(
            "stopped at step {}: its best {metric} so far is {best}, and the median of the trials that succeeded was {others} by then",
            found.step
        );
        let stop = Stop { reason: StopReason::EarlyStopped, message };
        Some((valid.job_name(trial.number, trial.rung), stop))
    };
    judged.filter_map(stop).collect()
}

struct Run<'a> {
    valid: &'a ValidSweep,
    trials: Vec<Trial>,
    start: Vec<TrainingJob>,
}

impl Run<'_> {
    /// Starts what may start, promotions first; whether the space has no further point, or none that
    /// is not refused.
    fn fill(&mut self) -> bool {
        let mut refused = 0;
        let seed = self.valid.spec.algorithm.seed.unsigned_abs();
        let mut history: Vec<search::Trial> = Vec::new();
        while self.has_room() {
            if self.promote() {
                continue;
            }
            let number = self.trials.len();
            if number >= size(self.valid.spec.trials.max) {
                return false;
            }
            history.extend(self.trials[history.len()..].iter().map(|trial| self.remembered(trial)));
            let next = search::next(&self.valid.space, self.valid.method, seed, &history);
            let Some(point) = next else { return true };
            let state = self.begin((number, 0), &point);
            refused = if state == State::Running { 0 } else { refused + 1 };
            self.trials.push(Trial::new(number, point, state));
            // A grid ends by itself, and costs little.
            if refused == REFUSED_IN_A_ROW && self.valid.method != Method::Grid {
                return true;
            }
        }
        false
    }

    /// Sends the trial to its next rung that has earned it, if one has.
    fn promote(&mut self) -> bool {
        let Some(ladder) = self.valid.ladder else { return false };
        let goal = self.valid.spec.objective.goal;
        let climbs: Vec<Climb> = self.trials.iter().map(|trial| climb(trial, goal)).collect();
        let Some((number, rung)) = ladder.promotion(&climbs) else { return false };
        let point = self.trials[number].point.clone();
        self.trials[number].state = self.begin((number, rung), &point);
        self.trials[number].rung = rung;
        true
    }

    fn begin(&mut self, place: (usize, usize), point: &Point) -> State {
        match trial::job(self.valid, place, point) {
            Ok(job) => {
                self.start.push(job);
                State::Running
            }
            Err(why) => State::Failed(why),
        }
    }

    fn has_room(&self) -> bool {
        let (counts, limits) = (self.counts(), &self.valid.spec.trials);
        counts.running < limits.parallel && counts.failed <= limits.max_failed
    }

    fn remembered(&self, trial: &Trial) -> search::Trial {
        let (value, stopped) = match trial.state {
            State::Succeeded(value) => (Some(value), false),
            State::Stopped(value) => (value, true),
            State::Running | State::Failed(_) => (None, false),
        };
        let loss = value.map(|value| loss(value, self.valid.spec.objective.goal));
        search::Trial { point: trial.point.clone(), loss, stopped }
    }

    fn counts(&self) -> TrialCounts {
        let mut counts = TrialCounts::default();
        for trial in &self.trials {
            *match trial.state {
                State::Running => &mut counts.running,
                State::Succeeded(_) => &mut counts.succeeded,
                State::Stopped(_) => &mut counts.stopped,
                State::Failed(_) => &mut counts.failed,
            } += 1;
        }
        counts
    }
}

/// All numbers up to the highest: those without a job were refused, or were deleted since.
fn with_gaps(valid: &ValidSweep, trials: &[Trial]) -> Vec<Trial> {
    let mut all: Vec<Trial> = Vec::with_capacity(trials.len());
    let nowhere = Point(vec![None; valid.space.dimensions().len()]);
    for trial in trials {
        while all.len() < trial.number {
            let why = "its combination was refused, or its TrainingJob was deleted".to_owned();
            let (number, point) = (all.len(), nowhere.clone());
            all.push(Trial::new(number, point, State::Failed(why)));
        }
        if all.len() == trial.number {
            all.push(trial.clone());
        }
    }
    all
}

/// The best of those that came furthest: metrics after different numbers of steps say little about
/// each other. A trial that was stopped has no model, and is never the best.
fn best(trials: &[Trial], goal: Goal) -> Option<(Trial, f64)> {
    let furthest = trials.iter().map(|trial| trial.reached.len()).max()?;
    let there = trials.iter().filter(|trial| trial.reached.len() == furthest);
    // The earliest of equals.
    there
        .filter_map(|trial| Some((trial, trial.last_rung()?.1)))
        .min_by(|a, b| loss(a.1, goal).total_cmp(&loss(b.1, goal)))
        .map(|(trial, value)| (trial.clone(), value))
}

fn climb(trial: &Trial, goal: Goal) -> Climb {
    Climb {
        losses: trial.reached.iter().map(|value| loss(*value, goal)).collect(),
        rests: matches!(trial.state, State::Succeeded(_)),
    }
}

fn loss(value: f64, goal: Goal) -> f64 {
    match goal {
        Goal::Minimize => value,
        Goal::Maximize => -value,
    }
}

fn size(number: i32) -> usize {
    usize::try_from(number).unwrap_or(0)
}
