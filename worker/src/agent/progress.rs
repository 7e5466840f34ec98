//! Turns rank 0's events into figures for status, and keeps their history.
//!
//! Pure: the caller supplies the time of day.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use hearth_crds::history::HistoryPoint;
use hearth_crds::training_job::{CheckpointStatus, Evaluation, ModelStatus, TrainingProgress};
use hearth_crds::worker_config::{MOST_EVALUATIONS, ResourceUse, WorkerNote, WorkerState, thinned};

use super::history::Curves;
use super::straggler;
use crate::event::{EvalMetrics, Phase, RankEvent, StepReport};

/// Steps over which rates are averaged.
const RATE_WINDOW: usize = 20;
/// Notes kept.
const MOST_NOTES: usize = 8;

/// What is known of the training so far.
#[derive(Clone, Debug)]
pub struct Progress {
    output: PathBuf,
    output_uri: String,
    figures: TrainingProgress,
    phase: Phase,
    checkpoint: Option<CheckpointStatus>,
    model: Option<ModelStatus>,
    window: VecDeque<StepReport>,
    curves: Curves,
    notes: Vec<WorkerNote>,
}

impl Progress {
    /// Nothing yet, but for the curves of an earlier attempt. Paths below
    /// `output` are told as URIs below `output_uri`.
    pub fn new(output: &Path, output_uri: &str, curves: Curves) -> Self {
        Self {
            output: output.to_owned(),
            output_uri: output_uri.trim_end_matches('/').to_owned(),
            figures: TrainingProgress::default(),
            phase: Phase::Loading,
            checkpoint: None,
            model: None,
            window: VecDeque::new(),
            curves,
            notes: Vec::new(),
        }
    }

    /// A new gang loads.
    pub fn restart(&mut self) {
        self.phase = Phase::Loading;
        self.window.clear();
        self.forget(straggler::REASON);
    }

    /// Takes an event of rank 0 that was read at `time` (RFC 3339).
    pub fn take(&mut self, event: &RankEvent, time: &str) {
        match event {
            RankEvent::Phase { phase, .. } => self.phase = *phase,
            RankEvent::Step(report) => self.take_step(report, time),
            RankEvent::Evaluation { step, epoch, metrics, .. } => {
                self.take_metrics(metrics);
                self.curves.add(HistoryPoint {
                    step: *step,
                    epoch: *epoch,
                    time: time.to_owned(),
                    eval_loss: Some(metrics.loss),
                    accuracy: metrics.accuracy,
                    f1: metrics.f1,
                    f1_macro: metrics.f1_macro,
                    roc_auc: metrics.roc_auc,
                    average_precision: metrics.average_precision,
                    r2: metrics.r2,
                    ..HistoryPoint::default()
                });
            }
            RankEvent::Checkpoint { step, path, best, .. } => {
                let (time, uri) = (time.to_owned(), self.uri(path));
                self.checkpoint = Some(CheckpointStatus { step: *step, time, uri, best: *best });
            }
            RankEvent::Resumed { step, .. } => {
                self.figures.step = *step;
                self.curves.forget_after(*step);
            }
            RankEvent::Finished { step, total, metrics, model, digest, .. } => {
                self.figures.step = *step;
                self.figures.total_steps = *total;
                self.figures.eta_seconds = Some(0);
                self.figures.eta = Some(for_people(0));
                if let Some(metrics) = metrics {
                    self.take_metrics(metrics);
                }
                if let (Some(model), Some(digest)) = (model, digest) {
                    self.model = Some(ModelStatus { uri: self.uri(model), digest: digest.clone() });
                }
            }
            RankEvent::Note { reason, message } => self.note(reason, message, None),
            RankEvent::Started { .. } | RankEvent::Failed { .. } => {}
        }
    }

    /// Figures for status.
    pub fn figures(&self) -> &TrainingProgress {
        &self.figures
    }

    /// The newest complete checkpoint.
    pub fn checkpoint(&self) -> Option<&CheckpointStatus> {
        self.checkpoint.as_ref()
    }

    /// The exported model, once rank 0 has finished.
    pub fn model(&self) -> Option<&ModelStatus> {
        self.model.as_ref()
    }

    /// What people should know, the newest of each reason, oldest first.
    pub fn notes(&self) -> &[WorkerNote] {
        &self.notes
    }

    /// Evaluations so far, oldest first, as a status or a result holds them.
    pub fn evaluations(&self) -> Vec<Evaluation> {
        let evaluations: Vec<Evaluation> = self.curves.evaluations().collect();
        thinned(&evaluations, MOST_EVALUATIONS)
    }

