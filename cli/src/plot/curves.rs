//! Points as panels: what is drawn beside what, under which name and unit.

use hearth_crds::history::HistoryPoint;

/// Lines over one axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Panel {
    /// With the unit.
    pub(super) title: &'static str,
    pub(super) lines: Vec<Line>,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) name: &'static str,
    /// Step and value; never empty, always finite, steps rise.
    pub(super) points: Vec<(f64, f64)>,
}

/// From the least to the greatest; never empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) low: f64,
    pub(super) high: f64,
}

type Value = fn(&HistoryPoint) -> Option<f64>;

/// The panels for which there are points.
pub(super) fn panels(points: &[HistoryPoint]) -> Vec<Panel> {
    let throughput: (&str, Value) = if points.iter().any(|point| tokens(point).is_some()) {
        ("throughput (tokens/s)", tokens)
    } else {
        ("throughput (samples/s)", |point| point.samples_per_second)
    };
    let all: [(&'static str, &[(&'static str, Value)]); 6] = [
        (
            "loss (nats)",
            &[("training", |point| point.loss), ("evaluation", |point| point.eval_loss)],
        ),
        ("quality (0 to 1)", &[("F1", |point| point.f1), ("accuracy", |point| point.accuracy)]),
        ("learning rate", &[("learning rate", |point| point.learning_rate)]),
        ("gradient norm (L2, before clipping)", &[("gradient norm", |point| point.grad_norm)]),
        (throughput.0, &[("throughput", throughput.1)]),
        ("waiting for data (share of a step's time)", &[("wait", |point| point.data_wait_ratio)]),
    ];
    let panel = |(title, lines): (&'static str, &[(&'static str, Value)])| {
        let lines: Vec<Line> =
            lines.iter().filter_map(|(name, value)| line(name, points, *value)).collect();
        (!lines.is_empty()).then_some(Panel { title, lines })
    };
    all.into_iter().filter_map(panel).collect()
}

fn tokens(point: &HistoryPoint) -> Option<f64> {
    point.tokens_per_second
}

fn line(name: &'static str, points: &[HistoryPoint], value: Value) -> Option<Line> {
    let known = |point: &HistoryPoint| {
        value(point).filter(|value| value.is_finite()).map(|value| (point.step as f64, value))
    };
    let points: Vec<_> = points.iter().filter_map(known).collect();
    (!points.is_empty()).then_some(Line { name, points })
}

impl Panel {
    /// Of the values, with a little room where they do not differ.
    pub(super) fn values(&self) -> Span {
        let span = Span::of(self.lines.iter().flat_map(|line| &line.points).map(|point| point.1));
        let room = if span.high > span.low { 0.0 } else { (span.high.abs() * 0.05).max(1e-9) };
        Span { low: span.low - room, high: span.high + room }
    }
}

/// What some neighbouring points have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Group {
    /// Mean step and mean value.
    pub(super) mean: (f64, f64),
    /// From the first step to the last.
    pub(super) steps: Span,
    pub(super) values: Span,
}

impl Line {
    /// At most `most` groups of equal size: more points than that cannot be
    /// told apart. Groups of one point where there are no more.
    pub(super) fn groups(&self, most: usize) -> Vec<Group> {
        let size = self.points.len().div_ceil(most.max(1)).max(1);
        let mean = |values: &[(f64, f64)], part: fn(&(f64, f64)) -> f64| {
            values.iter().map(part).sum::<f64>() / values.len() as f64
        };
        let group = |points: &[(f64, f64)]| Group {
            mean: (mean(points, |point| point.0), mean(points, |point| point.1)),
            steps: Span::of(points.iter().map(|point| point.0)),
            values: Span::of(points.iter().map(|point| point.1)),
        };
        self.points.chunks(size).map(group).collect()
    }

    /// The means of those groups.
    pub(super) fn condensed(&self, most: usize) -> Self {
        let points = self.groups(most).iter().map(|group| group.mean).collect();
        Self { name: self.name, points }
    }
}

