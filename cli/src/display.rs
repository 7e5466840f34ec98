//! A progress bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::render::{self, Snapshot};

/// Time between lines of progress, where there is no bar.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
const BAR: &str = "{prefix} {bar:24.cyan/blue} {pos}/{len}  {msg}";
const SPINNER: &str = "{prefix} {spinner} {msg}";

/// Where progress is shown.
pub(crate) enum Display {
    /// Standard error is a terminal: one moving line, news above it.
    Bar(ProgressBar),
    /// Standard output gets a line every few seconds.
    Lines { name: String, told: Option<(Instant, String)> },
}

impl Display {
    /// For the object `name`.
    pub(crate) fn new(name: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { name: name.to_owned(), told: None };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_prefix(name.to_owned());
        bar.set_style(style(SPINNER));
        bar.enable_steady_tick(Duration::from_millis(120));
        Self::Bar(bar)
    }

    /// Shows a training job's state and what is new in it.
    pub(crate) fn training(&mut self, before: &Snapshot, now: &Snapshot) {
        for news in render::news(before, now) {
            self.say(&news);
        }
        match self {
            Self::Bar(bar) => {
                let (step, total) = (now.progress.step, now.progress.total_steps);
                if total > 0 {
                    if bar.length().is_none() {
                        bar.set_style(style(BAR));
                    }
                    bar.set_length(total.unsigned_abs());
                    bar.set_position(step.unsigned_abs());
                }
                bar.set_message(render::bar_text(now));
            }
            Self::Lines { .. } => self.line(&render::line(now)),
        }
    }

    /// Shows a state that has no steps.
    pub(crate) fn state(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.set_message(text.to_owned()),
            Self::Lines { .. } => self.line(text),
        }
    }

    /// A sentence that stays.
    pub(crate) fn say(&mut self, text: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| err(&format!("{} {text}", bar.prefix()))),
            Self::Lines { name, .. } => out(&format!("{name} {text}")),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }

    /// A line of progress, unless it was just told.
    fn line(&mut self, text: &str) {
        let Self::Lines { name, told } = self else { return };
        let due = told.as_ref().is_none_or(|(at, before)| {
            before != text && (at.elapsed() >= LINE_INTERVAL || !text.starts_with("step"))
        });
        if due {
            out(&format!("{name} {text}"));
            *told = Some((Instant::now(), text.to_owned()));
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line on standard output. A reader that has gone away (`| head`) is no error.
pub(crate) fn out(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line on standard error.
pub(crate) fn err(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
