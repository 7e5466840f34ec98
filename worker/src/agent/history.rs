//! The run's curves in bounded memory, whatever the number of steps.
//!
//! Each curve keeps every n-th of its points, and n doubles when it is full:
//! points stay evenly spaced, which dropping every second one now and then
//! would not leave them.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use hearth_crds::history::HistoryPoint;
use hearth_crds::training_job::Evaluation;

/// Most training points kept, and most evaluations: at 300 bytes each, a
/// document of 900 kB.
const MOST_STEPS: usize = 2048;
const MOST_EVALUATIONS: usize = 1024;

/// Training steps and evaluations so far.
#[derive(Clone, Debug)]
pub struct Curves {
    steps: Thinned,
    evaluations: Thinned,
}

impl Default for Curves {
    fn default() -> Self {
        Self { steps: Thinned::new(MOST_STEPS), evaluations: Thinned::new(MOST_EVALUATIONS) }
    }
}

impl Curves {
    /// What a run wrote to `metrics.jsonl` before this agent began. What is
    /// not there or not a line is passed over.
    pub fn read(output: &Path) -> Self {
        let mut curves = Self::default();
        let Ok(file) = File::open(output.join("metrics.jsonl")) else { return curves };
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            if let Some(point) = HistoryPoint::of_line(&String::from_utf8_lossy(&line)) {
                curves.add(point);
            }
        }
        curves
    }

    /// Adds a point. One of a step that is there already is of a later
    /// attempt, and what came after that step is trained again.
    pub fn add(&mut self, point: HistoryPoint) {
        if point.is_evaluation() {
            self.evaluations.forget_after(point.step - 1);
            self.evaluations.add(point);
        } else {
            self.forget_after(point.step - 1);
            self.steps.add(point);
        }
    }

    /// Training goes on after `step`.
    pub fn forget_after(&mut self, step: i64) {
        self.steps.forget_after(step);
        self.evaluations.forget_after(step);
    }

    /// The evaluations among them, oldest first.
    pub fn evaluations(&self) -> impl Iterator<Item = Evaluation> {
        self.evaluations.points().into_iter().map(|point| {
            let evaluation = Evaluation {
                step: point.step,
                loss: point.eval_loss,
                accuracy: point.accuracy,
                f1: point.f1,
                f1_macro: point.f1_macro,
                roc_auc: point.roc_auc,
                average_precision: point.average_precision,
                r2: point.r2,
            };
            evaluation.rounded()
        })
    }

    /// All points by their steps; an evaluation comes after its step.
    pub fn points(&self) -> Vec<HistoryPoint> {
        let mut points = [self.steps.points(), self.evaluations.points()].concat();
        points.sort_by_key(|point| point.step);
        points
    }
}

/// Every n-th of the points that were added, and the newest.
#[derive(Clone, Debug)]
struct Thinned {
    most: usize,
    every: u64,
    added: u64,
    /// With their numbers among all that were added.
    kept: Vec<(u64, HistoryPoint)>,
    newest: Option<HistoryPoint>,
}

impl Thinned {
    fn new(most: usize) -> Self {
        Self { most, every: 1, added: 0, kept: Vec::new(), newest: None }
    }

    fn add(&mut self, point: HistoryPoint) {
        let number = self.added;
        self.added += 1;
        if number.is_multiple_of(self.every) && self.kept.len() == self.most {
            self.every *= 2;
            self.kept.retain(|(number, _)| number.is_multiple_of(self.every));
        }
        if number.is_multiple_of(self.every) {
            self.kept.push((number, point.clone()));
        }
        self.newest = Some(point);
    }

    fn forget_after(&mut self, step: i64) {
        if self.newest.as_ref().is_none_or(|newest| newest.step <= step) {
            return;
        }
        self.kept.retain(|(_, point)| point.step <= step);
        self.newest = self.kept.last().map(|(_, point)| point.clone());
        self.added = self.kept.last().map_or(0, |(number, _)| number + 1);
        if self.kept.is_empty() {
            self.every = 1;
        }
    }

    fn points(&self) -> Vec<HistoryPoint> {
        let newest = self
            .newest
            .iter()
            .filter(|newest| self.kept.last().is_none_or(|(_, last)| last.step < newest.step));
        self.kept.iter().map(|(_, point)| point).chain(newest).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn trained(step: i64) -> HistoryPoint {
        HistoryPoint { step, loss: Some(0.5), ..HistoryPoint::default() }
    }

    fn evaluated(step: i64) -> HistoryPoint {
        HistoryPoint { step, eval_loss: Some(0.5), ..HistoryPoint::default() }
    }

    fn steps(curves: &Curves) -> Vec<i64> {
        curves.points().iter().map(|point| point.step).collect()
    }

    #[test]
    fn memory_is_bounded_and_points_stay_evenly_spaced() {
        let mut curves = Curves::default();
        for step in 1..=100_001 {
            curves.add(trained(step));
            if step % 10 == 0 {
                curves.add(evaluated(step));
            }
        }
        let (trained, evaluated): (Vec<_>, Vec<_>) =
            curves.points().into_iter().partition(|point| !point.is_evaluation());
        for (points, most, newest) in
            [(trained, MOST_STEPS, 100_001), (evaluated, MOST_EVALUATIONS, 100_000)]
        {
            assert!((most / 2..=most + 1).contains(&points.len()), "{} points", points.len());
            assert_eq!(points.last().unwrap().step, newest);
            let gaps: Vec<i64> = points.windows(2).map(|two| two[1].step - two[0].step).collect();
            let (_, even) = gaps.split_last().unwrap();
            assert_eq!(even.iter().min(), even.iter().max(), "the spacing is even");
        }
    }

    #[test]
    fn what_is_trained_again_is_forgotten() {
        let mut curves = Curves::default();
        for step in 1..=10 {
            curves.add(trained(step));
        }
        curves.add(evaluated(5));
        curves.add(evaluated(10));
        curves.forget_after(6);
        assert_eq!(steps(&curves), [1, 2, 3, 4, 5, 5, 6]);
        // Without a checkpoint nobody tells where training goes on.
        curves.add(trained(1));
        curves.add(trained(2));
        assert_eq!(steps(&curves), [1, 2]);
    }

    #[test]
    fn a_new_agent_goes_on_from_the_journal() {
        let output = tempfile::tempdir().unwrap();
        assert_eq!(steps(&Curves::read(output.path())), [0; 0]);
        let mut file = File::create(output.path().join("metrics.jsonl")).unwrap();
        let lines = "{\"step\":10,\"loss\":0.5}\n{\"step\":10,\"eval\":{\"loss\":0.4}}\n\
                     {\"step\":20,\"loss\":0.3}\n{\"step\":30,\"lo";
        file.write_all(lines.as_bytes()).unwrap();
        let mut curves = Curves::read(output.path());
        curves.add(trained(11));
        assert_eq!(steps(&curves), [10, 10, 11]);
    }
}
