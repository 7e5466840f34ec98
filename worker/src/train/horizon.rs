//! How many optimizer steps there are, and how the cursor moves. Pure.

use crate::config::Length;
use crate::data::order::Cursor;

/// The shape of a run over `rows` samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Samples of an epoch.
    pub rows: u64,
    /// Samples of an optimizer step, over all ranks.
    pub global_batch: u64,
    /// Optimizer steps in all.
    pub total: u64,
}

impl Horizon {
    /// The shape of a run that has made `step` steps and stands at `cursor`.
    ///
    /// The last step of an epoch may be short, as in transformers. Where the
    /// global batch changed on the way, what is left of the data decides how
    /// many steps are left; no row is seen twice in an epoch or left out.
    pub fn new(rows: u64, global_batch: u64, length: Length, step: u64, cursor: Cursor) -> Self {
        let total = match length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => {
                let per_epoch = rows.div_ceil(global_batch);
                let planned = ceil_to_steps(epochs * per_epoch as f64);
                let left_in_epoch = (rows - cursor.offset.min(rows)).div_ceil(global_batch);
                let position = (cursor.epoch + 1) * per_epoch - left_in_epoch;
                step + planned.saturating_sub(position)
            }
        };
        Self { rows, global_batch, total }
    }

    /// Samples of the next step: positions `[offset, end)` of the epoch.
    pub fn next(&self, cursor: Cursor) -> std::ops::Range<u64> {
        cursor.offset..(cursor.offset + self.global_batch).min(self.rows)
    }

    /// Where the cursor stands after the next step. An offset of 0 means that
    /// an epoch is done.
    pub fn after(&self, cursor: Cursor) -> Cursor {
        let offset = self.next(cursor).end;
        if offset < self.rows {
            Cursor { offset, ..cursor }
        } else {
            Cursor { epoch: cursor.epoch + 1, offset: 0 }
        }
    }

    /// Passes over the data done, as a fraction.
    pub fn epochs(&self, cursor: Cursor) -> f64 {
        cursor.epoch as f64 + cursor.offset as f64 / self.rows as f64
    }
}

/// Rounds up. Configuration bounds keep the value far below 2⁶³.
fn ceil_to_steps(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= value < 2^63"
    )]
    let steps = value.ceil() as u64;
    steps.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Cursor = Cursor { epoch: 0, offset: 0 };

    #[test]
    fn totals_are_those_of_transformers() {
        for (rows, global_batch, length, want) in [
            (100, 8, Length::Epochs(3.0), 39),
            (100, 10, Length::Epochs(1.0), 10),
            (100, 8, Length::Epochs(0.5), 7),
            (3, 8, Length::Epochs(2.0), 2),
            (100, 8, Length::Steps(5), 5),
        ] {
            let horizon = Horizon::new(rows, global_batch, length, 0, START);
            assert_eq!(horizon.total, want, "{rows} rows by {global_batch}");
        }
    }

    #[test]
    fn the_total_is_the_same_from_every_step_of_the_run() {
        let length = Length::Epochs(2.5);
        let horizon = Horizon::new(101, 8, length, 0, START);
        let mut cursor = START;
        for step in 0..horizon.total {
            assert_eq!(Horizon::new(101, 8, length, step, cursor), horizon, "step {step}");
            cursor = horizon.after(cursor);
        }
    }

    #[test]
    fn a_smaller_world_sees_the_rest_of_the_rows_once() {
        let before = Horizon::new(100, 16, Length::Epochs(2.0), 0, START);
        let mut cursor = START;
        (0..3).for_each(|_| cursor = before.after(cursor));
        let after = Horizon::new(100, 8, Length::Epochs(2.0), 3, cursor);
        let mut seen = 3 * 16;
        for _ in 3..after.total {
            seen += after.next(cursor).count();
            cursor = after.after(cursor);
        }
        assert_eq!((seen, cursor), (200, Cursor { epoch: 2, offset: 0 }));
    }
}
