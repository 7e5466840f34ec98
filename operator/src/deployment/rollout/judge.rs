//! Judges a revision by its traffic: the step so far, and the newest interval by itself, so that
//! what begins late is not hidden by what went well before.

use hearth_crds::model_deployment::Analysis;
use hearth_crds::routing::Figures;

use super::{Counted, Reason};

/// What traffic says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Finding {
    /// Within the limits.
    Good,
    /// Not enough is known: what is missing.
    Open(String),
    /// Beyond a limit.
    Bad { reason: Reason, message: String },
}

/// Judges what was counted of the variant `tried`.
pub(super) fn judge(analysis: &Analysis, counted: &Counted, tried: &str) -> Finding {
    let least = analysis.min_requests.unsigned_abs();
    let Some(figures) = counted.of(tried) else {
        return Finding::Open("no gateway has counted anything yet".into());
    };
    for (figures, span) in [(&figures.window, "newest"), (&figures.total, "")] {
        if figures.requests >= least.max(1)
            && let Some((reason, message)) = beyond(analysis, figures, span)
        {
            return Finding::Bad { reason, message };
        }
    }
    if figures.total.requests < least {
        Finding::Open(format!("waits for {least} requests"))
    } else if counted.complete {
        Finding::Good
    } else {
        Finding::Open("not every gateway has said what it counted".into())
    }
}

/// The limit that these figures are beyond.
fn beyond(analysis: &Analysis, figures: &Figures, span: &str) -> Option<(Reason, String)> {
    let of = format!("of {} {span} requests", figures.requests).replace("  ", " ");
    let rate = figures.error_rate();
    if let Some(most) = analysis.max_error_rate.filter(|most| rate > *most) {
        let message = format!(
            "{:.2} % {of} failed; rollout.analysis.maxErrorRate allows {:.2} %",
            100.0 * rate,
            100.0 * most
        );
        return Some((Reason::TooManyErrors, message));
    }
    let p95 = figures.latencies.quantile(0.95)? * 1000.0;
    let most = analysis.max_p95_milliseconds.filter(|most| p95 > *most)?;
    let message = format!(
        "the 95th percentile {of} is {p95:.0} ms; rollout.analysis.maxP95Milliseconds allows {most:.0} ms"
    );
    Some((Reason::TooSlow, message))
}
