//! How good a model of a table is, in the words of jobs.

use hearth_tabular::{Features, Metrics, Model, Share};

use crate::event::{EvalMetrics, EventSink, RankEvent};

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
    let Some(costs) = &metrics.confusion else { return };
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
    let label = parts.features.labels.last().map_or("", String::as_str);
    let message = format!(
        "rows get the label {label:?} from a probability of {:.4} on; on {} held-out rows that chose nothing: {}",
        threshold.value,
        metrics.rows,
        shares.join(", "),
    );
    events.send(&RankEvent::Note { reason: "ThresholdChosen".to_owned(), message });
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
