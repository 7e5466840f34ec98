//! The stretches of a pass → logits.

use std::cell::RefCell;
use std::fs;

use tch::{Device, Kind, Tensor};

use super::blocks::{BLOCK, SLOTS};
use super::schedule::{Schedule, Stretch, Text};
use crate::model::{Memory, Model, ModelError, Paged, Pass, Pool, Stretches};
use crate::peft::served::{Turn, Turns};
use crate::train::memory::pod_limit;

/// A model with its pool.
pub struct Computer {
    model: Model,
    turns: Turns,
    pool: Pool,
    device: Device,
    blocks: u32,
}

/// Tokens of a text, with the slots of all of its tokens so far.
struct Row<'a> {
    tokens: &'a [u32],
    slots: Vec<i64>,
    chooses: bool,
    adapter: Option<usize>,
}

impl Computer {
    /// With a pool for as many tokens as `bytes` hold, but no more than `tokens`. Refuses to do with
    /// fewer than `least`.
    pub fn new(
        (model, turns): (Model, Turns),
        device: Device,
        (least, tokens): (usize, usize),
        bytes: u64,
    ) -> Result<Self, ModelError> {
        let mut computer = Self { model, turns, pool: Pool::new(SLOTS), device, blocks: 1 };
        // The first tokens tell how much one takes, and libtorch chooses its kernels.
        let slots: Vec<i64> = (0..SLOTS).collect();
        computer.pass(&[Row { tokens: &[0; BLOCK], slots, chooses: true, adapter: None }])?;
        let one = computer.pool.bytes_per_slot().max(1);
        let fits = usize::try_from(bytes / one).unwrap_or(usize::MAX).min(tokens);
        if fits < least {
            return Err(ModelError::Room { bytes, fits, least });
        }
        computer.blocks = u32::try_from(fits.div_ceil(BLOCK)).unwrap_or(u32::MAX);
        let slots = i64::from(computer.blocks) * SLOTS;
        computer.pool = Pool::new(slots);
        tracing::info!(tokens = slots, bytes_per_token = one, "room for keys and values");
        Ok(computer)
    }

    /// Blocks of the pool.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Logits `[V]` of the texts that choose, in the order of the plan.
    pub fn logits<T>(
        &mut self,
        schedule: &Schedule<T>,
        plan: &[Stretch],
        adapter: impl Fn(&T) -> Option<usize>,
    ) -> Result<Vec<Vec<f32>>, ModelError> {
        let row = |stretch: &Stretch| {
            let text: &Text<T> = &schedule.running()[stretch.text];
            let end = stretch.start + stretch.count;
            Row {
                tokens: &text.tokens[stretch.start..end],
                slots: text.slots(end),
                chooses: stretch.chooses,
                adapter: adapter(&text.of),
            }
        };
        self.pass(&plan.iter().map(row).collect::<Vec<_>>())
    }

    fn pass(&mut self, rows: &[Row<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        tch::no_grad(|| {
            let (mut ids, mut positions, mut select) = (Vec::new(), Vec::new(), Vec::new());
            self.turns.set(turns(rows));
            for row in rows {
                ids.extend(row.tokens.iter().map(|id| i64::from(*id)));
                let (first, end) = (row.slots.len() - row.tokens.len(), row.slots.len());
                positions.extend((first..end).map(signed));
                if row.chooses {
                    select.push(signed(ids.len()) - 1);
                }
            }
            let on_device = |of: &[i64]| Tensor::f_from_slice(of)?.f_to_device(self.device);
            let slots: Vec<(usize, &[i64])> =
                rows.iter().map(|row| (row.tokens.len(), &row.slots[..])).collect();
            let stretches = Stretches::new(&slots, self.device)?;
            let input = on_device(&ids)?.f_unsqueeze(0)?;
            // Where no text has come to its end, one output is computed for nothing.
            let outputs = on_device(if select.is_empty() { &[0][..] } else { &select })?;
            let mut pass = Pass::paged(self.model.network(), &on_device(&positions)?)?;
            pass.select = Some(outputs);
            // From here to where the pool is taken back nothing may fail without it.
            let pool = std::mem::replace(&mut self.pool, Pool::new(0));
            pass.memory = Some(RefCell::new(Memory::Paged(Paged { pool, stretches })));
            let logits = self.model.forward(&input, &pass);
            if let Some(Memory::Paged(paged)) = pass.memory.map(RefCell::into_inner) {
                self.pool = paged.pool;
            }
            let logits = logits?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?;
            (0..signed(select.len())).map(|row| Ok(Vec::try_from(&logits.f_get(row)?)?)).collect()
        })
    }
}

/// Whose adapters compute which tokens.
fn turns(rows: &[Row<'_>]) -> Vec<Turn> {
    let mut start = 0;
    let turn = |row: &Row<'_>| {
        let count = signed(row.tokens.len());
        start += count;
        row.adapter.map(|adapter| Turn { adapter, start: start - count, count })
    };
    rows.iter().filter_map(turn).collect()
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Bytes of files that the pod read and the kernel keeps as long as nobody needs the room.
fn files_in_memory() -> u64 {
    let stat = fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
    let kept = ["active_file", "inactive_file"];
    let field = |line: &str| {
        let (name, bytes) = line.split_once(' ')?;
        kept.contains(&name).then(|| bytes.parse::<u64>().ok()).flatten()
    };
    stat.lines().filter_map(field).sum()
}

/// Bytes for what texts leave: half of what is free of the pod's memory or the machine's.
pub fn memory_for_texts() -> u64 {
    let of_pod = || {
        let limit = pod_limit()?;
        let current = fs::read_to_string("/sys/fs/cgroup/memory.current").ok();
        let current = current.and_then(|bytes| bytes.trim().parse::<u64>().ok()).unwrap_or(0);
        Some(limit.saturating_sub(current.saturating_sub(files_in_memory())))
    };
    let of_machine = || {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    let free = [of_pod(), of_machine()].into_iter().flatten().min();
    free.unwrap_or(1 << 30) / 2
}
