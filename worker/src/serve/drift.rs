//! How far requests to a model of tables, or to a classifier of texts or pictures, are from what it learned
//! from.
//!
//! Rows, texts and pictures are counted by the bins of the training rows, in windows of half an hour: figures are of the newest whole
//! window and of the one that is being filled, half an hour to an hour of traffic.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_crds::routing::{DriftReport, Shift};
use hearth_tabular::drift::{self, Drift, Histogram, SCORE};
use hearth_tabular::{Model, Parts, Prediction, Rows};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::engine::Answer;
use crate::data::facts::Facts;
use crate::export::DriftReference;
use crate::export::decision::decided;
use crate::export::drift::Answered;

/// Half of the time that figures are of, at most.
const WINDOW: Duration = Duration::from_mins(30);
/// Fewest rows that figures are told of: of fewer, chance makes them large.
const LEAST_ROWS: u64 = 500;

const INPUT: &str = "input";
const OUTPUT: &str = "output";
/// Name of the answered label among outputs.
const LABEL: &str = "label";

/// What a figure is of: `input` and a feature's name, or `output` and `score` or `label`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    side: &'static str,
    name: String,
}

type Figures = Family<Of, Gauge<f64, std::sync::atomic::AtomicU64>>;

/// Figures of drift.
#[derive(Clone, Debug, Default)]
pub struct DriftMetrics {
    psi: Figures,
    ks: Figures,
    rows: Gauge,
}

impl DriftMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let of = "of what requests hold (input) and of the score and the label (output) against training rows";
        registry.register(
            "drift_psi",
            format!("Population stability index {of}; above 0.25 is a shift"),
            metrics.psi.clone(),
        );
        registry.register(
            "drift_ks",
            format!("Kolmogorov-Smirnov statistic {of}"),
            metrics.ks.clone(),
        );
        registry.register(
            "drift_rows",
            "Rows that figures of drift are of; they are told from 500 on",
            metrics.rows.clone(),
        );
        metrics
    }
}

/// What requests are compared with: each histogram with what it is of.
#[derive(Debug)]
struct Baseline {
    of: Vec<Of>,
    histograms: Vec<Histogram>,
    threshold: Option<f64>,
}

/// Whether what is asked is compared with what the model learned from.
#[derive(Debug)]
pub enum Watching {
    /// It is.
    By(Arc<DriftWatch>),
    /// It is not, and why.
    Not(&'static str),
}

impl Watching {
    /// What the operator is told.
    pub fn report(&self) -> DriftReport {
        match self {
            Self::By(watch) => watch.report(),
            Self::Not(why) => {
                DriftReport { not_watched: Some((*why).to_owned()), ..DriftReport::default() }
            }
        }
    }

    /// What watches.
    pub fn watch(&self) -> Option<&Arc<DriftWatch>> {
        match self {
            Self::By(watch) => Some(watch),
            Self::Not(_) => None,
        }
    }
}

/// Watches what is asked.
#[derive(Debug)]
pub struct DriftWatch {
    baseline: Baseline,
    metrics: DriftMetrics,
    windows: Mutex<Windows>,
}

#[derive(Debug)]
struct Windows {
    whole: Drift,
    filling: Drift,
    since: Instant,
}

impl DriftWatch {
    /// Of a model of tables; `None` where it does not know its training rows.
    pub fn of_table(model: &Model, metrics: DriftMetrics) -> Option<Self> {
        let Parts { features, reference, .. } = model.parts();
        let names = features.features.iter().map(|feature| input(&feature.name));
        let baseline = Baseline {
            of: names.chain([output(SCORE)]).collect(),
            histograms: reference.as_ref()?.histograms().cloned().collect(),
            threshold: None,
        };
        Some(Self::new(baseline, metrics))
    }

    /// Of a classifier of texts or pictures, between whose two labels `threshold` may decide.
    pub fn of_classifier(
        reference: &DriftReference,
        threshold: Option<f64>,
        metrics: DriftMetrics,
    ) -> Self {
        let inputs = reference.inputs.iter().map(|of| input(&of.name));
        let baseline = Baseline {
            of: inputs.chain([output(SCORE), output(LABEL)]).collect(),
            histograms: reference.histograms().cloned().collect(),
            threshold,
        };
        Self::new(baseline, metrics)
    }

    fn new(baseline: Baseline, metrics: DriftMetrics) -> Self {
        let empty = Drift::by(&baseline.histograms);
        let windows = Windows { whole: empty.clone(), filling: empty, since: Instant::now() };
        Self { baseline, metrics, windows: Mutex::new(windows) }
    }

    /// Adds rows of a table and what was said of them.
    pub fn add(&self, model: &Model, rows: &Rows, predictions: &[Prediction]) {
        let mut windows = self.windows();
        for (values, score) in model.compared(rows, predictions) {
            let values = values.iter().copied().chain([score]);
            windows.filling.count(self.baseline.histograms.iter().zip(values));
        }
    }

