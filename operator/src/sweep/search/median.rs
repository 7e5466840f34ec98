//! The median stopping rule (Golovin et al. 2017, Vizier, section 3.2.2): a trial stops where its
//! best loss so far is worse than the median of what others had on average by then.

/// Losses of a trial by step, in the order in which they came.
pub type Curve = [(u64, f64)];

/// Whether to stop a running trial with `own` losses, given those of `others` that ended, and at
/// least `least` of them have told a loss by then.
pub fn falls_behind(own: &Curve, others: &[&Curve], least: usize) -> bool {
    let Some(step) = own.last().map(|(step, _)| *step) else { return false };
    let best = own.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    let mean = |curve: &Curve| -> Option<f64> {
        let told: Vec<f64> =
            curve.iter().filter(|(at, _)| *at <= step).map(|(_, loss)| *loss).collect();
        (!told.is_empty()).then(|| told.iter().sum::<f64>() / told.len() as f64)
    };
    let mut means: Vec<f64> = others.iter().filter_map(|curve| mean(curve)).collect();
    means.sort_by(f64::total_cmp);
    means.len() >= least.max(1) && best > means[means.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_is_measured_by_what_others_had_by_its_step() {
        let others: [&Curve; 3] =
            [&[(10, 1.0), (20, 0.5), (30, 0.1)], &[(10, 2.0), (20, 1.0)], &[(10, 3.0), (20, 2.0)]];
        assert!(falls_behind(&[(10, 2.5)], &others, 3));
        assert!(!falls_behind(&[(10, 1.5)], &others, 3));
        // By step 20 the median of the means is 1.5.
        assert!(!falls_behind(&[(10, 9.0), (20, 1.4)], &others, 3), "the best counts");
        assert!(falls_behind(&[(10, 9.0), (20, 1.6)], &others, 3));
        assert!(!falls_behind(&[(10, 9.0)], &others, 4), "too few have told");
        assert!(!falls_behind(&[(5, 9.0)], &others, 3), "nobody has told anything by then");
        assert!(!falls_behind(&[], &others, 1));
    }
}
