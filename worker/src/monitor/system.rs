//! An agent's figures of its ranks and their GPUs, and rank 0's of itself.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use serde_json::{Map, Value};

use super::figure::Figure;
use super::gpu::{GpuFigures, Gpus};
use super::process::{CpuMeter, Usage};
use crate::event::StepReport;

/// Between two looks at processes and GPUs.
const INTERVAL: Duration = Duration::from_secs(2);
/// Steps of each rank over which the wait for data is averaged.
const WAIT_WINDOW: usize = 20;

/// A rank of this agent: as many values as it has ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RankLabel {
    local_rank: u32,
}

/// A GPU by CUDA's number, which is its rank's `LOCAL_RANK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GpuLabel {
    gpu: u32,
}

type Seconds = Counter<f64, AtomicU64>;

/// What Prometheus reads from every agent.
#[derive(Debug)]
pub struct SystemMetrics {
    registry: Registry,
    cpu: Family<RankLabel, Figure>,
    memory: Family<RankLabel, Gauge>,
    own_seconds: Family<RankLabel, Seconds>,
    blocked_seconds: Family<RankLabel, Seconds>,
    gpu_utilization: Family<GpuLabel, Figure>,
    gpu_memory: Family<GpuLabel, Gauge>,
    gpu_power: Family<GpuLabel, Figure>,
    read_seconds: Histogram,
    wait_ratio: Figure,
    waits: Mutex<VecDeque<Wait>>,
    ranks: u32,
    power: Figure,
}

/// A step's time, and the part of it that was spent waiting.
#[derive(Clone, Copy, Debug)]
struct Wait {
    seconds: f64,
    data_seconds: f64,
}