    /// Adds what texts or pictures are like and the probabilities that they were answered with.
    pub fn add_answers(&self, facts: &[Facts], answers: &[Answer]) {
        let mut windows = self.windows();
        for (facts, scores) in facts.iter().zip(answers) {
            let answered = Answered::of(scores, decided(scores, self.baseline.threshold));
            let inputs = facts.iter().copied().map(f64::from);
            let values = inputs.chain([answered.score, answered.label]);
            windows.filling.count(self.baseline.histograms.iter().zip(values));
        }
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the figures up to date.
    pub fn tell(&self) {
        let (rows, shifts) = self.shifts();
        self.metrics.rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
        if shifts.is_empty() {
            self.metrics.psi.clear();
            self.metrics.ks.clear();
        }
        for (of, shift) in shifts {
            self.metrics.psi.get_or_create(&of).set(shift.psi);
            if let Some(ks) = shift.ks {
                self.metrics.ks.get_or_create(&of).set(ks);
            }
        }
    }

    /// What the operator is told.
    pub fn report(&self) -> DriftReport {
        let (rows, mut shifts) = self.shifts();
        shifts.sort_by(|(_, one), (_, other)| other.psi.total_cmp(&one.psi));
        let told = shifts.into_iter().take(DriftReport::MOST).map(|(of, shift)| Shift {
            feature: match (of.side, of.name.as_str()) {
                (OUTPUT, SCORE) => None,
                (OUTPUT, _) => Some(DriftReport::LABELS.to_owned()),
                _ => Some(of.name),
            },
            psi: shift.psi,
        });
        DriftReport { rows, shifts: told.collect(), not_watched: None }
    }

    /// Rows, and how far each feature and the score is; nothing where rows are too few.
    fn shifts(&self) -> (u64, Vec<(Of, drift::Shift)>) {
        let all = {
            let mut windows = self.windows();
            windows.turn(&self.baseline);
            let mut all = windows.whole.clone();
            all.merge(&windows.filling);
            all
        };
        if all.rows() < LEAST_ROWS {
            return (all.rows(), Vec::new());
        }
        let shifts = all.apart(&self.baseline.histograms);
        (all.rows(), self.baseline.of.iter().cloned().zip(shifts).collect())
    }
}

impl Windows {
    /// A full window becomes the whole one.
    fn turn(&mut self, baseline: &Baseline) {
        if self.since.elapsed() < WINDOW {
            return;
        }
        let empty = Drift::by(&baseline.histograms);
        self.whole = std::mem::replace(&mut self.filling, empty);
        self.since = Instant::now();
    }
}

fn input(name: &str) -> Of {
    Of { side: INPUT, name: name.to_owned() }
}

fn output(name: &str) -> Of {
    Of { side: OUTPUT, name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::drift::{RowsOf, RowsSide};

    /// A watch of texts of 1 to 100 characters, of which the longer half is answered with the second
    /// label.
    fn watch(registry: &mut Registry) -> DriftWatch {
        let answers: Vec<Answered> =
            (0..100_u8).map(|row| Answered::of(&scores(row), usize::from(row >= 50))).collect();
        let inputs: Vec<Facts> = (0..100_u8).map(facts).collect();
        let of = RowsOf { side: RowsSide::Train, rows: 100, of: 100 };
        let reference = DriftReference::new((&["characters"], &inputs, of), (&answers, 2, of));
        DriftWatch::of_classifier(&reference, None, DriftMetrics::new(registry))
    }

    fn facts(row: u8) -> Facts {
        vec![f32::from(row) + 1.0]
    }

    fn scores(row: u8) -> [f32; 2] {
        let second = (f32::from(row) + 0.5) / 100.0;
        [1.0 - second, second]
    }

    fn add(watch: &DriftWatch, rows: impl Iterator<Item = u8>) {
        for row in rows {
            watch.add_answers(&[facts(row)], &[Answer::from(scores(row))]);
        }
    }

    #[test]
    fn answers_are_compared_once_there_are_enough() {
        let mut registry = Registry::default();
        let watch = watch(&mut registry);
        add(&watch, (0..499_u16).map(|row| u8::try_from(row % 100).unwrap()));
        assert_eq!(watch.report(), DriftReport { rows: 499, ..DriftReport::default() });
        add(&watch, [99].into_iter());
        let report = watch.report();
        assert_eq!((report.rows, report.shifts.len()), (500, 3));
        assert!(report.shifts.iter().all(|shift| shift.psi < 1e-9), "{report:?}");

        // Only long texts come, and all are answered with one label.
        add(&watch, (0..4000_u16).map(|row| u8::try_from(90 + row % 10).unwrap()));
        let report = watch.report();
        let mut told: Vec<_> = report.shifts.iter().map(|shift| shift.feature.clone()).collect();
        told.sort();
        let want = [None, Some("characters".to_owned()), Some(DriftReport::LABELS.to_owned())];
        assert_eq!(told, want);
        assert!(report.shifts.iter().all(|shift| shift.psi > 0.25), "{report:?}");
        watch.tell();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains(r#"drift_psi{side="output",name="label"}"#), "{text}");
        assert!(!text.contains(r#"drift_ks{side="output",name="label"}"#), "{text}");
        assert!(text.contains(r#"drift_ks{side="input",name="characters"}"#), "{text}");
    }

    #[test]
    fn what_is_not_watched_says_why() {
        let report = Watching::Not("why").report();
        assert_eq!(report.not_watched.as_deref(), Some("why"));
        assert_eq!(report.rows, 0);
    }
}
