//! CPU time and peak memory of a language model's head and loss, forward and backward: whole logits
//! against blocks. `head plain` or `head blocks`, with SmolLM2-135M's sizes; each in a process of
//! its own, as the peak is the process's.

use nccl_rs::head::{Head, block_rows};
use tch::{Device, Kind, Reduction, Tensor};

const ROWS: i64 = 2048;
const CLASSES: i64 = 49_152;
const WIDTH: i64 = 576;
const REPEATS: usize = 5;
/// Of a second, in which Linux counts time.
const TICKS: f64 = 100.0;

fn main() -> anyhow::Result<()> {
    let plain = match std::env::args().nth(1).as_deref() {
        Some("plain") => true,
        Some("blocks") => false,
        other => anyhow::bail!("plain or blocks is wanted, not {other:?}"),
    };
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let options = (Kind::Float, Device::Cpu);
    let hidden = Tensor::randn([ROWS, WIDTH], options).set_requires_grad(true);
    let weight = (Tensor::randn([CLASSES, WIDTH], options) * 0.05).set_requires_grad(true);
    let targets = Tensor::randint(CLASSES, [ROWS], (Kind::Int64, Device::Cpu));
    let before = peak()?;
    let mut seconds = Vec::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        let started = cpu_seconds()?;
        let loss = if plain {
            let logits = hidden.linear::<Tensor>(&weight, None);
            logits.cross_entropy_loss::<Tensor>(&targets, None, Reduction::Sum, -100, 0.0)
        } else {
            let block = block_rows(CLASSES);
            let head = Head { hidden: &hidden, weight: &weight, targets: &targets, block };
            head.cross_entropy(0.0)?
        };
        (loss / ROWS as f64).backward();
        seconds.push(cpu_seconds()? - started);
    }
    seconds.sort_by(f64::total_cmp);
    let mut out = std::io::stdout().lock();
    std::io::Write::write_fmt(
        &mut out,
        format_args!(
            "{:.2} CPU seconds a pass (median of {REPEATS}; {:.2} to {:.2}), {} MB above the inputs at the peak\n",
            seconds[REPEATS / 2],
            seconds[0],
            seconds[REPEATS - 1],
            (peak()? - before) / 1000,
        ),
    )?;
    Ok(())
}

/// What this process's threads have computed for.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS)
}

/// Most kilobytes that this process had in memory.
fn peak() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or_else(|| anyhow::anyhow!("no VmHWM"))?.parse()?)
}