impl SystemMetrics {
    /// Of an agent with `ranks` ranks.
    pub fn new(ranks: u32) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            cpu: Family::default(),
            memory: Family::default(),
            own_seconds: Family::default(),
            blocked_seconds: Family::default(),
            gpu_utilization: Family::default(),
            gpu_memory: Family::default(),
            gpu_power: Family::default(),
            // 10 µs to 80 s.
            read_seconds: Histogram::new(exponential_buckets(1e-5, 3.0, 15)),
            wait_ratio: Figure::default(),
            waits: Mutex::default(),
            ranks,
            power: Figure::default(),
        };
        metrics.register()
    }

    fn register(mut self) -> Self {
        let rank = self.registry.sub_registry_with_prefix("hearth_rank");
        rank.register("cpu_cores", "Cores that a rank keeps busy", self.cpu.clone());
        rank.register("memory_bytes", "Resident memory of a rank", self.memory.clone());
        rank.register(
            "own_seconds",
            "Seconds of steps in which a rank did not wait for other ranks",
            self.own_seconds.clone(),
        );
        rank.register(
            "blocked_seconds",
            "Seconds of steps in which a rank waited for other ranks",
            self.blocked_seconds.clone(),
        );
        let gpu = self.registry.sub_registry_with_prefix("hearth_gpu");
        gpu.register(
            "utilization_ratio",
            "Share of time in which a kernel ran",
            self.gpu_utilization.clone(),
        );
        gpu.register("memory_bytes", "Memory in use on a GPU", self.gpu_memory.clone());
        gpu.register("power_watts", "Power that a GPU draws", self.gpu_power.clone());
        let io = self.registry.sub_registry_with_prefix("hearth_io");
        io.register(
            "read_seconds",
            "Seconds that a rank waited for the data of a step",
            self.read_seconds.clone(),
        );
        io.register(
            "wait_ratio",
            "Share of the newest steps' time that ranks waited for data",
            self.wait_ratio.clone(),
        );
        self
    }

    /// What there is to expose.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Power of all GPUs of this agent, where each is known.
    pub fn power_watts(&self) -> Option<f64> {
        self.power.get()
    }

    /// Takes a step of `rank`, which is one of the agent's.
    pub fn take_step(&self, rank: u32, report: &StepReport) {
        if let Some(blocked) = report.blocked_seconds {
            let label = RankLabel { local_rank: rank % self.ranks.max(1) };
            self.blocked_seconds.get_or_create(&label).inc_by(blocked);
            self.own_seconds.get_or_create(&label).inc_by((report.seconds - blocked).max(0.0));
        }
        self.read_seconds.observe(report.data_seconds);
        let mut waits = self.waits.lock().unwrap_or_else(PoisonError::into_inner);
        while waits.len() >= WAIT_WINDOW * self.ranks.max(1) as usize {
            waits.pop_front();
        }
        waits.push_back(Wait { seconds: report.seconds, data_seconds: report.data_seconds });
        let seconds: f64 = waits.iter().map(|wait| wait.seconds).sum();
        let data_seconds: f64 = waits.iter().map(|wait| wait.data_seconds).sum();
        self.wait_ratio.set((seconds > 0.0).then(|| data_seconds / seconds));
    }

    /// Looks at ranks and GPUs until the process ends, in a thread: a driver
    /// may take its time. `pids` gives the ranks that run, by `LOCAL_RANK`.
    pub fn watch(
        self: &Arc<Self>,
        pids: impl Fn() -> Vec<Option<u32>> + Send + 'static,
        with_gpus: bool,
    ) -> std::io::Result<()> {
        let metrics = Arc::clone(self);
        let look = move || {
            let mut gpus = with_gpus.then(|| Gpus::find(metrics.ranks as usize)).flatten();
            let mut meters: Vec<CpuMeter> = Vec::new();
            loop {
                metrics.look_at_ranks(&pids(), &mut meters);
                if let Some(gpus) = &mut gpus {
                    metrics.set_gpus(&gpus.look(Instant::now()));
                }
                std::thread::sleep(INTERVAL);
            }
        };
        std::thread::Builder::new().name("system-metrics".to_owned()).spawn(look).map(|_| ())
    }

    /// A rank that is gone has no figures.
    fn look_at_ranks(&self, pids: &[Option<u32>], meters: &mut Vec<CpuMeter>) {
        meters.resize_with(pids.len().max(meters.len()), CpuMeter::default);
        for (local_rank, meter) in (0..).zip(meters) {
            let label = RankLabel { local_rank };
            let pid = pids.get(local_rank as usize).copied().flatten();
            let Some((pid, usage)) = pid.and_then(|pid| Some((pid, Usage::of(pid)?))) else {
                self.cpu.remove(&label);
                self.memory.remove(&label);
                continue;
            };
            let bytes = i64::try_from(usage.resident_bytes).unwrap_or(i64::MAX);
            self.memory.get_or_create(&label).set(bytes);
            match meter.cores(pid, &usage, Instant::now()) {
                Some(cores) => self.cpu.get_or_create(&label).set(cores),
                None => drop(self.cpu.remove(&label)),
            }
        }
    }

    fn set_gpus(&self, figures: &[GpuFigures]) {
        for (gpu, figures) in (0..).zip(figures) {
            let label = GpuLabel { gpu };
            set(&self.gpu_utilization, label, figures.utilization_ratio);
            set(&self.gpu_power, label, figures.power_watts);
            match figures.memory_bytes.and_then(|bytes| i64::try_from(bytes).ok()) {
                Some(bytes) => drop(self.gpu_memory.get_or_create(&label).set(bytes)),
                None => drop(self.gpu_memory.remove(&label)),
            }
        }
        let watts: Option<f64> = figures.iter().map(|figures| figures.power_watts).sum();
        self.power.set(watts.filter(|_| !figures.is_empty()));
    }
}

fn set(family: &Family<GpuLabel, Figure>, label: GpuLabel, value: Option<f64>) {
    match value {
        Some(value) => family.get_or_create(&label).set(value),
        None => drop(family.remove(&label)),
    }
}

/// Rank 0's look at itself, for the run's journal.
#[derive(Debug, Default)]
pub struct Probe {
    meter: CpuMeter,
    gpus: Option<Gpus>,
}

impl Probe {
    /// Of this process and, `with_gpu`, its GPU.
    pub fn new(with_gpu: bool) -> Self {
        let gpus = with_gpu.then(|| Gpus::find(1)).flatten();
        let mut probe = Self { gpus, ..Self::default() };
        // The first look only starts the clock.
        probe.look();
        probe
    }

