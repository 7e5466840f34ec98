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
        let display = Self::bar(name, ProgressDrawTarget::stderr());
        if let Self::Bar(bar) = &display {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        display
    }

    fn bar(name: &str, target: ProgressDrawTarget) -> Self {
        // The style comes first: each later change draws.
        let bar = ProgressBar::with_draw_target(None, target)
            .with_style(style(SPINNER))
            .with_prefix(name.to_owned());
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
            Self::Bar(bar) => {
                // The bar is locked while it is suspended.
                let text = format!("{} {text}", bar.prefix());
                bar.suspend(|| err(&text));
            }
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use indicatif::{InMemoryTerm, TermLike as _};

    use super::*;

    fn at(step: i64) -> Snapshot {
        let mut now = Snapshot { state: "training".to_owned(), ..Snapshot::default() };
        now.progress.step = step;
        now.progress.total_steps = 8;
        now.progress.loss = Some(0.25);
        now
    }

    #[test]
    fn a_bar_shows_steps_and_does_not_wait_for_itself_when_news_comes() {
        let terminal = InMemoryTerm::new(4, 80);
        let mut display =
            Display::bar("spam", ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        assert_eq!(terminal.width(), 80);
        display.state("starting");
        let first = terminal.contents();

        let (done, waits) = mpsc::channel();
        std::thread::spawn(move || {
            display.say("2 agents started");
            display.training(&at(0), &at(2));
            let Display::Bar(bar) = &display else { return };
            bar.tick();
            let _ = done.send(terminal.contents());
            display.end();
        });
        let shown =
            waits.recv_timeout(Duration::from_secs(20)).expect("the bar is drawn and nobody waits");
        assert!(first.starts_with("spam ") && first.ends_with(" starting"), "{first:?}");
        assert!(!first.contains('░') && !first.contains('█'), "{first:?}");
        assert!(
            shown.starts_with("spam ██████") && shown.contains(" 2/8  loss 0.2500"),
            "{shown:?}"
        );
    }
}
