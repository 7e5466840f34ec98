//! CPU time and memory of a process, from `/proc/PID/stat` (proc_pid_stat(5)).

use std::time::{Duration, Instant};

/// Fields behind the command's closing bracket, from 0: the state is field 3
/// of the manual page.
const STATE: usize = 0;
const UTIME: usize = 11;
const STIME: usize = 12;
const RSS: usize = 21;

/// What a process has used and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its threads, user and system.
    pub cpu: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
}

impl Usage {
    /// Of a process; `None` once it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let ticks = rustix::param::clock_ticks_per_second();
        Self::of_stat(&stat, ticks, rustix::param::page_size() as u64)
    }

    fn of_stat(stat: &str, ticks_per_second: u64, page_bytes: u64) -> Option<Self> {
        // The command, in brackets, may hold spaces and brackets itself.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        if matches!(*fields.get(STATE)?, "Z" | "X") {
            return None;
        }
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        let ticks = number(UTIME)? + number(STIME)?;
        Some(Self {
            cpu: Duration::try_from_secs_f64(ticks as f64 / ticks_per_second as f64).ok()?,
            resident_bytes: number(RSS)? * page_bytes,
        })
    }
}

/// Cores that a process keeps busy between two looks at it.
#[derive(Debug, Default)]
pub struct CpuMeter {
    before: Option<(u32, Instant, Duration)>,
}

impl CpuMeter {
    /// CPU seconds a second since the last look (1 is one core); `None` at the
    /// first look at a process.
    pub fn cores(&mut self, pid: u32, usage: &Usage, now: Instant) -> Option<f64> {
        let before = self.before.replace((pid, now, usage.cpu));
        let (_, then, cpu) = before.filter(|(old, ..)| *old == pid)?;
        let seconds = now.checked_duration_since(then)?.as_secs_f64();
        (seconds > 0.0).then(|| usage.cpu.saturating_sub(cpu).as_secs_f64() / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_behind_any_command_name() {
        let fields = "S 1 7 7 0 -1 4194304 90 0 0 0 250 50 0 0 20 0 3 0 100 999999 1000 18446744073709551615";
        for command in ["hearth-worker", "a) S (b", "two words"] {
            let stat = format!("7 ({command}) {fields}");
            let want = Usage { cpu: Duration::from_secs(3), resident_bytes: 4_096_000 };
            assert_eq!(Usage::of_stat(&stat, 100, 4096), Some(want), "{command}");
        }
        let zombie = format!("7 (x) {}", fields.replacen('S', "Z", 1));
        assert_eq!(Usage::of_stat(&zombie, 100, 4096), None);
        assert_eq!(Usage::of_stat("7 (x) S 1", 100, 4096), None);
    }

    #[test]
    fn this_process_holds_memory_and_a_process_that_is_gone_is_none() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        // Above the largest pid_max of Linux, 2^22.
        assert_eq!(Usage::of(1 << 23), None);
    }

    #[test]
    fn cores_are_counted_for_one_process_at_a_time() {
        let mut meter = CpuMeter::default();
        let usage = |seconds| Usage { cpu: Duration::from_secs(seconds), resident_bytes: 0 };
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meter.cores(7, &usage(10), at(0)), None);
        assert_eq!(meter.cores(7, &usage(16), at(4)), Some(1.5));
        assert_eq!(meter.cores(8, &usage(1), at(5)), None, "another process has another past");
        assert_eq!(meter.cores(8, &usage(1), at(6)), Some(0.0));
    }
}
