//! `hearth`: parse, dispatch, exit.

use clap::{CommandFactory as _, FromArgMatches as _};
use hearth_cli::args::{Cli, Command};
use hearth_cli::rollout::Verb;
use hearth_cli::{convert, exit, key, plot, rollout, run, watch};

fn main() {
    let cli = parse();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        std::process::exit(exit::FAILED);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli.command)),
        Err(_) => exit::FAILED,
    };
    std::process::exit(code);
}

async fn dispatch(command: Command) -> i32 {
    match command {
        Command::Run(args) => run::run(&args).await,
        Command::Watch(args) => watch::run(&args).await,
        Command::Promote(args) => {
            let verb = if args.full { Verb::PromoteFully } else { Verb::Promote };
            rollout::run(&args.rollout, verb).await
        }
        Command::Pause(args) => rollout::run(&args, Verb::Pause).await,
        Command::Resume(args) => rollout::run(&args, Verb::Resume).await,
        Command::Rollback(args) => rollout::run(&args, Verb::Rollback).await,
        Command::Retry(args) => rollout::run(&args, Verb::Retry).await,
        Command::Key(args) => key::run(&args),
        Command::Plot(args) => plot::run(&args).await,
        Command::Convert(args) => convert::run(&args),
        Command::Version => {
            use std::io::Write as _;
            let written = writeln!(std::io::stdout(), "hearth {}", env!("CARGO_PKG_VERSION"));
            if written.is_ok() { exit::DONE } else { exit::FAILED }
        }
    }
}

/// kubectl starts `kubectl-hearth` for `kubectl hearth`; help then says the latter.
fn parse() -> Cli {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&program).file_name().unwrap_or_default();
    let command = if name == "kubectl-hearth" {
        Cli::command().bin_name("kubectl hearth")
    } else {
        Cli::command()
    };
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}
