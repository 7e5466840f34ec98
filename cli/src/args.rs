//! The command line.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hearth_crds::source::Source;
use hearth_crds::training_job::Task;

/// Train, compress and serve models on a private Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the jobs of a YAML file on this machine, without a cluster.
    Run(RunArgs),
    /// Follow a TrainingJob or ModelDeployment of a cluster until it is done.
    Watch(WatchArgs),
    /// Let a ModelDeployment's new revision take its next step, or all of them.
    Promote(PromoteArgs),
    /// Let a new revision go no further; it is still judged.
    Pause(RolloutArgs),
    /// Let a paused revision go on.
    Resume(RolloutArgs),
    /// Send a new revision back; the old one gets all traffic.
    Rollback(RolloutArgs),
    /// Try a revision again that was sent back.
    Retry(RolloutArgs),
    /// Make an API key for the clients of a ModelDeployment.
    Key(KeyArgs),
    /// Draw a run's curves: loss, quality, learning rate, gradient norm, throughput.
    Plot(PlotArgs),
    /// Print a TrainingJob that does what a TrainingArguments, SFTConfig or DPOConfig says.
    Convert(ConvertArgs),
    /// Print the version.
    Version,
}

/// Runs the TrainingJobs of FILE as processes of this machine: the same YAML, the
/// same checks and the same worker as on a cluster.
///
/// The file is read as strictly as the API server reads it. `workers.replicas`
/// agents are started; they train, save checkpoints and export the model as they
/// do in pods. `workers.resources` and what places pods are a cluster's business
/// and are not enforced here.
///
/// Several documents run one after the other, and the first failure ends the run.
///
/// Ctrl-C lets the agents save a checkpoint; the same command then goes on from
/// it. The exit code is 0 for a model, 130 after Ctrl-C, 64-78 for an error that a
/// retry cannot mend, else 1.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  hearth run manifests/samples/spam.yaml --volume models=./models --volume data=./data"
)]
pub struct RunArgs {
    /// YAML file; `-` reads standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Directory that stands for a PersistentVolumeClaim of `pvc://CLAIM/…`. May be repeated.
    #[arg(long = "volume", value_name = "CLAIM=DIR", value_parser = volume)]
    pub volumes: Vec<(String, PathBuf)>,
    /// The hearth-worker program [default: beside this one, else in PATH].
    #[arg(long, env = "HEARTH_WORKER", value_name = "PROGRAM")]
    pub worker: Option<PathBuf>,
    /// Agents to start instead of `workers.replicas`. The batch of one optimizer
    /// step grows and shrinks with them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1024))]
    pub workers: Option<i32>,
    /// Show what the agents log.
    #[arg(long, short)]
    pub verbose: bool,
}

/// Follows an object until it is done, with a progress bar on a terminal and with
/// plain lines elsewhere.
///
/// Ends with 0 once a TrainingJob has succeeded or a ModelDeployment is ready, with
/// 1 when it has failed (the message says why), with 124 when --timeout has passed.
/// What it follows goes on in any case.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hearth watch spam\n  kubectl hearth watch spam -n team-a --kind ModelDeployment --timeout 10m"
)]
pub struct WatchArgs {
    /// Name of the object.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Namespace [default: the context's].
    #[arg(long, short, value_name = "NS")]
    pub namespace: Option<String>,
    /// Kind of the object.
    #[arg(long, short, value_enum, ignore_case = true, default_value_t = Kind::TrainingJob)]
    pub kind: Kind,
    /// Context of the kubeconfig [default: the current one].
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// Longest time to follow it, such as 90s or 20m [default: no limit].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Names a ModelDeployment. What is said about its rollout is written into its annotation
/// hearth.dev/rollout-order, which takes the verb patch on modeldeployments; the operator acts
/// on it. It concerns the present revision alone.
#[derive(Debug, Args)]
pub struct RolloutArgs {
    /// Name of the ModelDeployment.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Namespace [default: the context's].
    #[arg(long, short, value_name = "NS")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one].
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
}

/// Lets the new revision of a ModelDeployment take its next step, whatever this one waits for; a
/// revision that is bad by rollout.analysis is sent back all the same.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kubectl hearth promote spam -n team-a")]
pub struct PromoteArgs {
    /// Whose rollout.
    #[command(flatten)]
    pub rollout: RolloutArgs,
    /// All traffic at once, without the steps that are left and without judging it.
    #[arg(long)]
    pub full: bool,
}

/// Prints a Secret with the hash of a new API key, for `gateway.apiKeys` of a ModelDeployment; and
/// the key itself, once, on standard error. It is written nowhere else.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  kubectl hearth key billing --secret shop-keys -n team-a | \\\n    kubectl apply --server-side --field-manager hearth-key-billing -f -"
)]
pub struct KeyArgs {
    /// Name of the client.
    #[arg(value_name = "CLIENT", value_parser = name)]
    pub client: String,
    /// The Secret. It may hold keys of other clients, which stay.
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub secret: String,
    /// Requests that one gateway pod lets in in a minute [default: no limit].
    #[arg(long, value_name = "N")]
    pub requests_per_minute: Option<NonZeroU32>,
    /// Namespace of the Secret [default: kubectl's].
    #[arg(long, short, value_name = "NS")]
    pub namespace: Option<String>,
}

/// Draws the curves of a run on the terminal, or as a picture with --png or --svg.
///
/// RUN is the output directory of a job on this machine (or its metrics.jsonl), or
/// the name of a TrainingJob that runs in the cluster: its first worker is asked
/// through the API server, which takes the verb get on pods/proxy.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hearth plot models/spam\n  hearth plot spam -n team-a --png spam.png"
)]
pub struct PlotArgs {
    /// Output directory, metrics.jsonl, or TrainingJob.
    #[arg(value_name = "RUN")]
    pub run: String,
    /// Write a PNG instead of drawing on the terminal. No fonts are needed.
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
    /// Write an SVG instead of drawing on the terminal.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Namespace [default: the context's].
    #[arg(long, short, value_name = "NS")]
    pub namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one].
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
}

