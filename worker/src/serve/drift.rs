//! How far requests to a model of tables are from its training rows.
//!
//! Rows are counted by the bins of the training rows, in windows of half an hour: figures are of the newest whole
//! window and of the one that is being filled, half an hour to an hour of traffic.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_crds::routing::{DriftReport, Shift};
use hearth_tabular::drift::{self, Drift, SCORE};
use hearth_tabular::{Model, Prediction, Rows};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Half of the time that figures are of, at most.
const WINDOW: Duration = Duration::from_mins(30);
/// Fewest rows that figures are told of: of fewer, chance makes them large.
const LEAST_ROWS: u64 = 500;

const INPUT: &str = "input";
const OUTPUT: &str = "output";

/// What a figure is of: `input` and a feature's name, or `output` and `score`.
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
        let of = "of what requests hold (input) and of the score (output) against training rows";
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

/// Watches rows.
#[derive(Debug)]
pub struct DriftWatch {
    model: Arc<Model>,
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
    /// `None` where the model does not know its training rows.
    pub fn new(model: &Arc<Model>, metrics: DriftMetrics) -> Option<Self> {
        let empty = model.drift()?;
        let windows = Windows { whole: empty.clone(), filling: empty, since: Instant::now() };
        Some(Self { model: model.clone(), metrics, windows: Mutex::new(windows) })
    }

    /// Adds rows and what was said of them.
    pub fn add(&self, rows: &Rows, predictions: &[Prediction]) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        self.model.watch(&mut windows.filling, rows, predictions);
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
            feature: (of.side == INPUT).then_some(of.name),
            psi: shift.psi,
        });
        DriftReport { rows, shifts: told.collect() }
    }

    /// Rows, and how far each feature and the score is; nothing where rows are too few.
    fn shifts(&self) -> (u64, Vec<(Of, drift::Shift)>) {
        let all = {
            let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
            windows.turn(&self.model);
            let mut all = windows.whole.clone();
            all.merge(&windows.filling);
            all
        };
        if all.rows() < LEAST_ROWS {
            return (all.rows(), Vec::new());
        }
        let shifts = self.model.shifts(&all);
        // The score comes last, whatever features are called.
        let last = shifts.len().saturating_sub(1);
        let told = shifts.into_iter().enumerate().map(|(place, (name, shift))| {
            debug_assert!(place != last || name == SCORE);
            (Of { side: if place == last { OUTPUT } else { INPUT }, name }, shift)
        });
        (all.rows(), told.collect())
    }
}

impl Windows {
    /// A full window becomes the whole one.
    fn turn(&mut self, model: &Model) {
        if self.since.elapsed() < WINDOW {
            return;
        }
        if let Some(empty) = model.drift() {
            self.whole = std::mem::replace(&mut self.filling, empty);
            self.since = Instant::now();
        }
    }
}
