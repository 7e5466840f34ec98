//! Reads a learning rate range test (Smith 2017, "Cyclical Learning Rates for Training Neural
//! Networks", section 3.3): the rate grows from step to step, and the loss says where it helps.

/// The first rate.
pub const FIRST: f64 = 1e-7;
/// The last rate.
pub const LAST: f64 = 1.0;
/// Steps from the first to the last.
pub const STEPS: u64 = 100;
/// The test ends where the smoothed loss is so many times the lowest.
pub const DIVERGED: f64 = 4.0;
/// Share of the past in the smoothed loss.
const SMOOTHING: f64 = 0.9;

/// The rate of a step: equal factors from [`FIRST`] to [`LAST`].
pub fn rate(step: u64) -> f64 {
    FIRST * (LAST / FIRST).powf(step as f64 / (STEPS - 1) as f64)
}

/// A test on its way.
#[derive(Clone, Debug, Default)]
pub struct RangeTest {
    mean: f64,
    /// `(rate, smoothed loss)`.
    points: Vec<(f64, f64)>,
}

/// What a test found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Where the smoothed loss falls fastest: a learning rate to start from.
    pub steepest: f64,
    /// Where it is lowest: beyond it training goes wrong.
    pub lowest: f64,
}

impl RangeTest {
    /// Takes note of the loss before the step at `rate`. Whether to go on.
    pub fn observe(&mut self, rate: f64, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        self.mean = SMOOTHING * self.mean + (1.0 - SMOOTHING) * loss;
        // Without the weight of the 0 that the mean began with.
        let steps = i32::try_from(self.points.len()).unwrap_or(i32::MAX).saturating_add(1);
        let smooth = self.mean / (1.0 - SMOOTHING.powi(steps));
        let lowest = self.points.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        self.points.push((rate, smooth));
        smooth <= DIVERGED * lowest
    }

    /// `None` where the loss never fell.
    pub fn found(&self) -> Option<Found> {
        let (lowest_at, (lowest, loss)) = self
            .points
            .iter()
            .copied()
            .enumerate()
            .min_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b))?;
        let first = self.points.first()?.1;
        if loss > 0.98 * first {
            return None;
        }
        // Rates grow by equal factors, so differences are slopes over their logarithm.
        let steepest = self.points[..=lowest_at]
            .windows(2)
            .map(|pair| (pair[1].1 - pair[0].1, pair[0].0))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        Some(Found { steepest: steepest.1, lowest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_grow_by_equal_factors() {
        assert!((rate(0) - FIRST).abs() < 1e-20 && (rate(STEPS - 1) - LAST).abs() < 1e-9);
        assert!((rate(51) / rate(50) - rate(11) / rate(10)).abs() < 1e-9);
    }

    #[test]
    fn the_steepest_fall_lies_before_the_lowest_loss() {
        // Falls around 1e-3, rises beyond 1e-1.
        let loss =
            |rate: f64| 2.0 - 1.5 / (1.0 + (1e-3 / rate).powi(2)) + 1e3 * (rate / 0.3).powi(6);
        let mut test = RangeTest::default();
        let made =
            (0..STEPS).take_while(|step| test.observe(rate(*step), loss(rate(*step)))).count();
        assert!((60..99).contains(&made), "it stops as the loss diverges: {made} steps");
        let found = test.found().unwrap();
        assert!((5e-4..1e-2).contains(&found.steepest), "{found:?}");
        assert!(found.lowest > found.steepest && found.lowest < 0.3, "{found:?}");
    }

    #[test]
    fn a_loss_that_never_falls_finds_nothing() {
        let mut test = RangeTest::default();
        for step in 0..STEPS {
            test.observe(rate(step), 0.7);
        }
        assert_eq!(test.found(), None);
        assert!(!test.observe(1.0, f64::NAN));
    }
}
