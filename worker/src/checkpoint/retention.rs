//! Which checkpoints to keep. Pure.

/// What to do with a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove the checkpoint of this step.
    Delete(u64),
}

/// What to do after a save: of `steps`, the newest `keep` and the best stay.
pub fn after_save(steps: &[u64], keep: usize, best: Option<u64>) -> Vec<Action> {
    let mut newest_first = steps.to_vec();
    newest_first.sort_unstable_by_key(|step| std::cmp::Reverse(*step));
    newest_first
        .into_iter()
        .skip(keep.max(1))
        .filter(|step| Some(*step) != best)
        .map(Action::Delete)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_best_stay() {
        for (name, steps, keep, best, deleted) in [
            ("few enough", &[10, 20][..], 3, None, &[][..]),
            ("the oldest go", &[40, 10, 30, 20], 2, None, &[20, 10]),
            ("the best stays besides", &[10, 20, 30, 40], 2, Some(10), &[20]),
            ("a best among the newest costs no place", &[10, 20, 30, 40], 2, Some(40), &[20, 10]),
            ("the newest always stays", &[10, 20], 0, None, &[10]),
            ("none yet", &[], 2, Some(10), &[]),
        ] {
            let want: Vec<_> = deleted.iter().copied().map(Action::Delete).collect();
            assert_eq!(after_save(steps, keep, best), want, "{name}");
        }
    }
}