/// Reads a configuration of transformers' Trainer or of TRL and prints the TrainingJob
/// that does the same. Older names (`evaluation_strategy`, `warmup_ratio`) are known.
///
/// What was renamed, left out or changed is told in comments above the job and on
/// standard error. What the configuration does not say (the model, the data) is there
/// as a comment, unless it is given here.
///
/// Ends with 64 and prints no job where a field changes the result and has no
/// counterpart, unless --lenient is given. `--fields` prints what becomes of each field.
#[derive(Debug, Default, Args)]
#[command(
    after_help = "Example:\n  hearth convert args.json --name spam --task SequenceClassification --model pvc://models/minilm \\\n    --train pvc://data/spam.jsonl --output pvc://models/spam | kubectl apply -f -"
)]
pub struct ConvertArgs {
    /// JSON or YAML file; `-` reads standard input.
    #[arg(value_name = "FILE", required_unless_present = "fields")]
    pub file: Option<PathBuf>,
    /// Whose configuration it is [default: told by its fields].
    #[arg(long, value_name = "CLASS", value_enum, ignore_case = true)]
    pub from: Option<Origin>,
    /// PEFT's adapter_config.json.
    #[arg(long, value_name = "FILE")]
    pub peft: Option<PathBuf>,
    /// Name of the job [default: `run_name`, where it can be one].
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,
    /// Task of the job [default: CausalLM for TRL, else by the adapters].
    #[arg(long, value_name = "TASK", value_parser = task)]
    pub task: Option<Task>,
    /// Where the model is, such as pvc://models/minilm.
    #[arg(long, value_name = "URI", value_parser = location)]
    pub model: Option<String>,
    /// Where the training rows are.
    #[arg(long, value_name = "URI", value_parser = location)]
    pub train: Option<String>,
    /// Where the evaluation rows are.
    #[arg(long, value_name = "URI", value_parser = location)]
    pub eval: Option<String>,
    /// Where the model goes.
    #[arg(long, value_name = "URI", value_parser = location)]
    pub output: Option<String>,
    /// Leave out what is refused, and print the job all the same.
    #[arg(long)]
    pub lenient: bool,
    /// Print what becomes of each field, as Markdown.
    #[arg(long, exclusive = true)]
    pub fields: bool,
}

/// Whose configuration a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Origin {
    /// `transformers.TrainingArguments`.
    #[value(name = "TrainingArguments")]
    TrainingArguments,
    /// `trl.SFTConfig`.
    #[value(name = "SFTConfig")]
    SftConfig,
    /// `trl.DPOConfig`.
    #[value(name = "DPOConfig")]
    DpoConfig,
}

/// Kinds that can be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Trains a model.
    #[value(name = "TrainingJob", aliases = ["trainingjobs", "tj"])]
    TrainingJob,
    /// Serves a model.
    #[value(name = "ModelDeployment", aliases = ["modeldeployments", "md"])]
    ModelDeployment,
}

/// An object's name.
fn name(text: &str) -> Result<String, String> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    Err("write lower case letters, digits and \"-\", at most 63".to_owned())
}

/// Whether an object may have this name (RFC 1123).
pub(crate) fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A task, as the spec writes it.
fn task(text: &str) -> Result<Task, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// A location, as the spec writes it.
fn location(text: &str) -> Result<String, String> {
    Source::parse(text).map(|source| source.to_string()).map_err(|error| error.to_string())
}

/// `CLAIM=DIR`.
fn volume(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((claim, directory)) if !claim.is_empty() && !directory.is_empty() => {
            Ok((claim.to_owned(), PathBuf::from(directory)))
        }
        _ => Err("write CLAIM=DIRECTORY, such as models=./models".to_owned()),
    }
}

/// `90s`, `20m`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration =
        text.parse().map_err(|_| "write a time such as 90s, 20m or 2h".to_owned())?;
    parsed.try_into().map_err(|_| "a time cannot be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("hearth").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn kinds_are_known_as_kubectl_knows_them() {
        for (written, want) in [
            ("TrainingJob", Kind::TrainingJob),
            ("trainingjob", Kind::TrainingJob),
            ("tj", Kind::TrainingJob),
            ("modeldeployments", Kind::ModelDeployment),
            ("MD", Kind::ModelDeployment),
        ] {
            let Command::Watch(args) = parse(&format!("watch x --kind {written}")).unwrap().command
            else {
                panic!("watch is watch");
            };
            assert_eq!(args.kind, want, "{written}");
        }
        assert!(parse("watch x --kind Pod").is_err());
    }

    #[test]
    fn bad_arguments_are_refused_with_the_form_to_write() {
        for (line, want) in [
            ("run f --volume models", "write CLAIM=DIRECTORY"),
            ("run f --volume =x", "write CLAIM=DIRECTORY"),
            ("run f --workers 0", "0 is not in 1..=1024"),
            ("convert f --model models/minilm", "has no known scheme"),
            ("convert f --name Spam", "write lower case letters"),
            ("convert f --task Poetry", "SequenceClassification"),
            ("convert", "<FILE>"),
            ("watch x --timeout soon", "write a time such as 90s"),
            ("watch x --timeout=-5s", "cannot be negative"),
        ] {
            let said = parse(line).unwrap_err().to_string();
            assert!(said.contains(want), "{line}: {said}");
        }
    }
}
