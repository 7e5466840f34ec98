//! `hearth-prepare CONFIG.json [--threads N] [--part-bytes N]`: prepares data as `hearth-worker
//! prepare` does, without a worker: for tests, which kill it, and for trying settings.

use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use hearth_crds::preparation::PrepareConfig;
use hearth_prepare::{Progress, Settings, Stage, Update, run_with};
use indicatif::{ProgressBar, ProgressStyle};

fn main() -> ExitCode {
    match prepare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> anyhow::Result<()> {
    let mut settings = Settings::default();
    let mut config = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> anyhow::Result<u64> {
            let value = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            value.parse().with_context(|| format!("{argument} {value}"))
        };
        match argument.as_str() {
            "--threads" => settings.threads = NonZeroUsize::try_from(usize::try_from(number()?)?)?,
            "--part-bytes" => settings.part_bytes = number()?,
            "--chunk-bytes" => settings.chunk_bytes = usize::try_from(number()?)?,
            "--shard-bytes" => settings.shard_bytes = number()?,
            "--sort-bytes" => settings.sort_bytes = usize::try_from(number()?)?,
            _ if config.is_none() && !argument.starts_with('-') => config = Some(argument),
            _ => bail!("{argument} is not understood: hearth-prepare CONFIG.json [--threads N]"),
        }
    }
    let path = config.context("hearth-prepare CONFIG.json [--threads N]")?;
    let file = File::open(&path).with_context(|| path.clone())?;
    let config: PrepareConfig =
        serde_json::from_reader(BufReader::new(file)).with_context(|| path.clone())?;
    for rows in [Some(&config.train), config.eval.as_ref()].into_iter().flatten() {
        if rows.path.as_os_str().is_empty() {
            bail!("{} is not on this machine; hearth-worker prepare fetches it", rows.uri);
        }
    }
    let mut bar = Bar::new();
    let prepared = run_with(&config, &settings, &mut bar)?;
    bar.shown.finish_and_clear();
    let known = if prepared.known { " (it was there)" } else { "" };
    say(&format!("{}{known}", prepared.directory.display()));
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the one place where this program says something")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// A bar on a terminal, else a line every ten seconds and at each stage.
struct Bar {
    shown: ProgressBar,
    stage: Option<Stage>,
    said: Instant,
}

const EVERY: Duration = Duration::from_secs(10);

impl Bar {
    fn new() -> Self {
        let shown = ProgressBar::new(0);
        let template = "{msg:17} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            shown.set_style(style);
        }
        Self { shown, stage: None, said: Instant::now() }
    }
}

impl Progress for Bar {
    fn update(&mut self, update: &Update) {
        let new = self.stage.replace(update.stage) != Some(update.stage);
        if self.shown.is_hidden() {
            if new || self.said.elapsed() >= EVERY {
                self.said = Instant::now();
                let Update { stage, rows, bytes, total } = update;
                say(&format!("{stage}: {rows} rows, {bytes} of {total} bytes"));
            }
            return;
        }
        if new {
            self.shown.reset();
            self.shown.set_message(update.stage.to_string());
        }
        self.shown.set_length(update.total);
        self.shown.set_position(update.bytes);
    }
}
