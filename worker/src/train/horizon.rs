//! How many optimizer steps there are, and how the cursor moves. Pure.

use crate::config::Length;
use crate::data::order::Cursor;

/// The shape of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Items (samples, or packs of them) of an optimizer step, over all ranks.
    pub global_batch: u64,
    /// Leave out the end of an epoch that does not fill a step.
    pub drop_last: bool,
    /// Optimizer steps in all.
    pub total: u64,
}

impl Horizon {
    /// The shape of a run that has made `step` steps and stands at `cursor`. `items` tells how
    /// many items an epoch has: packs are another number in each.
    ///
    /// The last step of an epoch may be short, as in transformers, unless `drop_last`. Where the
    /// global batch changed on the way, what is left of the data decides how many steps are left;
    /// no item is seen twice in an epoch or left out.
    pub fn new(
        (global_batch, drop_last): (u64, bool),
        length: Length,
        (step, cursor): (u64, Cursor),
        items: impl Fn(u64) -> u64,
    ) -> Self {
        let shape = Self { global_batch, drop_last, total: 0 };
        let steps = |epoch: u64| shape.steps_of(items(epoch));
        let total = match length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => {
                let whole = round_down(epochs);
                let before: u64 = (0..whole).map(steps).sum();
                let rest = epochs - whole as f64;
                let planned =
                    before + if rest > 0.0 { round_up(rest * steps(whole) as f64) } else { 0 };
                let present = items(cursor.epoch);
                let left_in_epoch = shape.steps_of(present - cursor.offset.min(present));
                let done = (0..=cursor.epoch).map(steps).sum::<u64>() - left_in_epoch;
                step + planned.max(1).saturating_sub(done)
            }
        };
        Self { total, ..shape }
    }

    /// Optimizer steps of an epoch of `items`.
    pub fn steps_of(&self, items: u64) -> u64 {
        if self.drop_last { items / self.global_batch } else { items.div_ceil(self.global_batch) }
    }

    /// Items of the next step: positions `[offset, end)` of an epoch of `items`.
    pub fn next(&self, cursor: Cursor, items: u64) -> std::ops::Range<u64> {
        cursor.offset..(cursor.offset + self.global_batch).min(items)
    }

    /// Where the cursor stands after the next step. An offset of 0 means that
    /// an epoch is done.
    pub fn after(&self, cursor: Cursor, items: u64) -> Cursor {
        let offset = self.next(cursor, items).end;
        if self.steps_of(items - offset) > 0 {
            Cursor { offset, ..cursor }
        } else {
            Cursor { epoch: cursor.epoch + 1, offset: 0 }
        }
    }

    /// Passes over the data done, as a fraction, where the present epoch has `items`.
    pub fn epochs(cursor: Cursor, items: u64) -> f64 {
        cursor.epoch as f64 + cursor.offset as f64 / items.max(1) as f64
    }
}

/// Configuration bounds keep values far below 2⁶³.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= value < 2^63")]
fn round_up(value: f64) -> u64 {
    value.ceil() as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= value < 2^63")]
fn round_down(value: f64) -> u64 {
    value.floor() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: (u64, Cursor) = (0, Cursor { epoch: 0, offset: 0 });

    #[test]
    fn totals_are_those_of_transformers() {
        for (rows, global_batch, length, want) in [
            (100, 8, Length::Epochs(3.0), 39),
            (100, 10, Length::Epochs(1.0), 10),
            (100, 8, Length::Epochs(0.5), 7),
            (3, 8, Length::Epochs(2.0), 2),
            (100, 8, Length::Epochs(0.001), 1),
            (100, 8, Length::Steps(5), 5),
        ] {
            let horizon = Horizon::new((global_batch, false), length, START, |_| rows);
            assert_eq!(horizon.total, want, "{rows} rows by {global_batch}");
        }
    }

    #[test]
    fn the_total_is_the_same_from_every_step_of_the_run() {
        let length = Length::Epochs(2.5);
        // Packs are another number in each epoch.
        let items = |epoch: u64| [101, 97, 110][epoch.min(2) as usize];
        for drop_last in [false, true] {
            let horizon = Horizon::new((8, drop_last), length, START, items);
            assert_eq!(horizon.total, if drop_last { 31 } else { 33 });
            let mut cursor = START.1;
            for step in 0..horizon.total {
                let again = Horizon::new((8, drop_last), length, (step, cursor), items);
                assert_eq!(again, horizon, "step {step}");
                cursor = horizon.after(cursor, items(cursor.epoch));
            }
        }
    }

    #[test]
    fn a_smaller_world_sees_the_rest_of_the_rows_once() {
        let length = Length::Epochs(2.0);
        let before = Horizon::new((16, false), length, START, |_| 100);
        let mut cursor = START.1;
        (0..3).for_each(|_| cursor = before.after(cursor, 100));
        let after = Horizon::new((8, false), length, (3, cursor), |_| 100);
        let mut seen = 3 * 16;
        for _ in 3..after.total {
            seen += after.next(cursor, 100).count();
            cursor = after.after(cursor, 100);
        }
        assert_eq!((seen, cursor), (200, Cursor { epoch: 2, offset: 0 }));
    }

    #[test]
    fn a_batch_that_is_not_full_is_left_out_where_asked_for() {
        let horizon = Horizon::new((8, true), Length::Epochs(2.0), START, |_| 20);
        assert_eq!(horizon.total, 4);
        let mut cursor = START.1;
        let mut seen = Vec::new();
        for _ in 0..horizon.total {
            seen.push(horizon.next(cursor, 20));
            cursor = horizon.after(cursor, 20);
        }
        assert_eq!(seen, [0..8, 8..16, 0..8, 8..16]);
    }
}
