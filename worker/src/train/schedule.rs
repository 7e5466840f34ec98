//! Learning rate over time, as `transformers/optimization.py` has it. Pure.

use std::f64::consts::PI;

use hearth_crds::training_arguments::LrSchedulerType;

use crate::config::ScheduleConfig;

/// Learning rate of the step after `done` of `total` optimizer steps.
pub fn rate(schedule: &ScheduleConfig, done: u64, total: u64) -> f64 {
    schedule.peak * factor(schedule, done, total)
}

/// Steps of warm-up of `total`.
pub fn warmup(schedule: &ScheduleConfig, total: u64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "steps are whole and far below 2^63"
    )]
    let steps = warmup_steps(schedule.warmup, total as f64) as u64;
    steps
}

fn factor(schedule: &ScheduleConfig, done: u64, total: u64) -> f64 {
    if schedule.shape == LrSchedulerType::Constant {
        return 1.0;
    }
    let (done, total) = (done as f64, total as f64);
    let warmup = warmup_steps(schedule.warmup, total);
    if done < warmup {
        return done / warmup.max(1.0);
    }
    let progress = (done - warmup) / (total - warmup).max(1.0);
    match schedule.shape {
        LrSchedulerType::Linear => (1.0 - progress).max(0.0),
        LrSchedulerType::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        LrSchedulerType::Constant | LrSchedulerType::ConstantWithWarmup => 1.0,
    }
}

/// `TrainingArguments.get_warmup_steps` of transformers 5: whole steps from 1
/// up, a fraction of all steps below.
fn warmup_steps(warmup: f64, total: f64) -> f64 {
    if warmup >= 1.0 { warmup.floor() } else { (total * warmup).ceil() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(shape: LrSchedulerType, warmup: f64, total: u64) -> Vec<f64> {
        let schedule = ScheduleConfig { shape, peak: 1.0, warmup };
        (0..total).map(|done| rate(&schedule, done, total)).collect()
    }

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-12, "{got} is not {want}");
        }
    }

    #[test]
    fn linear_rises_then_falls_to_0_after_the_last_step() {
        close(&rates(LrSchedulerType::Linear, 2.0, 6), &[0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        close(&rates(LrSchedulerType::Linear, 0.0, 4), &[1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn a_warmup_below_1_is_a_fraction_rounded_up() {
        assert_eq!(rates(LrSchedulerType::Linear, 0.3, 6), rates(LrSchedulerType::Linear, 2.0, 6));
    }

    #[test]
    fn cosine_and_constant() {
        let half = 0.5_f64.sqrt() / 2.0;
        close(&rates(LrSchedulerType::Cosine, 0.0, 4), &[1.0, 0.5 + half, 0.5, 0.5 - half]);
        close(&rates(LrSchedulerType::ConstantWithWarmup, 2.0, 4), &[0.0, 0.5, 1.0, 1.0]);
        close(&rates(LrSchedulerType::Constant, 0.0, 2), &[1.0, 1.0]);
    }
}
