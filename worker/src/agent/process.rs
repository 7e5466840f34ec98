//! Duties towards the operating system: orphans are reaped, and a rank dies
//! with its agent.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};

/// Process id of the agent, for its ranks.
pub const AGENT_PID_VARIABLE: &str = "HEARTH_AGENT_PID";
/// Zombies do no harm for this long.
const REAP_INTERVAL: Duration = Duration::from_secs(5);

/// Asks the kernel to kill this rank when its agent dies, so that a killed
/// agent leaves no rank behind that trains beside its successor's. Does
/// nothing in a process that no agent started.
pub fn die_with_agent() {
    let variable = std::env::var(AGENT_PID_VARIABLE).ok();
    let Some(agent) = variable.and_then(|pid| pid.parse::<i32>().ok()) else {
        return;
    };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        tracing::warn!(%error, "this rank will outlive a killed agent");
    }
    // The agent may have died before the request was made.
    if rustix::process::getppid().is_none_or(|parent| parent.as_raw_pid() != agent) {
        tracing::error!("the agent that started this rank is gone");
        std::process::exit(1);
    }
}

/// As PID 1: collects processes that lost their parent, for ever. `ours` are
/// children that somebody else waits for.
pub async fn reap_orphans(ours: impl Fn() -> Vec<Pid>) {
    if std::process::id() != 1 {
        return;
    }
    let mut interval = tokio::time::interval(REAP_INTERVAL);
    loop {
        interval.tick().await;
        let ours = ours();
        for pid in zombies().into_iter().filter(|pid| !ours.contains(pid)) {
            // Gone already: fine.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Dead children of PID 1, by `/proc/PID/stat`: `pid (name) state parent …`,
/// where the name may hold spaces and brackets.
fn zombies() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let is_zombie = |stat: &str| {
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        (fields.next(), fields.next()) == (Some("Z"), Some("1"))
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_zombie(&stat))
        })
        .filter_map(Pid::from_raw)
        .collect()
}
