//! A rank that is really slowed down, by signals, is told of by name; equal ranks are not.

use std::time::{Duration, Instant};

use hearth_crds::worker_config::WorkerNote;
use rustix::process::{Pid, Signal, kill_process};

use crate::crew::{Crew, Options, wait_for};
use crate::exposition;

/// Longer than three looks.
const UNDISTURBED: Duration = Duration::from_secs(14);
const PATIENCE: Duration = Duration::from_mins(2);
/// A rank stands still for so long, then runs for as long: less than a step.
const HALF: Duration = Duration::from_millis(5);

fn straggler(crew: &Crew) -> Option<WorkerNote> {
    crew.status()?.notes.into_iter().find(|note| note.reason == "Straggler")
}

/// Stands still half of the time, until `until` gives something.
fn at_half_speed<T>(rank: Pid, limit: Duration, mut until: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        for signal in [Signal::STOP, Signal::CONT] {
            kill_process(rank, signal).unwrap();
            std::thread::sleep(HALF);
        }
        if let Some(found) = until() {
            return found;
        }
        assert!(began.elapsed() < limit, "nothing came within {limit:?}");
    }
}

#[test]
fn a_rank_at_half_speed_is_named_and_equal_ranks_are_not() {
    let change = |config: &mut serde_json::Value| {
        config["training"]["maxSteps"] = 1_000_000.into();
        config["training"]["saveSteps"] = 1_000_000.into();
        // Steps of some tens of milliseconds: all rows, in many passes.
        config["training"]["perDeviceTrainBatchSize"] = 3.into();
        config["training"]["gradientAccumulationSteps"] = 16.into();
    };
    let mut crew = Crew::start(Options { change, ..Options::default() });
    crew.wait_for_step(25);
    let began = Instant::now();
    while began.elapsed() < UNDISTURBED {
        assert_eq!(straggler(&crew), None, "equal ranks");
        std::thread::sleep(Duration::from_millis(200));
    }

    let before = blocked(&crew);
    let slowed = Instant::now();
    let told = at_half_speed(crew.rank_pid(1), PATIENCE, || straggler(&crew));
    let begins = "rank 1 (agent 1) holds up the others: it computes ";
    assert!(told.message.starts_with(begins), "{}", told.message);
    assert_eq!(told.agent, Some(1));
    // Agent 0's rank has waited for a good part of that time.
    let waited = (blocked(&crew) - before) / slowed.elapsed().as_secs_f64();
    assert!(waited > 0.2, "rank 0 waited for {waited} of the time");

    wait_for("the recovery", PATIENCE, || straggler(&crew).is_none().then_some(()));
    crew.terminate();
    assert_eq!(crew.exit_codes(), [Some(143), Some(143)]);
}

/// Seconds that agent 0's rank has waited for the other.
fn blocked(crew: &Crew) -> f64 {
    let (_, metrics) = crew.get("/metrics").unwrap();
    exposition::parse(&metrics).unwrap()["hearth_rank_blocked_seconds_total{local_rank=\"0\"}"]
}
