//! How good a model of a table is, in the words of jobs.

use hearth_tabular::{ClassificationMetrics, Features, Metrics, Model, Share};

use crate::event::{EvalMetrics, EventSink, RankEvent};

/// Reason of the note that tells of a threshold.
pub(crate) const THRESHOLD_CHOSEN: &str = "ThresholdChosen";

/// Columns of which a note names at most so many.
const NAMED: usize = 8;

/// Says which columns are not learned from, where nobody asked for that.
pub(super) fn tell_columns(features: &Features, events: &mut dyn EventSink) {
    let unasked =
        |column: &&hearth_tabular::LeftOut| column.reason != hearth_tabular::Reason::Excluded;
    let notes: Vec<String> =
        features.left_out.iter().filter(unasked).map(hearth_tabular::LeftOut::note).collect();
    if notes.is_empty() {
        return;
    }
    let more = notes.len().saturating_sub(NAMED);
    let mut message = notes[..notes.len() - more].join("; ");
    if more > 0 {
        message = format!("{message}; and {more} more");
    }
    events.send(&RankEvent::Note { reason: "ColumnsLeftOut".to_owned(), message });
}

/// Says which threshold was chosen, and what it costs.
pub(super) fn tell_threshold(model: &Model, events: &mut dyn EventSink) {
    let parts = model.parts();
    let (Some(threshold), Some(Metrics::Classification(metrics))) =
        (&parts.threshold, &parts.metrics)
    else {
        return;
    };
    let label = parts.features.labels.last().map_or("", String::as_str);
    if let Some(message) = threshold_sentence(label, threshold.value, metrics) {
        events.send(&RankEvent::Note { reason: THRESHOLD_CHOSEN.to_owned(), message });
    }
}

/// From which probability on rows get a label, and what that costs; `None` where it was not measured.
pub(crate) fn threshold_sentence(
    label: &str,
    threshold: f64,
    metrics: &ClassificationMetrics,
) -> Option<String> {
    let costs = metrics.confusion.as_ref()?;
    let share = |name: &str, share: Option<Share>| {
        share.map(|Share { value, low, high }| {
            format!("{name} {:.2} % ({:.2} to {:.2})", 100.0 * value, 100.0 * low, 100.0 * high)
        })
    };
    let shares = [
        share("false positive rate", costs.false_positive_rate),
        share("recall", costs.recall),
        share("precision", costs.precision),
    ];
    let shares: Vec<String> = shares.into_iter().flatten().collect();
    Some(format!(
        "rows get the label {label:?} from a probability of {threshold:.4} on; on {} held-out rows that chose nothing: {}",
        metrics.rows,
        shares.join(", "),
    ))
}

/// Figures on held-out rows; `None` where there are none.
pub(super) fn metrics(model: &Model, seconds: f64) -> Option<EvalMetrics> {
    match model.parts().metrics.as_ref()? {
        Metrics::Classification(told) => {
            let of_last = told.confusion.as_ref().map(|confusion| {
                let counts = confusion.counts;
                let wrong = counts.false_positives + counts.false_negatives;
                let all = (2 * counts.true_positives + wrong).max(1);
                2.0 * counts.true_positives as f64 / all as f64
            });
            Some(EvalMetrics {
                loss: told.log_loss,
                accuracy: Some(told.accuracy),
                f1: Some(of_last.unwrap_or(told.macro_f1)),
                f1_macro: Some(told.macro_f1),
                roc_auc: told.roc_auc,
                average_precision: told.average_precision,
                samples: told.rows,
                seconds,
                ..EvalMetrics::default()
            })
        }
        Metrics::Regression(told) => Some(EvalMetrics {
            loss: told.rmse * told.rmse,
            r2: told.r2,
            samples: told.rows,
            seconds,
            ..EvalMetrics::default()
        }),
    }
}
