//! What memory went into, and which fields make it less.

use std::fmt::Write;

/// Bytes of a rank's memory by what holds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// All that the rank may take, where that is known.
    pub limit: Option<u64>,
    /// Most that it took.
    pub peak: u64,
    /// Weights, trained or not.
    pub weights: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// What the optimizer remembers.
    pub optimizer: u64,
    /// Logits of a forward pass, where they are over a vocabulary.
    pub logits: u64,
}

/// The settings that memory depends on.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the spec")]
pub struct Settings {
    /// Items in one forward pass now.
    pub batch: usize,
    /// `training.gradientAccumulationSteps` that goes with it.
    pub accumulation: usize,
    /// `training.maxLength`.
    pub max_length: usize,
    /// `training.gradientCheckpointing`.
    pub gradient_checkpointing: bool,
    /// Whether adapters are trained.
    pub adapters: bool,
    /// Whether something is sharded over ranks.
    pub sharded: bool,
    /// Whether there are several ranks.
    pub several_ranks: bool,
    /// `training.autoFindBatchSize`.
    pub auto_find_batch_size: bool,
    /// On a GPU.
    pub cuda: bool,
}

impl Footprint {
    /// What is not accounted for: activations, mostly.
    pub fn activations(&self) -> u64 {
        let known = self.weights + self.gradients + self.optimizer;
        self.limit.unwrap_or(self.peak).max(self.peak).saturating_sub(known)
    }

    /// What went where, largest first, and what to change.
    pub fn explain(&self, settings: &Settings) -> String {
        let mut text = match self.limit {
            Some(limit) => format!("memory ran out at its limit of {}: ", size(limit)),
            None => format!("memory ran out at {}: ", size(self.peak)),
        };
        let activations = format!(
            "about {} are activations of {} x {} tokens",
            size(self.activations()),
            settings.batch,
            settings.max_length
        );
        let of_logits = match self.logits {
            0 => String::new(),
            logits => format!(" (logits over the vocabulary alone: {})", size(logits)),
        };
        let mut parts = [
            (self.activations(), activations + &of_logits),
            (self.weights, format!("{} weights", size(self.weights))),
            (self.gradients, format!("{} gradients", size(self.gradients))),
            (self.optimizer, format!("{} the optimizer's state", size(self.optimizer))),
        ];
        parts.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let parts: Vec<&str> = parts.iter().map(|(_, part)| part.as_str()).collect();
        let _ = write!(text, "{}. ", parts.join(", "));
        let _ = write!(text, "Set {}", self.remedies(settings).join("; or "));
        text
    }

    fn remedies(&self, settings: &Settings) -> Vec<String> {
        let mut remedies = Vec::new();
        let fixed = self.weights + self.gradients + self.optimizer;
        if settings.batch > 1 {
            let half = settings.batch.div_ceil(2);
            let mut remedy = format!(
                "training.perDeviceTrainBatchSize: {half} and gradientAccumulationSteps: {} (the result stays the same",
                settings.accumulation * settings.batch.div_ceil(half)
            );
            remedy.push_str(if settings.auto_find_batch_size {
                ")"
            } else {
                "; training.autoFindBatchSize: true does it by itself)"
            });
            remedies.push(remedy);
        }
        if !settings.gradient_checkpointing {
            remedies.push("training.gradientCheckpointing: true".into());
        }
        let shorter = settings.max_length / 2;
        if shorter >= 16 {
            remedies.push(format!("training.maxLength: {shorter}"));
        }
        let mut of_state = Vec::new();
        if !settings.adapters {
            of_state.push("peft (adapters need gradients and moments of under 1 % of the weights)");
        }
        if !settings.sharded && settings.several_ranks {
            of_state.push("parallelism.sharding: Full");
        }
        let at = if fixed > self.activations() { 0 } else { remedies.len() };
        for remedy in of_state.into_iter().rev() {
            remedies.insert(at, remedy.to_owned());
        }
        remedies.push(
            if settings.cuda {
                "workers on GPUs with more memory"
            } else {
                "workers.resources.limits.memory higher"
            }
            .to_owned(),
        );
        remedies
    }
}

/// Whether an error's text tells of memory that ran out: of libtorch's allocators for CPU and
/// CUDA, and of C++'s own.
pub fn tells_of_memory(text: &str) -> bool {
    ["out of memory", "not enough memory", "can't allocate memory", "bad_alloc"]
        .iter()
        .any(|phrase| text.contains(phrase))
}

fn size(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    if mebibytes >= 1024.0 {
        format!("{:.1} GiB", mebibytes / 1024.0)
    } else {
        format!("{mebibytes:.0} MiB")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        batch: 16,
        accumulation: 2,
        max_length: 512,
        gradient_checkpointing: false,
        adapters: false,
        sharded: false,
        several_ranks: true,
        auto_find_batch_size: false,
        cuda: false,
    };

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_largest_comes_first_with_the_fields_that_make_it_less() {
        let footprint = Footprint {
            limit: Some(4096 * MIB),
            peak: 4000 * MIB,
            weights: 512 * MIB,
            gradients: 512 * MIB,
            optimizer: 1024 * MIB,
            logits: 800 * MIB,
        };
        let text = footprint.explain(&SETTINGS);
        assert!(
            text.starts_with(
                "memory ran out at its limit of 4.0 GiB: about 2.0 GiB are activations of 16 x 512 tokens (logits over the vocabulary alone: 800 MiB), 1.0 GiB the optimizer's state, 512 MiB weights"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "Set training.perDeviceTrainBatchSize: 8 and gradientAccumulationSteps: 4 (the result stays the same; training.autoFindBatchSize: true does it by itself); or training.gradientCheckpointing: true; or training.maxLength: 256; or peft"
            ),
            "{text}"
        );
        assert!(text.ends_with("or workers.resources.limits.memory higher"), "{text}");
    }

    #[test]
    fn where_the_state_is_the_largest_its_fields_come_first() {
        let footprint = Footprint {
            peak: 3000 * MIB,
            weights: 1000 * MIB,
            optimizer: 1900 * MIB,
            ..Default::default()
        };
        let text = footprint.explain(&SETTINGS);
        assert!(text.contains("Set peft (adapters"), "{text}");
        let small = Settings { batch: 1, adapters: true, sharded: true, ..SETTINGS };
        let text = footprint.explain(&small);
        assert!(text.contains("Set training.gradientCheckpointing: true"), "{text}");
    }

    #[test]
    fn allocators_words_are_known() {
        for text in [
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12",
            "CUDA out of memory. Tried to allocate 2.00 GiB",
            "DefaultCPUAllocator: not enough memory: you tried to allocate 10 bytes.",
            "std::bad_alloc",
        ] {
            assert!(tells_of_memory(text), "{text}");
        }
        assert!(!tells_of_memory("mat1 and mat2 shapes cannot be multiplied"));
    }
}
