//! Agents, ranks and a tiny model as real processes: what is killed comes
//! back, and the result is the one of an undisturbed run, bit for bit.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hearth_crds::worker_config::{WorkerResult, WorkerState};
use rustix::process::Signal;

use crate::crew::{self, Crew, Options, wait_for};
use crate::exposition;

/// Loss of the last step, and digest of the exported model.
fn outcome(result: &WorkerResult) -> (u64, String) {
    assert!(result.succeeded, "{result:?}");
    let loss = result.progress.as_ref().unwrap().loss.unwrap();
    (loss.to_bits(), result.model.as_ref().unwrap().digest.clone())
}

/// The outcome of a run that nothing disturbed.
fn undisturbed() -> &'static (u64, String) {
    static OUTCOME: OnceLock<(u64, String)> = OnceLock::new();
    OUTCOME.get_or_init(|| {
        let mut crew = Crew::start(Options::default());
        assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
        let result = crew.result();
        assert_eq!((result.reason.as_str(), result.restarts), ("Completed", 0));
        assert_eq!(crew.termination_message(), result);
        outcome(&result)
    })
}

#[test]
fn a_killed_rank_costs_little_and_changes_nothing() {
    let mut crew = Crew::start(Options::default());
    let before = crew.wait_for_step(30);
    let killed = Instant::now();
    crew.kill_rank(1, Signal::KILL);
    let after = wait_for("a step of the next generation", Duration::from_mins(1), || {
        let status = crew.status()?;
        let goes_on = status.generation == 2 && status.state == WorkerState::Training;
        (goes_on && !status.ranks.is_empty()).then_some(status)
    });
    let pause = killed.elapsed();
    assert!(pause < Duration::from_secs(15), "the next step came after {pause:?}");
    assert_eq!((before.restarts, after.restarts), (0, 1));
    assert_eq!(after.last_failure.as_ref().unwrap().reason, "RankKilled");
    assert_eq!(after.last_failure.unwrap().rank, Some(1));
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    let result = crew.result();
    assert_eq!(result.restarts, 1);
    assert_eq!(&outcome(&result), undisturbed());
}

#[test]
fn a_killed_agent_takes_its_ranks_along_and_may_come_back() {
    let mut crew = Crew::start(Options::default());
    crew.wait_for_step(30);
    let rank = crew.rank_pid(1);
    crew.kill_agent(1);
    wait_for("the end of its rank", Duration::from_secs(5), || (!crew::runs(rank)).then_some(()));
    wait_for("the failure", Duration::from_secs(20), || {
        crew.status().filter(|status| status.state == WorkerState::Restarting)
    });
    crew.start_agent(1);
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    let result = crew.result();
    assert_eq!(result.restarts, 1);
    assert_eq!(&outcome(&result), undisturbed());
}

#[test]
fn a_killed_coordinator_comes_back_with_its_counters() {
    let mut crew = Crew::start(Options::default());
    crew.wait_for_step(30);
    crew.kill_agent(0);
    crew.start_agent(0);
    let status = wait_for("the next generation", Duration::from_mins(1), || {
        crew.status().filter(|status| status.generation == 2)
    });
    assert_eq!(status.restarts, 1);
    assert_eq!(status.last_failure.unwrap().reason, "AgentLost");
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    assert_eq!(&outcome(&crew.result()), undisturbed());
}

#[test]
fn a_stopped_rank_is_noticed_as_a_hang() {
    let mut crew = Crew::start(Options { hang_seconds: 3.0, ..Options::default() });
    crew.wait_for_step(30);
    crew.kill_rank(1, Signal::STOP);
    let status = wait_for("the hang", Duration::from_mins(1), || {
        crew.status().filter(|status| status.restarts == 1)
    });
    let failure = status.last_failure.unwrap();
    assert_eq!((failure.reason.as_str(), failure.rank), ("RankHung", Some(1)), "{failure:?}");
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    assert_eq!(&outcome(&crew.result()), undisturbed());
}

