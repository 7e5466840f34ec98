//! Parses the command line and runs. See `hearth-operator --help`.

use clap::Parser;

use crate::args::{Cli, Command};
use crate::{crd_files, run, telemetry};

/// What `hearth-operator` does.
pub fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Crds(args) => crd_files::run(args.write.as_deref()),
        Command::Run(args) => {
            telemetry::start(args.log_format);
            run::run(args)
        }
    }
}
