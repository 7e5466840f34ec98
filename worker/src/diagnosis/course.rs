//! Watches loss and gradient norm over the steps of a run.

use std::collections::{BTreeSet, VecDeque};

use super::Advice;

/// Steps that a mean is taken over.
const WINDOW: usize = 20;
/// Steps after warm-up before anything is said.
const PATIENCE: u64 = 40;
/// A mean loss that is so many times the lowest is rising,
const RISE: f64 = 1.5;
/// where they are so many standard errors apart: few rows make a step, and a model that is nearly done is wrong
/// about few of them.
const SURE: f64 = 3.0;
/// A loss that fell by less than this share of its start is flat.
const FLAT: f64 = 0.01;
/// A gradient norm below this moves nothing in float32.
const VANISHED: f64 = 1e-7;
/// A gradient norm that is so many times the usual is a burst.
const BURST: f64 = 100.0;
/// Bursts in a window that are worth telling.
const BURSTS: usize = 3;
/// Share of the time at which waiting for data is worth telling.
const STARVED: f64 = 0.3;

/// Figures of one step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Optimizer steps done, this one included.
    pub step: u64,
    /// Mean loss.
    pub loss: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Share of the step in which data was waited for.
    pub data_wait: f64,
}

/// What the advice is about.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `training.learningRate`.
    pub learning_rate: f64,
    /// Steps of warm-up.
    pub warmup: u64,
    /// Steps in all.
    pub total: u64,
    /// `training.maxGradNorm`.
    pub max_grad_norm: Option<f64>,
}

/// The newest steps, and what was said.
#[derive(Debug)]
pub struct Course {
    settings: Settings,
    steps: VecDeque<Step>,
    seen: u64,
    /// The first window after warm-up: its mean loss, and its median norm.
    start: Option<(f64, f64)>,
    /// The lowest mean loss, and the square of its standard error.
    lowest: (f64, f64),
    told: BTreeSet<&'static str>,
}