    /// What is known now: `cpuCores`, `memoryBytes`, `gpuUtilizationRatio`,
    /// `gpuMemoryBytes`, `gpuPowerWatts`.
    pub fn look(&mut self) -> Map<String, Value> {
        let (now, pid) = (Instant::now(), std::process::id());
        let usage = Usage::of(pid);
        let cores = usage.and_then(|usage| self.meter.cores(pid, &usage, now));
        let gpu = self.gpus.as_mut().and_then(|gpus| gpus.look(now).into_iter().next());
        let gpu = gpu.unwrap_or_default();
        let figures: [(&str, Option<Value>); 5] = [
            ("cpuCores", cores.map(Value::from)),
            ("memoryBytes", usage.map(|usage| usage.resident_bytes.into())),
            ("gpuUtilizationRatio", gpu.utilization_ratio.map(Value::from)),
            ("gpuMemoryBytes", gpu.memory_bytes.map(Value::from)),
            ("gpuPowerWatts", gpu.power_watts.map(Value::from)),
        ];
        let known = figures.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        known.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::metrics::encode_all;

    fn text(metrics: &SystemMetrics) -> String {
        encode_all(&[metrics.registry()])
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let metrics = SystemMetrics::new(2);
        let text = text(&metrics);
        for name in ["hearth_rank_", "hearth_gpu_", "hearth_io_wait_ratio"] {
            assert!(!text.contains(name), "{name} is in:\n{text}");
        }
        assert_eq!(metrics.power_watts(), None);
    }

    #[test]
    fn a_rank_has_figures_while_it_lives() {
        let metrics = SystemMetrics::new(2);
        let mut meters = Vec::new();
        let own = Some(std::process::id());
        metrics.look_at_ranks(&[None, own], &mut meters);
        std::thread::sleep(Duration::from_millis(20));
        metrics.look_at_ranks(&[None, own], &mut meters);
        let alive = text(&metrics);
        assert!(alive.contains("\nhearth_rank_memory_bytes{local_rank=\"1\"} "), "{alive}");
        assert!(alive.contains("\nhearth_rank_cpu_cores{local_rank=\"1\"} "), "{alive}");
        assert!(!alive.contains("local_rank=\"0\""), "{alive}");
        metrics.look_at_ranks(&[], &mut meters);
        assert!(!text(&metrics).contains("hearth_rank_memory_bytes{"));
    }

    #[test]
    fn power_is_known_where_every_gpu_tells_it() {
        let metrics = SystemMetrics::new(2);
        let gpu = GpuFigures { power_watts: Some(300.0), ..GpuFigures::default() };
        metrics.set_gpus(&[gpu, gpu]);
        assert_eq!(metrics.power_watts(), Some(600.0));
        let known = text(&metrics);
        assert!(known.contains("\nhearth_gpu_power_watts{gpu=\"1\"} 300.0\n"), "{known}");
        assert!(!known.contains("hearth_gpu_memory_bytes{"), "{known}");
        metrics.set_gpus(&[gpu, GpuFigures::default()]);
        assert_eq!(metrics.power_watts(), None);
        assert!(!text(&metrics).contains("hearth_gpu_power_watts{gpu=\"1\"}"));
    }

    #[test]
    fn waits_are_averaged_over_the_newest_steps() {
        let metrics = SystemMetrics::new(1);
        let step =
            |seconds, data_seconds| StepReport { seconds, data_seconds, ..StepReport::default() };
        metrics.take_step(0, &step(100.0, 100.0));
        for _ in 0..WAIT_WINDOW {
            metrics.take_step(0, &step(2.0, 0.5));
        }
        assert_eq!(metrics.wait_ratio.get(), Some(0.25));
        assert!(text(&metrics).contains("\nhearth_io_read_seconds_count 21\n"));
    }

    #[test]
    fn a_ranks_own_time_is_apart_from_its_wait_for_others() {
        let metrics = SystemMetrics::new(2);
        let step =
            |blocked_seconds| StepReport { seconds: 2.0, blocked_seconds, ..StepReport::default() };
        metrics.take_step(4, &step(None));
        assert!(!text(&metrics).contains("hearth_rank_own_seconds_total{"));
        metrics.take_step(5, &step(Some(0.5)));
        metrics.take_step(5, &step(Some(0.75)));
        let text = text(&metrics);
        assert!(
            text.contains("\nhearth_rank_own_seconds_total{local_rank=\"1\"} 2.75\n"),
            "{text}"
        );
        assert!(text.contains("\nhearth_rank_blocked_seconds_total{local_rank=\"1\"} 1.25\n"));
        assert!(!text.contains("local_rank=\"0\""), "{text}");
    }

    #[test]
    fn the_probe_tells_what_this_machine_knows() {
        let mut probe = Probe::new(false);
        std::thread::sleep(Duration::from_millis(20));
        let names: Vec<String> = probe.look().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["cpuCores", "memoryBytes"]);
    }
}
