//! The load of `make bench-operator`: creates jobs at once or at a rate, and tells when
//! their child Jobs and pods were seen.
//!
//! With `--replay`, each creation is followed by requests that an operator was seen to
//! make: the floor, below which no operator with these writes can be.

#![allow(clippy::print_stdout, reason = "the result is the output")]

mod children;
mod requests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use kube::Client;
use serde_json::json;

use children::Children;
use requests::Script;

/// Creates jobs and awaits their children.
#[derive(Debug, Parser)]
struct Args {
    /// Where jobs are created, such as `/apis/hearth.dev/v1alpha1/namespaces/bench/trainingjobs`.
    #[arg(long)]
    path: String,
    /// One job as JSON; `@NAME@` stands for its name.
    #[arg(long)]
    template: PathBuf,
    /// Namespace of the jobs.
    #[arg(long, default_value = "bench")]
    namespace: String,
    /// What jobs' names begin with.
    #[arg(long, default_value = "job")]
    prefix: String,
    /// Jobs to create.
    #[arg(long)]
    jobs: usize,
    /// Jobs a second; as fast as `connections` allow where left out.
    #[arg(long)]
    rate: Option<f64>,
    /// Requests under way at once, where no rate is given.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Pods to await of each job.
    #[arg(long, default_value_t = 0)]
    pods: usize,
    /// Requests after each creation, as JSON.
    #[arg(long)]
    replay: Option<PathBuf>,
    /// Seconds after which what is missing is an error.
    #[arg(long, default_value_t = 900)]
    limit: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    // Two TLS providers are compiled in; rustls will not choose between them.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_default().await.context("no cluster: set KUBECONFIG")?;
    let script = Script::read(&args.path, &args.template, args.replay.as_deref())?;
    let mut children =
        Children::watch(&client, (&args.namespace, &args.prefix), args.jobs, args.pods).await?;

    let began = Instant::now();
    let both =
        async { tokio::try_join!(create(&client, &args, &script, began), children.all_seen()) };
    let limit = Duration::from_secs(args.limit);
    let Ok(ended) = tokio::time::timeout(limit, both).await else {
        anyhow::bail!("after {} s: {}", args.limit, children.missing());
    };
    let (sent, ()) = ended?;
    println!("{}", report(began, &sent, &children));
    Ok(())
}

/// Creates all jobs. Gives when each was sent.
async fn create(
    client: &Client,
    args: &Args,
    script: &Script,
    began: Instant,
) -> anyhow::Result<Vec<Instant>> {
    let due = |index: usize| match args.rate {
        #[expect(clippy::cast_precision_loss, reason = "thousands of jobs")]
        Some(rate) => began + Duration::from_secs_f64(index as f64 / rate),
        None => began,
    };
    let at_once = if args.rate.is_some() { args.jobs } else { args.connections };
    let mut sent: Vec<(usize, Instant)> = futures::stream::iter(0..args.jobs)
        .map(|index| async move {
            tokio::time::sleep_until(due(index).into()).await;
            let now = Instant::now();
            script.play(client, &children::name(&args.prefix, index)).await.map(|()| (index, now))
        })
        .buffer_unordered(at_once)
        .try_collect()
        .await?;
    sent.sort_unstable_by_key(|(index, _)| *index);
    Ok(sent.into_iter().map(|(_, at)| at).collect())
}

/// Seconds until the last child, and percentiles of the time from a creation's start
/// to its child Job.
fn report(began: Instant, sent: &[Instant], children: &Children) -> serde_json::Value {
    let mut waits: Vec<f64> = sent
        .iter()
        .zip(children.jobs_seen())
        .map(|(sent, seen)| seen.saturating_duration_since(*sent).as_secs_f64())
        .collect();
    waits.sort_unstable_by(f64::total_cmp);
    let percentile = |of: usize| waits[(waits.len() * of).div_ceil(100).saturating_sub(1)];
    json!({
        "seconds": children.last_seen().duration_since(began).as_secs_f64(),
        "p50": percentile(50),
        "p99": percentile(99),
        "max": percentile(100),
    })
}