impl Course {
    /// Nothing seen yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            steps: VecDeque::with_capacity(WINDOW),
            seen: 0,
            start: None,
            lowest: (f64::INFINITY, 0.0),
            told: BTreeSet::new(),
        }
    }

    /// Takes note of a step. What is worth telling is told once.
    pub fn observe(&mut self, step: Step) -> Option<Advice> {
        if step.step <= self.settings.warmup || !step.loss.is_finite() {
            return None;
        }
        if self.steps.len() == WINDOW {
            self.steps.pop_front();
        }
        self.steps.push_back(step);
        self.seen += 1;
        if self.steps.len() < WINDOW {
            return None;
        }
        let mean = self.mean(|step| step.loss);
        let median = self.median_norm();
        let (start, usual) = *self.start.get_or_insert((mean, median));
        if mean < self.lowest.0 {
            self.lowest = (mean, self.error(mean));
        }
        if self.seen < PATIENCE {
            return None;
        }
        let found = self.judge((start, mean), (usual, median))?;
        self.told.insert(found.reason).then_some(found)
    }

    /// By the mean loss and the median norm, each at the start and now.
    fn judge(&self, (start, mean): (f64, f64), (usual, median): (f64, f64)) -> Option<Advice> {
        let Settings { learning_rate, total, .. } = self.settings;
        let step = self.steps.back()?.step;
        let fell = 1.0 - mean / start;
        let flat = fell.abs() < FLAT && self.seen >= (total / 5).max(2 * PATIENCE) && mean > 0.01;
        if median < VANISHED && mean > 0.01 {
            return advice(
                "VanishingGradients",
                format!(
                    "at step {step} the gradient's norm is {median:.1e} and the loss {mean:.4}: nothing is learned; start from weights that were trained (spec.model), remove peft or raise peft.r, and see that data and labels belong together"
                ),
            );
        }
        // Gradients of a model that is nearly done are small, and those of a row that it is wrong about are not.
        if let Some(message) = self.bursts(median.max(usual)) {
            return advice("ExplodingGradients", message);
        }
        if self.rises(mean) {
            return advice(
                "LearningRateTooHigh",
                format!(
                    "the loss rose from {:.4} to {mean:.4} by step {step}; lower training.learningRate from {learning_rate:e} to {:e}, or lengthen training.warmupSteps",
                    self.lowest.0,
                    learning_rate / 10.0
                ),
            );
        }
        if flat {
            return advice(
                "LossFlat",
                format!(
                    "the loss is {mean:.4} at step {step} and was {start:.4} at the start: training.learningRate {learning_rate:e} may be too low (try {:e}) or far too high; training.learningRateRangeTest: true finds where the loss falls fastest",
                    learning_rate * 10.0
                ),
            );
        }
        let waiting = self.mean(|step| step.data_wait);
        if waiting > STARVED {
            return advice(
                "WaitingForData",
                format!(
                    "{:.0} % of a step is spent waiting for data: move data and output to faster storage, or give workers more CPU (workers.resources)",
                    100.0 * waiting
                ),
            );
        }
        None
    }

    fn rises(&self, mean: f64) -> bool {
        let (lowest, error) = self.lowest;
        let noise = SURE * (error + self.error(mean)).sqrt();
        mean > RISE * lowest && mean > lowest + noise.max(0.05)
    }

    /// The square of the standard error of the mean loss.
    fn error(&self, mean: f64) -> f64 {
        self.mean(|step| (step.loss - mean).powi(2)) / self.steps.len().max(1) as f64
    }

    fn bursts(&self, usual: f64) -> Option<String> {
        let bursts = self.steps.iter().filter(|step| step.grad_norm > BURST * usual).count();
        let most = self.steps.iter().map(|step| step.grad_norm).fold(0.0, f64::max);
        let step = self.steps.back()?.step;
        let advice = match self.settings.max_grad_norm {
            Some(norm) => format!("lower training.maxGradNorm from {norm}"),
            None => "set training.maxGradNorm to 1.0".to_owned(),
        };
        (bursts >= BURSTS && usual > 0.0).then(|| {
            format!(
                "{bursts} of the {WINDOW} steps up to {step} had a gradient over {BURST} times the usual (norm {most:.1e}, usually {usual:.1e}); {advice}, lower training.learningRate, or look for odd rows in the data"
            )
        })
    }

    fn mean(&self, figure: impl Fn(&Step) -> f64) -> f64 {
        self.steps.iter().map(figure).sum::<f64>() / self.steps.len().max(1) as f64
    }

    fn median_norm(&self) -> f64 {
        let mut norms: Vec<f64> = self.steps.iter().map(|step| step.grad_norm).collect();
        norms.sort_by(f64::total_cmp);
        norms.get(norms.len() / 2).copied().unwrap_or(0.0)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it ends the searches above")]
fn advice(reason: &'static str, message: String) -> Option<Advice> {
    Some(Advice { reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(loss: impl Fn(u64) -> f64, norm: impl Fn(u64) -> f64) -> Vec<(&'static str, u64)> {
        let settings =
            Settings { learning_rate: 1e-4, warmup: 10, total: 300, max_grad_norm: Some(1.0) };
        let mut course = Course::new(settings);
        (1..=300)
            .filter_map(|step| {
                let figures =
                    Step { step, loss: loss(step), grad_norm: norm(step), data_wait: 0.01 };
                course.observe(figures).map(|advice| (advice.reason, step))
            })
            .collect()
    }

    /// Between 0 and 1, the same on every run.
    fn noise(step: u64) -> f64 {
        (step * 7919 % 1000) as f64 / 1000.0
    }

    #[test]
    fn a_loss_that_falls_noisily_is_left_alone() {
        let falls = |step: u64| 0.1 + 2.0 * (-(step as f64) / 60.0).exp() + 0.1 * noise(step);
        assert_eq!(told(falls, |step| 0.5 + noise(step)), []);
        // Learned by the end: flat, and there is nothing left to fall.
        assert_eq!(told(|step| 0.005 * (1.0 + noise(step)), |_| 0.01), []);
    }

    #[test]
    fn a_model_that_is_nearly_done_and_wrong_about_a_row_at_times_is_left_alone() {
        let is_wrong = |step: u64| step > 60 && noise(step) > 0.9;
        let falls = |step: u64| 0.01 + 2.0 * (-(step as f64) / 15.0).exp();
        let loss = |step: u64| if is_wrong(step) { 1.0 } else { falls(step) };
        let right = |step: u64| if step > 60 { 0.08 } else { 1.0 };
        let norm = |step: u64| if is_wrong(step) { 14.0 } else { right(step) };
        assert_eq!(told(loss, norm), []);
    }

    #[test]
    fn each_trouble_is_told_once_and_by_its_name() {
        let rises = |step: u64| {
            2.0 * (-(step as f64) / 60.0).exp() + step.saturating_sub(100) as f64 / 30.0
        };
        assert!(matches!(told(rises, |_| 1.0)[..], [("LearningRateTooHigh", 110..180)]));
        assert_eq!(told(|_| 0.7, |_| 0.4), [("LossFlat", 90)]);
        assert_eq!(told(|_| 0.7, |_| 1e-9)[0], ("VanishingGradients", 50));
        let falls = |step: u64| 2.0 * (-(step as f64) / 60.0).exp();
        let bursts = |step: u64| if step > 120 && step.is_multiple_of(6) { 500.0 } else { 1.0 };
        assert!(matches!(told(falls, bursts)[..], [("ExplodingGradients", 120..150)]));
    }

    #[test]
    fn a_step_that_waits_for_its_data_is_told() {
        let settings = Settings { learning_rate: 1e-4, warmup: 0, total: 90, max_grad_norm: None };
        let mut course = Course::new(settings);
        let advice = (1..=90).find_map(|step| {
            let loss = 1.0 / step as f64;
            course.observe(Step { step, loss, grad_norm: 1.0, data_wait: 0.5 })
        });
        let advice = advice.unwrap();
        assert_eq!(advice.reason, "WaitingForData");
        assert!(advice.message.starts_with("50 %"), "{}", advice.message);
    }
}
