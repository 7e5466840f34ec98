//! `hearth-worker simulate`: bank transfers that nobody made.

use std::path::PathBuf;

use hearth_crds::worker_config::ExitCode;
use hearth_simulate::{Options, transfers, write};
use jiff::civil::date;
use jiff::tz::TimeZone;

use crate::agent::service::chain;

/// What is simulated, and where it goes.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Directory of `transfers.parquet` and `accounts.parquet`.
    #[arg(long)]
    directory: PathBuf,
    /// Accounts.
    #[arg(long, default_value_t = Options::default().accounts, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    accounts: u32,
    /// Days, from Monday, 2026-01-05, on.
    #[arg(long, default_value_t = Options::default().days, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Cases of laundering for 1,000 accounts and 30 days.
    #[arg(long, default_value_t = Options::default().cases)]
    cases: f64,
    /// Decides on everything: the same seed gives the same bytes.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Writes them; the process's exit code.
pub fn run(arguments: &Arguments) -> i32 {
    let Arguments { directory, accounts, days, cases, seed } = arguments;
    let made = transfers(&Options { accounts: *accounts, days: *days, cases: *cases, seed: *seed });
    let suspicious = made.iter().filter(|transfer| transfer.typology.is_some()).count();
    let start = date(2026, 1, 5).to_zoned(TimeZone::UTC).map(|time| time.timestamp());
    let start = start.unwrap_or_else(|_| unreachable!("a day of the calendar"));
    match write(directory, &made, start) {
        Ok(()) => {
            let directory = directory.display();
            tracing::info!(%directory, transfers = made.len(), suspicious, "simulated");
            ExitCode::Done as i32
        }
        Err(error) => {
            tracing::error!("{}", chain(&error));
            ExitCode::Failure as i32
        }
    }
}
