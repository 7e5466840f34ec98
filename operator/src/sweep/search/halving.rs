//! Asynchronous successive halving (Li et al. 2020, ASHA): each trial starts with few steps, and the
//! best share of each rung goes on to the next one, as soon as it is known to be among them.
//!
//! One thing is stricter than in the paper: of the trials that reached a rung, no more than
//! `1 / factor` are ever promoted, also where later ones turn out better than those that were.

/// The rungs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halving {
    /// Steps of the first rung.
    pub first: u64,
    /// Steps of the last one.
    pub last: u64,
    /// How much longer each rung is than the one before: 2 or more.
    pub factor: u64,
}

/// How far a trial came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Climb {
    /// Losses at the ends of the rungs that it reached, from the first: less is better.
    pub losses: Vec<f64>,
    /// Whether it can go on: it neither runs nor has failed.
    pub rests: bool,
}

impl Halving {
    /// Steps of each rung.
    pub fn rungs(&self) -> Vec<u64> {
        let longer = |steps: &u64| steps.checked_mul(self.factor.max(2));
        let below = std::iter::successors(Some(self.first.max(1)), longer);
        let mut rungs: Vec<u64> = below.take_while(|steps| *steps < self.last).collect();
        rungs.push(self.last);
        rungs
    }

    /// The trial to promote next, if any, and the rung that it then runs.
    pub fn promotion(&self, trials: &[Climb]) -> Option<(usize, usize)> {
        let rungs = self.rungs().len();
        (0..rungs.saturating_sub(1)).rev().find_map(|rung| {
            let mut reached: Vec<(usize, f64)> = trials
                .iter()
                .enumerate()
                .filter_map(|(trial, climb)| Some((trial, *climb.losses.get(rung)?)))
                .collect();
            reached.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            let most = reached.len() / usize::try_from(self.factor.max(2)).unwrap_or(usize::MAX);
            let waits =
                |trial: usize| trials[trial].losses.len() == rung + 1 && trials[trial].rests;
            let promoted =
                reached.iter().filter(|(trial, _)| Self::is_beyond(&trials[*trial], rung));
            if promoted.count() >= most {
                return None;
            }
            reached
                .iter()
                .take(most)
                .find(|(trial, _)| waits(*trial))
                .map(|(trial, _)| (*trial, rung + 1))
        })
    }

    /// Whether a trial has left a rung upwards: it reached the next one, or runs towards it.
    fn is_beyond(climb: &Climb, rung: usize) -> bool {
        climb.losses.len() > rung + 1 || climb.losses.len() == rung + 1 && !climb.rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LADDER: Halving = Halving { first: 10, last: 90, factor: 3 };

    #[test]
    fn rungs_grow_by_the_factor_up_to_the_last() {
        assert_eq!(LADDER.rungs(), [10, 30, 90]);
        assert_eq!(Halving { last: 100, ..LADDER }.rungs(), [10, 30, 90, 100]);
        assert_eq!(Halving { first: 100, ..LADDER }.rungs(), [90]);
    }

    #[test]
    fn the_best_third_goes_on_as_soon_as_it_is_known() {
        let climb = |losses: &[f64], rests| Climb { losses: losses.to_vec(), rests };
        let mut trials = vec![climb(&[0.3], true), climb(&[0.2], true)];
        assert_eq!(LADDER.promotion(&trials), None, "a third of two is none");
        trials.push(climb(&[0.5], true));
        assert_eq!(LADDER.promotion(&trials), Some((1, 1)));
        trials[1].rests = false;
        assert_eq!(LADDER.promotion(&trials), None, "it is on its way");
        trials.extend([climb(&[0.1], true), climb(&[0.4], true)]);
        assert_eq!(LADDER.promotion(&trials), None, "one of five was promoted");
        trials.push(climb(&[0.6], true));
        assert_eq!(LADDER.promotion(&trials), Some((3, 1)));
    }

    /// Runs a sweep to its end; `choices` say whether a trial starts or one of those that run ends.
    fn climb_all(losses: &[[f64; 3]], choices: &[usize]) -> Vec<Climb> {
        let mut trials: Vec<Climb> = Vec::new();
        for choice in choices.iter().cycle() {
            let running: Vec<usize> =
                (0..trials.len()).filter(|trial| !trials[*trial].rests).collect();
            let promotion = LADDER.promotion(&trials);
            if running.is_empty() && promotion.is_none() && trials.len() == losses.len() {
                break;
            }
            if running.is_empty() || choice % 2 == 0 {
                match promotion {
                    Some((trial, rung)) => {
                        assert!(trials[trial].rests && trials[trial].losses.len() == rung);
                        trials[trial].rests = false;
                    }
                    None if trials.len() < losses.len() => trials.push(Climb::default()),
                    None => {}
                }
            }
            if let Some(ended) = running.get(choice % running.len().max(1)) {
                let rung = trials[*ended].losses.len();
                trials[*ended].losses.push(losses[*ended][rung]);
                trials[*ended].rests = true;
            }
        }
        trials
    }

    proptest! {
        #[test]
        fn no_rung_promotes_more_than_its_share_whatever_the_order(
            losses in prop::collection::vec(prop::array::uniform3(0.0..1.0f64), 1..40),
            choices in prop::collection::vec(0usize..1000, 1..50),
        ) {
            let trials = climb_all(&losses, &choices);
            let reached = |rung: usize| trials.iter().filter(|climb| climb.losses.len() > rung).count();
            for rung in 0..2 {
                prop_assert!(reached(rung + 1) <= reached(rung) / 3);
            }
        }

        #[test]
        fn the_next_promotion_is_of_the_set_of_trials_not_of_their_history(
            losses in prop::collection::vec(0.0..1.0f64, 3..30),
        ) {
            let climbs: Vec<Climb> =
                losses.iter().map(|loss| Climb { losses: vec![*loss], rests: true }).collect();
            let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
            let (chosen, rung) = LADDER.promotion(&climbs).unwrap();
            prop_assert!(rung == 1 && losses[chosen] <= best);
        }
    }
}
