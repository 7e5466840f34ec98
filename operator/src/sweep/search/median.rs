//! The median stopping rule (Golovin et al. 2017, Vizier, section 3.2.2): a trial stops where its
//! best loss so far is worse than the median of what others had on average by then.

use std::collections::BTreeMap;

/// Losses of a trial by step, in the order of steps.
pub type Curve = [(u64, f64)];

/// A trial that is worse than most were by its newest step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behind {
    /// The step.
    pub step: u64,
    /// The trial's best loss so far.
    pub best: f64,
    /// The median of the others' mean losses by then.
    pub median: f64,
}

/// The trials that others are measured by: those that ran to their end.
#[derive(Clone, Debug)]
pub struct Median {
    /// Of each, the mean of its losses up to each of its steps.
    means: Vec<Vec<(u64, f64)>>,
    least: usize,
    /// What was asked for before: many trials evaluate at the same steps.
    known: BTreeMap<u64, Option<f64>>,
}

impl Median {
    /// Of these curves; there is none before `least` of them have told a loss.
    pub fn of<'a>(ended: impl Iterator<Item = &'a Curve>, least: usize) -> Self {
        Self { means: ended.map(running_means).collect(), least, known: BTreeMap::new() }
    }

    /// The median of mean losses by `step`; of an even number, the worse of the middle two.
    pub fn by(&mut self, step: u64) -> Option<f64> {
        if let Some(known) = self.known.get(&step) {
            return *known;
        }
        let by_then = |means: &Vec<(u64, f64)>| -> Option<f64> {
            let told = means.partition_point(|(at, _)| *at <= step);
            means[..told].last().map(|(_, mean)| *mean)
        };
        let mut means: Vec<f64> = self.means.iter().filter_map(by_then).collect();
        means.sort_by(f64::total_cmp);
        let enough = means.len() >= self.least.max(1);
        let median = enough.then(|| means[means.len() / 2]);
        self.known.insert(step, median);
        median
    }

    /// How far a running trial with these losses is behind, if it is.
    pub fn judge(&mut self, own: &Curve) -> Option<Behind> {
        let (step, _) = *own.last()?;
        let best = own.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        let median = self.by(step)?;
        (best > median).then_some(Behind { step, best, median })
    }
}

fn running_means(curve: &Curve) -> Vec<(u64, f64)> {
    let mut sum = 0.0;
    let mean = |(count, (step, loss)): (usize, &(u64, f64))| {
        sum += loss;
        (*step, sum / (count + 1) as f64)
    };
    curve.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn behind(own: &Curve, others: &[Vec<(u64, f64)>], least: usize) -> bool {
        Median::of(others.iter().map(Vec::as_slice), least).judge(own).is_some()
    }

    #[test]
    fn a_trial_is_measured_by_what_others_had_by_its_step() {
        let others = [
            vec![(10, 1.0), (20, 0.5), (30, 0.1)],
            vec![(10, 2.0), (20, 1.0)],
            vec![(10, 3.0), (20, 2.0)],
        ];
        assert!(behind(&[(10, 2.5)], &others, 3));
        assert!(!behind(&[(10, 1.5)], &others, 3));
        // By step 20 the median of the means is 1.5.
        assert!(!behind(&[(10, 9.0), (20, 1.4)], &others, 3), "the best counts");
        assert!(behind(&[(10, 9.0), (20, 1.6)], &others, 3));
        assert!(!behind(&[(10, 9.0)], &others, 4), "too few have told");
        assert!(!behind(&[(5, 9.0)], &others, 3), "nobody has told anything by then");
        assert!(!behind(&[], &others, 1));
        let of_two = &others[..2];
        assert!(!behind(&[(10, 1.9)], of_two, 1), "of two, the worse is the median");
        let told = Median::of(others.iter().map(Vec::as_slice), 3).judge(&[(10, 9.0), (20, 8.0)]);
        assert_eq!(told, Some(Behind { step: 20, best: 8.0, median: 1.5 }));
    }

    fn curve() -> impl Strategy<Value = Vec<(u64, f64)>> {
        prop::collection::vec((1..5u64, 0.0..1.0f64), 1..12).prop_map(|steps| {
            let step = |at: &mut u64, (more, loss): (u64, f64)| {
                *at += more;
                Some((*at, loss))
            };
            steps.into_iter().scan(0, step).collect()
        })
    }

    proptest! {
        /// As the paper says it, without what makes it fast.
        #[test]
        fn to_be_stopped_is_to_be_worse_than_more_than_half_of_the_others(
            own in curve(), others in prop::collection::vec(curve(), 0..20), least in 1..6usize,
        ) {
            let step = own.last().unwrap().0;
            let best = own.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
            let means: Vec<f64> = others.iter().filter_map(|curve| {
                let told: Vec<f64> =
                    curve.iter().filter(|(at, _)| *at <= step).map(|(_, loss)| *loss).collect();
                (!told.is_empty()).then(|| told.iter().sum::<f64>() / told.len() as f64)
            }).collect();
            let better = means.iter().filter(|mean| **mean < best).count();
            let want = means.len() >= least && 2 * better > means.len();
            prop_assert_eq!(behind(&own, &others, least), want);
        }

        #[test]
        fn the_best_of_all_is_never_stopped(others in prop::collection::vec(curve(), 1..20)) {
            let best = |curve: &Vec<(u64, f64)>| {
                curve.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min)
            };
            let own = others.iter().min_by(|a, b| best(a).total_cmp(&best(b))).unwrap();
            prop_assert!(!behind(own, &others, 1));
        }
    }
}