#[test]
fn sigterm_saves_and_a_later_start_goes_on_without_counting_a_failure() {
    let mut crew = Crew::start(Options::default());
    crew.wait_for_step(30);
    crew.terminate();
    assert_eq!(crew.exit_codes(), [Some(143), Some(143)]);
    let told = crew.termination_message();
    assert_eq!((told.reason.as_str(), told.exit_code), ("Terminated", 143));
    let saved = told.checkpoint.unwrap().step;
    assert!(saved >= 30, "saved only step {saved}");
    crew.start_agent(0);
    crew.start_agent(1);
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    let result = crew.result();
    assert_eq!(result.restarts, 0);
    assert_eq!(&outcome(&result), undisturbed());
}

#[test]
fn a_permanent_error_is_told_and_not_retried() {
    let mut crew = Crew::start(Options {
        change: |config| config["data"]["train"]["path"] = "/nowhere/mail.jsonl".into(),
        ..Options::default()
    });
    assert_eq!(crew.exit_codes(), [Some(66), Some(0)]);
    let result = crew.result();
    assert_eq!((result.reason.as_str(), result.restarts), ("MissingInput", 0));
    assert!(result.message.contains("/nowhere/mail.jsonl"), "{}", result.message);
    assert_eq!(crew.termination_message(), result);
}

#[test]
fn the_restart_budget_ends_the_job() {
    let mut crew = Crew::start(Options {
        change: |config| config["maxRestarts"] = 0.into(),
        ..Options::default()
    });
    crew.wait_for_step(20);
    crew.kill_rank(0, Signal::KILL);
    assert_eq!(crew.exit_codes(), [Some(70), Some(0)]);
    let result = crew.result();
    assert_eq!(result.reason, "RestartsExhausted");
    assert!(result.message.contains("RankKilled: rank 0"), "{}", result.message);
    assert!(result.model.is_none());
}

#[test]
fn agents_of_a_job_that_has_ended_tell_so_again() {
    let mut crew = Crew::start(Options {
        change: |config| {
            config["job"]["uid"] = "3f1e".into();
            config["training"]["maxSteps"] = 20.into();
        },
        ..Options::default()
    });
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    let result = crew.result();
    let began = Instant::now();
    crew.start_agent(1);
    crew.start_agent(0);
    assert_eq!(crew.exit_codes(), [Some(0), Some(0)]);
    assert!(began.elapsed() < Duration::from_secs(10), "they trained again");
    assert_eq!(crew.termination_message(), result);
}

#[test]
fn metrics_and_history_tell_the_same_as_the_status() {
    // Never done before its processes were looked at, however fast the machine is.
    let change = |config: &mut serde_json::Value| config["training"]["maxSteps"] = 100_000.into();
    let mut crew = Crew::start(Options { change, ..Options::default() });
    crew.wait_for_step(30);
    // Processes are looked at every other second.
    let metrics = wait_for("the memory of a rank", Duration::from_secs(20), || {
        let (_, metrics) = crew.get("/metrics")?;
        metrics.contains("\nhearth_rank_memory_bytes{").then_some(metrics)
    });
    let figures = exposition::parse(&metrics).unwrap();
    let figure =
        |name: &str| *figures.get(name).unwrap_or_else(|| panic!("{name} is not in:\n{metrics}"));
    for name in [
        "hearth_training_loss",
        "hearth_training_tokens_total",
        "hearth_training_samples_per_device_second",
        "hearth_checkpoint_bytes",
        "hearth_io_read_seconds_sum",
        "hearth_rank_memory_bytes{local_rank=\"0\"}",
    ] {
        assert!(figure(name) > 0.0, "{name} in:\n{metrics}");
    }
    assert!(figure("hearth_io_read_seconds_count") >= 30.0);
    assert!((0.0..0.5).contains(&figure("hearth_io_wait_ratio")));
    // There is no GPU here, and so no figure of one.
    assert!(!metrics.contains("hearth_gpu_") && !metrics.contains("joule"), "{metrics}");
    let resources = crew.status().unwrap().resources.unwrap();
    assert!(resources.tokens_per_device_second > 0.0 && resources.power_watts.is_none());
    let (_, history) = crew.get("/history").unwrap();
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let points = history["points"].as_array().unwrap();
    assert!(points.len() >= 30, "{} points", points.len());
    assert_eq!(points[0]["step"], 1);
    let (status, _) = crew.get("/healthz").unwrap();
    assert_eq!(status, 200);
    crew.terminate();
    assert_eq!(crew.exit_codes(), [Some(143), Some(143)]);
}