    /// Points so far, oldest first.
    pub fn history(&self) -> Vec<HistoryPoint> {
        self.curves.points()
    }

    /// What the newest steps made of `devices` that draw `watts` together;
    /// `None` before the first step of a gang.
    pub fn resources(&self, devices: u32, watts: Option<f64>) -> Option<ResourceUse> {
        let rates = Rates::of(&self.window)?;
        let (devices, watts) = (f64::from(devices), watts.filter(|watts| *watts > 0.0));
        Some(ResourceUse {
            data_wait_ratio: rates.data_wait_ratio,
            samples_per_device_second: rates.samples_per_second / devices,
            tokens_per_device_second: rates.tokens_per_second / devices,
            power_watts: watts,
            samples_per_joule: watts.map(|watts| rates.samples_per_second / watts),
            tokens_per_joule: watts.map(|watts| rates.tokens_per_second / watts),
        })
    }

    /// What rank 0 does, as a state of the job.
    pub fn state(&self) -> WorkerState {
        match self.phase {
            Phase::Loading => WorkerState::Starting,
            Phase::Training | Phase::Saving => WorkerState::Training,
            Phase::Evaluating => WorkerState::Evaluating,
            Phase::Exporting => WorkerState::Exporting,
        }
    }

    fn take_step(&mut self, report: &StepReport, time: &str) {
        self.phase = Phase::Training;
        if self.window.len() == RATE_WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(*report);
        let rates = Rates::of(&self.window);
        let figures = &mut self.figures;
        figures.step = report.step;
        figures.total_steps = report.total;
        figures.epoch = report.epoch;
        // A step that was left out has no figures; those before it stand.
        let (loss, grad_norm) = (finite(report.loss), finite(report.grad_norm));
        figures.loss = loss.or(figures.loss);
        figures.learning_rate = Some(report.learning_rate);
        figures.grad_norm = grad_norm.or(figures.grad_norm);
        if let Some(rates) = rates {
            figures.tokens_per_second = Some(rates.tokens_per_second).filter(|of| *of > 0.0);
            figures.samples_per_second = Some(rates.samples_per_second);
            let left = (report.total - report.step).max(0) as f64;
            let eta = whole_seconds(left * rates.seconds_per_step);
            figures.eta_seconds = Some(eta);
            figures.eta = Some(for_people(eta));
        }
        self.curves.add(HistoryPoint {
            step: report.step,
            epoch: report.epoch,
            time: time.to_owned(),
            loss,
            learning_rate: Some(report.learning_rate),
            grad_norm,
            tokens_per_second: figures.tokens_per_second,
            samples_per_second: rates.map(|rates| rates.samples_per_second),
            data_wait_ratio: rates.map(|rates| rates.data_wait_ratio),
            ..HistoryPoint::default()
        });
    }

    /// Takes what people should know; of `agent`, where it is of one.
    pub fn note(&mut self, reason: &str, message: &str, agent: Option<u32>) {
        self.forget(reason);
        if self.notes.len() == MOST_NOTES {
            self.notes.remove(0);
        }
        self.notes.push(WorkerNote {
            reason: reason.to_owned(),
            message: message.to_owned(),
            step: self.figures.step,
            agent,
        });
    }

    /// What was noted for this reason holds no longer.
    pub fn forget(&mut self, reason: &str) {
        self.notes.retain(|note| note.reason != reason);
    }

    fn take_metrics(&mut self, metrics: &EvalMetrics) {
        self.figures.eval_loss = Some(metrics.loss);
        self.figures.accuracy = metrics.accuracy;
        self.figures.f1 = metrics.f1;
        self.figures.f1_macro = metrics.f1_macro;
        self.figures.roc_auc = metrics.roc_auc;
        self.figures.average_precision = metrics.average_precision;
        self.figures.r2 = metrics.r2;
    }

    fn uri(&self, path: &Path) -> String {
        match path.strip_prefix(&self.output) {
            Ok(below) => format!("{}/{}", self.output_uri, below.display()),
            Err(_) if path.starts_with("s3:") => path.display().to_string(),
            Err(_) => format!("file://{}", path.display()),
        }
    }
}

fn finite(figure: f64) -> Option<f64> {
    figure.is_finite().then_some(figure)
}

/// Means over some steps.
#[derive(Clone, Copy, Debug)]
struct Rates {
    seconds_per_step: f64,
    tokens_per_second: f64,
    samples_per_second: f64,
    data_wait_ratio: f64,
}