/// Steps of all panels: they share one axis, so that one is read below another.
pub(super) fn steps(panels: &[Panel]) -> Span {
    let lines = panels.iter().flat_map(|panel| &panel.lines);
    let span = Span::of(lines.flat_map(|line| &line.points).map(|point| point.0));
    Span { high: span.high.max(span.low + 1.0), ..span }
}

impl Span {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let nothing = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };
        values.fold(nothing, |span, value| Self {
            low: span.low.min(value),
            high: span.high.max(value),
        })
    }

    /// Where a value lies between the ends, 0 to 1.
    pub(super) fn share(self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// A number in at most 8 characters: `0.0911`, `1259`, `12.6k`, `3.3e-6`.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size < 1e-3 {
        format!("{value:.1e}")
    } else if size < 1e4 {
        // Four digits that count.
        let digits = (3.0 - size.log10().floor()).clamp(0.0, 6.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 6")]
        let text = format!("{value:.*}", digits as usize);
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    } else if size < 1e6 {
        format!("{:.1}k", value / 1e3)
    } else if size < 1e9 {
        format!("{:.1}M", value / 1e6)
    } else {
        format!("{value:.1e}")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A run of 20 steps with two evaluations.
    pub(crate) fn example() -> Vec<HistoryPoint> {
        let step = |step: i64| HistoryPoint {
            step,
            loss: Some(1.0 / step as f64),
            learning_rate: Some(1e-5 * (21 - step) as f64),
            grad_norm: Some(2.0),
            tokens_per_second: Some(1000.0 + step as f64),
            ..HistoryPoint::default()
        };
        let evaluation = |step: i64| HistoryPoint {
            step,
            eval_loss: Some(2.0 / step as f64),
            f1: Some(0.9),
            accuracy: Some(0.95),
            ..HistoryPoint::default()
        };
        let mut points: Vec<_> = (1..=20).map(step).chain([10, 20].map(evaluation)).collect();
        points.sort_by_key(|point| point.step);
        points
    }

    #[test]
    fn only_what_is_known_has_a_panel() {
        let titles: Vec<_> = panels(&example()).iter().map(|panel| panel.title).collect();
        let want = [
            "loss (nats)",
            "quality (0 to 1)",
            "learning rate",
            "gradient norm (L2, before clipping)",
            "throughput (tokens/s)",
        ];
        assert_eq!(titles, want);
        let bad = HistoryPoint { step: 1, loss: Some(f64::NAN), ..HistoryPoint::default() };
        assert_eq!(panels(&[bad]), []);
    }

    #[test]
    fn axes_have_room_and_share_their_steps() {
        let panels = panels(&example());
        assert_eq!(steps(&panels), Span { low: 1.0, high: 20.0 });
        assert_eq!(panels[0].values(), Span { low: 0.05, high: 1.0 });
        let level = panels[3].values();
        assert!(level.low < 2.0 && level.high > 2.0);
    }

    #[test]
    fn many_points_are_groups_with_their_spread() {
        let points = (0..1000).map(|step| (f64::from(step), f64::from(step % 2))).collect();
        let line = Line { name: "x", points };
        let groups = line.groups(100);
        assert_eq!(groups.len(), 100);
        let first = Group {
            mean: (4.5, 0.5),
            steps: Span { low: 0.0, high: 9.0 },
            values: Span { low: 0.0, high: 1.0 },
        };
        assert_eq!(groups[0], first);
        assert_eq!(line.condensed(1000), line);
    }

    #[test]
    fn numbers_are_short() {
        for (value, want) in [
            (0.0, "0"),
            (0.091_123, "0.09112"),
            (0.5, "0.5"),
            (13.391, "13.39"),
            (1258.6, "1259"),
            (100.0, "100"),
            (12_600.0, "12.6k"),
            (3.333e-6, "3.3e-6"),
            (2.5e6, "2.5M"),
            (-0.25, "-0.25"),
        ] {
            assert_eq!(short(value), want, "{value}");
        }
    }
}
