//! Figures and times as people read them. Pure.

use hearth_crds::training_job::{TrainingProgress, five_digits};
use k8s_openapi::jiff::Timestamp;

/// Figures as people read them: five significant digits, and the time left in
/// words. The exact ones are in the job's `metrics.jsonl`.
pub(super) fn for_people(mut progress: TrainingProgress) -> TrainingProgress {
    progress.epoch = five_digits(progress.epoch);
    for figure in [
        &mut progress.loss,
        &mut progress.eval_loss,
        &mut progress.accuracy,
        &mut progress.f1,
        &mut progress.f1_macro,
        &mut progress.roc_auc,
        &mut progress.average_precision,
        &mut progress.r2,
        &mut progress.learning_rate,
        &mut progress.grad_norm,
        &mut progress.tokens_per_second,
        &mut progress.samples_per_second,
    ] {
        *figure = figure.map(five_digits);
    }
    progress.eta = progress.eta.or_else(|| progress.eta_seconds.map(duration_text));
    progress
}

/// `3m20s`, as kubectl writes ages.
fn duration_text(seconds: i64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m"),
    }
}

pub(super) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(super) fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) fn full_stop(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) || text.is_empty() {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_five_digits() {
        for (exact, short) in
            [(0.669_774_293_899_536_1, 0.66977), (7.999_999_999_999_999e-5, 8e-5), (0.0, 0.0)]
        {
            assert_eq!(five_digits(exact).to_bits(), f64::to_bits(short), "{exact}");
        }
        assert!(five_digits(f64::NAN).is_nan());
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(5, "5s"), (200, "3m20s"), (3_900, "1h5m")] {
            assert_eq!(duration_text(seconds), text);
        }
    }
}
