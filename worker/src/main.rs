//! `hearth-worker agent | prepare | train | quantize | cache | serve | import | merge | export | simulate | load-features`: parse, start logging, dispatch.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use hearth_worker::export::{merge, onnx};
use hearth_worker::{
    agent, import, load_features, node_cache, prepare, quantize, serve, simulate, train,
};

/// Trains, compresses and serves models.
#[derive(Parser)]
#[command(name = "hearth-worker", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start this pod's ranks, watch them, and replace the gang after a failure.
    Agent(agent::Arguments),
    /// Prepare the rows of a training job.
    Prepare(Config),
    /// Be one rank of a training job.
    Train(Config),
    /// Compress a model and check what it lost.
    Quantize(Config),
    /// Copy the model of a server to its node, where it is not there yet.
    Cache(Config),
    /// Answer requests with a model.
    Serve(Config),
    /// Make a Hugging Face directory of a GGUF file.
    Import(import::Arguments),
    /// Make one model of a model and adapters.
    Merge(merge::Arguments),
    /// Write a classifier as an ONNX file.
    Export(onnx::Arguments),
    /// Put features of entities into a feature store.
    LoadFeatures(load_features::Arguments),
    /// Write simulated bank transfers, for samples and tests.
    Simulate(simulate::Arguments),
}

#[derive(clap::Args)]
struct Config {
    /// JSON document that says what to do.
    #[arg(long, env = "HEARTH_CONFIG", default_value = hearth_crds::worker_config::CONFIG_PATH)]
    config: PathBuf,
}

fn main() {
    let Arguments { command } = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .init();
    let exit_code = match command {
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Prepare(Config { config }) => prepare::run(&config),
        Command::Train(Config { config }) => {
            agent::process::die_with_agent();
            train::run(&config)
        }
        Command::Quantize(Config { config }) => quantize::run(&config),
        Command::Cache(Config { config }) => node_cache::run(&config),
        Command::Serve(Config { config }) => serve::run(&config),
        Command::Import(arguments) => import::run(&arguments),
        Command::Merge(arguments) => merge::run(&arguments),
        Command::Export(arguments) => onnx::run(&arguments),
        Command::LoadFeatures(arguments) => load_features::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
    };
    std::process::exit(exit_code);
}
