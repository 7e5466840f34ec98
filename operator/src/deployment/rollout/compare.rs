//! Compares two revisions by what became of their users.

use hearth_crds::model_deployment::{
    Experiment, ExperimentArm, ExperimentStatus, ExperimentVerdict,
};
use hearth_crds::routing::{CANARY, STABLE, VariantFigures};

use super::Counted;

/// Standard deviations from the split that is wanted which chance exceeds once in 2,000 times.
const MISMATCH: f64 = 3.48;

/// What the counts say; a verdict once there are enough outcomes.
pub fn compare(experiment: &Experiment, counted: &Counted) -> ExperimentStatus {
    let none = VariantFigures::default();
    let [old, new] = [STABLE, CANARY].map(|name| counted.of(name).unwrap_or(&none));
    let (stable, canary) = (arm(old), arm(new));
    let least = experiment.min_outcomes;
    let enough = counted.complete && stable.outcomes >= least && canary.outcomes >= least;
    let both = stable.outcomes > 0 && canary.outcomes > 0;
    let interval = both.then(|| interval(&stable, &canary, experiment.confidence));
    let verdict = interval.filter(|_| enough).map(|(low, high)| {
        if mismatch(old, new, experiment.weight) {
            ExperimentVerdict::SampleRatioMismatch
        } else if low > 0.0 {
            ExperimentVerdict::Better
        } else if high < 0.0 {
            ExperimentVerdict::Worse
        } else {
            ExperimentVerdict::NoDifference
        }
    });
    ExperimentStatus {
        difference: both.then(|| rounded(rate(&canary) - rate(&stable))),
        interval: interval.map(|(low, high)| vec![rounded(low), rounded(high)]),
        stable,
        canary,
        verdict,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an estimate of at most 10^6 users")]
fn arm(figures: &VariantFigures) -> ExperimentArm {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    ExperimentArm {
        requests: count(figures.assigned),
        users: figures.users.estimate().round() as i64,
        outcomes: count(figures.outcomes.reported),
        successes: count(figures.outcomes.succeeded.min(figures.outcomes.reported)),
    }
}

fn rate(arm: &ExperimentArm) -> f64 {
    arm.successes as f64 / arm.outcomes as f64
}

/// Six digits: a status that changes in the seventh would be written for nothing.
fn rounded(figure: f64) -> f64 {
    (figure * 1e6).round() / 1e6
}

/// The difference of two proportions, new less old: Newcombe's hybrid score interval (Statistics
/// in Medicine 17, 1998, method 10), from the Wilson intervals of both.
fn interval(old: &ExperimentArm, new: &ExperimentArm, confidence: f64) -> (f64, f64) {
    let z = normal_quantile(0.5 + confidence / 2.0);
    let (p, (low, high)) = (rate(new), wilson(new, z));
    let (q, (below, above)) = (rate(old), wilson(old, z));
    let difference = p - q;
    (difference - (p - low).hypot(above - q), difference + (high - p).hypot(q - below))
}

/// Wilson's score interval of a proportion (JASA 22, 1927).
fn wilson(arm: &ExperimentArm, z: f64) -> (f64, f64) {
    let (n, p) = (arm.outcomes as f64, rate(arm));
    let middle = p + z * z / (2.0 * n);
    let spread = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let all = 1.0 + z * z / n;
    ((middle - spread) / all, (middle + spread) / all)
}

/// The standard normal quantile, to 1.2e-9 (Acklam's rational approximation, 2003).
fn normal_quantile(p: f64) -> f64 {
    const TAIL: f64 = 0.024_25;
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    let polynomial = |of: &[f64], x: f64| of.iter().fold(0.0, |sum, factor| sum * x + factor);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        polynomial(&C, q) / polynomial(&D, q)
    };
    if p < TAIL {
        tail(p)
    } else if p > 1.0 - TAIL {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        let r = q * q;
        q * polynomial(&A, r) / polynomial(&B, r)
    }
}

/// Whether users were split otherwise than `weight` percent says, beyond chance and beyond the
/// error of counting them.
fn mismatch(old: &VariantFigures, new: &VariantFigures, weight: i32) -> bool {
    let share = f64::from(weight) / 100.0;
    let (there, here) = (old.users.estimate(), new.users.estimate());
    let all = there + here;
    let chance = all * share * (1.0 - share);
    let counting = ((1.0 - share) * new.users.deviation()).hypot(share * old.users.deviation());
    let apart = (here - all * share).abs();
    apart > MISMATCH * (chance + counting * counting).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExperimentVerdict::{Better, NoDifference, SampleRatioMismatch, Worse};
    use hearth_crds::routing::{Outcomes, USER_BUCKETS, user_bucket, user_hash};
    use hearth_crds::user_count::{UserCount, WORDS, place};

    fn arm_of(outcomes: i64, successes: i64) -> ExperimentArm {
        ExperimentArm { outcomes, successes, ..ExperimentArm::default() }
    }

    #[test]
    fn quantiles_of_the_normal_distribution() {
        // R: qnorm(c(.5, .75, .95, .975, .995, .99995, .01))
        for (p, want) in [
            (0.5, 0.0),
            (0.75, 0.674_489_750_196_082),
            (0.95, 1.644_853_626_951_47),
            (0.975, 1.959_963_984_540_05),
            (0.995, 2.575_829_303_548_9),
            (0.999_95, 3.890_591_886_413_1),
            (0.01, -2.326_347_874_040_84),
        ] {
            assert!((normal_quantile(p) - want).abs() < 1e-8, "{p}: {}", normal_quantile(p));
        }
    }

    /// The examples of Newcombe's table II, method 10, at 95 %.
    #[test]
    fn intervals_are_newcombes() {
        for (new, old, low, high) in [
            ((70, 56), (80, 48), 0.0524, 0.3339),
            ((10, 9), (10, 3), 0.1705, 0.8090),
            ((7, 6), (7, 2), 0.0582, 0.8062),
            ((56, 5), (29, 0), -0.0381, 0.1926),
            ((10, 0), (20, 0), -0.1611, 0.2775),
            ((10, 10), (20, 0), 0.6791, 1.0),
        ] {
            let (found_low, found_high) =
                interval(&arm_of(old.0, old.1), &arm_of(new.0, new.1), 0.95);
            assert!((found_low - low).abs() < 6e-5, "{new:?} {old:?}: {found_low}");
            assert!((found_high - high).abs() < 6e-5, "{new:?} {old:?}: {found_high}");
        }
    }

    /// `weight` percent of 4,000 users are new; successes of 1,000 outcomes of each.
    fn counted(weight: u32, old: u64, new: u64) -> Counted {
        let mut words = [vec![0; WORDS], vec![0; WORDS]];
        for user in 0..4000 {
            let user = format!("user-{user}");
            let is_new = user_bucket("s", user.as_bytes()) < weight * USER_BUCKETS / 100;
            let (word, bit) = place(user_hash("s", user.as_bytes()));
            words[usize::from(is_new)][word] |= bit;
        }
        let [first, second] = words;
        let figures = |name: &str, succeeded, words| VariantFigures {
            name: name.into(),
            outcomes: Outcomes { reported: 1000, succeeded },
            users: UserCount::of(words),
            ..VariantFigures::default()
        };
        let variants = vec![figures(STABLE, old, first), figures(CANARY, new, second)];
        Counted { complete: true, variants }
    }

    #[test]
    fn a_verdict_needs_outcomes_a_difference_and_a_fair_split() {
        let wants =
            |weight, min_outcomes| Experiment { weight, min_outcomes, ..Experiment::default() };
        let verdict =
            |experiment: &Experiment, counted: &Counted| compare(experiment, counted).verdict;
        for (weight, old, new, want) in [
            (50_u32, 500, 600, Better),
            (50, 500, 400, Worse),
            (50, 500, 510, NoDifference),
            (10, 500, 600, Better),
            (60, 500, 600, SampleRatioMismatch),
        ] {
            let split = if want == SampleRatioMismatch { 50 } else { weight };
            let found = verdict(&wants(weight.cast_signed(), 1000), &counted(split, old, new));
            assert_eq!(found, Some(want), "{weight} {old} {new}");
        }
        assert_eq!(verdict(&wants(50, 1001), &counted(50, 500, 600)), None);
        let unheard = Counted { complete: false, ..counted(50, 500, 600) };
        assert_eq!(verdict(&wants(50, 1000), &unheard), None);
        let status = compare(&wants(50, 1000), &counted(50, 500, 600));
        assert_eq!(status.difference, Some(0.1));
        assert_eq!(status.interval, Some(vec![0.056_427, 0.143_037]));
        assert!((1900..2100).contains(&status.canary.users), "{}", status.canary.users);
    }
}