impl Rates {
    /// `None` where no time passed.
    fn of(steps: &VecDeque<StepReport>) -> Option<Self> {
        let sum = |part: fn(&StepReport) -> f64| steps.iter().map(part).sum::<f64>();
        let seconds = sum(|step| step.seconds);
        (seconds > 0.0).then(|| Self {
            seconds_per_step: seconds / steps.len() as f64,
            tokens_per_second: sum(|step| step.tokens as f64) / seconds,
            samples_per_second: sum(|step| step.samples as f64) / seconds,
            data_wait_ratio: sum(|step| step.data_seconds) / seconds,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an estimate, in range after the clamp")]
fn whole_seconds(seconds: f64) -> i64 {
    seconds.clamp(0.0, 1e12).round() as i64
}

/// `45s`, `3m20s`, `2h05m`.
fn for_people(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        Progress::new(Path::new("/out"), "pvc://models/spam/", Curves::default())
    }

    fn step(step: i64) -> RankEvent {
        RankEvent::Step(StepReport {
            step,
            total: 100,
            loss: 0.5,
            tokens: 640,
            samples: 16,
            seconds: 2.0,
            data_seconds: 0.5,
            ..StepReport::default()
        })
    }

    #[test]
    fn steps_give_rates_and_the_time_left() {
        let mut progress = progress();
        progress.take(&step(1), "t");
        progress.take(&step(2), "t");
        let figures = progress.figures();
        assert_eq!(figures.tokens_per_second, Some(320.0));
        assert_eq!(figures.samples_per_second, Some(8.0));
        assert_eq!(figures.eta_seconds, Some(196));
        assert_eq!(figures.eta.as_deref(), Some("3m16s"));
        assert_eq!(progress.state(), WorkerState::Training);
    }

    #[test]
    fn what_is_trained_again_leaves_the_history() {
        let mut progress = progress();
        for number in 1..=10 {
            progress.take(&step(number), "t");
        }
        progress.restart();
        progress.take(&RankEvent::Resumed { step: 6, path: "/out/x".into() }, "t");
        progress.take(&step(7), "t");
        let steps: Vec<i64> = progress.history().iter().map(|point| point.step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn evaluations_are_told_and_bounded() {
        let mut progress = progress();
        for number in 1..=100 {
            progress.take(&step(number), "t");
            let metrics = EvalMetrics {
                loss: f64::NAN,
                accuracy: Some(1.0 / 3.0),
                f1_macro: Some(0.5),
                ..EvalMetrics::default()
            };
            let event = RankEvent::Evaluation { step: number, epoch: 0.5, best: false, metrics };
            progress.take(&event, "t");
        }
        let told = progress.evaluations();
        let steps: Vec<i64> = told.iter().map(|evaluation| evaluation.step).collect();
        assert_eq!(steps[..3], [1, 5, 9]);
        assert_eq!((steps.len(), steps.last()), (26, Some(&100)));
        let want = Evaluation {
            step: 1,
            accuracy: Some(0.33333),
            f1_macro: Some(0.5),
            ..Evaluation::default()
        };
        assert_eq!(told[0], want);
        progress.take(&RankEvent::Resumed { step: 6, path: "/out/x".into() }, "t");
        let steps: Vec<i64> = progress.evaluations().iter().map(|e| e.step).collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn resources_are_counted_for_each_device_and_joule() {
        let mut progress = progress();
        assert_eq!(progress.resources(2, None), None);
        progress.take(&step(1), "t");
        let unknown = progress.resources(2, None).unwrap();
        assert_eq!((unknown.power_watts, unknown.tokens_per_joule), (None, None));
        let known = progress.resources(2, Some(640.0)).unwrap();
        let want = ResourceUse {
            data_wait_ratio: 0.25,
            samples_per_device_second: 4.0,
            tokens_per_device_second: 160.0,
            power_watts: Some(640.0),
            samples_per_joule: Some(0.0125),
            tokens_per_joule: Some(0.5),
        };
        assert_eq!(known, want);
    }

    #[test]
    fn paths_are_told_as_uris_of_the_output() {
        let mut progress = progress();
        let event = RankEvent::Checkpoint {
            step: 50,
            path: "/out/checkpoints/step-50".into(),
            best: Some(25),
            seconds: 0.1,
            stall_seconds: 0.01,
            bytes: 10,
        };
        progress.take(&event, "2026-01-01T00:00:00Z");
        let checkpoint = progress.checkpoint().unwrap();
        assert_eq!(checkpoint.uri, "pvc://models/spam/checkpoints/step-50");
        assert_eq!(checkpoint.best, Some(25));
    }

    #[test]
    fn times_read_well() {
        for (seconds, want) in [(0, "0s"), (59, "59s"), (60, "1m00s"), (7500, "2h05m")] {
            assert_eq!(for_people(seconds), want);
        }
    }
}
