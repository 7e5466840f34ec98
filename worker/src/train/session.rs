//! Everything that a rank reads before its first step.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hearth_crds::training_job::Accelerator;
use tch::Device;

use super::gang::Gang;
use super::horizon::Horizon;
use super::inputs::{self, Encoder};
use super::journal::Journal;
use super::milestones::parts;
use super::optimizer::Optimizer;
use super::rank::Rank;
use super::state::{Identity, TrainState};
use super::step::Trainer;
use crate::checkpoint::reports::Reports;
use crate::checkpoint::store::Checkpoint;
use crate::checkpoint::{CheckpointStore, Saver};
use crate::config::{Config, Interval};
use crate::data::TrainingSet;
use crate::error::Error;
use crate::event::{EventSink, Phase, RankEvent};
use crate::model::{ModelConfig, load_for_training};
use crate::monitor::Probe;
use crate::objective::Place;
use crate::peft;

/// A rank that is ready to make steps.
pub(super) struct Session<'a> {
    /// Before the gang, whose store its thread needs until it ends.
    pub(super) saver: Saver,
    pub(super) config: Config,
    pub(super) gang: Gang,
    pub(super) data: TrainingSet,
    pub(super) encoder: Encoder,
    pub(super) trainer: Trainer,
    pub(super) horizon: Horizon,
    pub(super) state: TrainState,
    pub(super) checkpoints: CheckpointStore,
    /// Rank 0's.
    pub(super) journal: Option<Journal>,
    /// Set by SIGTERM.
    pub(super) stop: Arc<AtomicBool>,
    pub(super) events: &'a mut dyn EventSink,
}

impl<'a> Session<'a> {
    /// Reads configuration, data, model and checkpoint, and meets the other ranks.
    pub(super) fn prepare(path: &Path, events: &'a mut dyn EventSink) -> Result<Self, Error> {
        let config = Config::read(path)?;
        let rank = Rank::from_environment(&config)?;
        events.send(&RankEvent::Started {
            rank: rank.rank,
            world_size: rank.world_size,
            generation: rank.generation,
        });
        events.send(&RankEvent::Phase { phase: Phase::Loading, step: 0 });
        let stop = stop_on_sigterm()?;
        let device = device(&config, &rank)?;

        let mut gang = Gang::meet(&rank, device)?;
        let model_config = ModelConfig::read(&config.model)?;
        let encoder = Encoder::load(&config, &model_config, gang.leads(), events)?;
        let data = encoder.read(&config, &model_config, &gang)?;
        let head = encoder.head(&data);
        let (mut model, fresh) =
            load_for_training(&model_config, &config.model, head, device, config.seed)?;
        if let Some(peft) = &config.peft {
            peft::adapt(&mut model, &inputs::lora(peft))?;
        }
        let identity = Identity {
            settings: config.fingerprint.clone(),
            data: data.fingerprint.clone(),
            model: model.fingerprint.clone(),
        };

        let checkpoints = CheckpointStore::at(&config.output.to_string_lossy(), rank.generation)?;
        let resumed = find_checkpoint(&checkpoints, &identity, &gang, events)?;
        let state = resumed.as_ref().map_or_else(
            || TrainState { identity, ..TrainState::default() },
            |from| from.state.clone(),
        );
        let parameters = model.trainable();
        let optimizer = Optimizer::new(&parameters, config.adam, state.step)?;
        if let Some(checkpoint) = &resumed {
            let statistics = model.statistics();
            let weights = parameters
                .iter()
                .chain(&statistics)
                .map(|parameter| (format!("model.{}", parameter.name), parameter.tensor.detach()));
            let tensors: Vec<_> = weights.chain(optimizer.moments()).collect();
            checkpoint.restore(&tensors)?;
        }
        gang.connect(&rank)?;
        let objective = inputs::objective(&config.lesson, &data.train);
        let place = Place { pad: encoder.pad(), device };
        let trainer = Trainer::new((model, objective), optimizer, &mut gang, (place, config.seed))?;
        let saver = start_saver(&config, &rank, &checkpoints, &trainer)?;
        let horizon = Horizon::new(
            data.train.len().into(),
            config.global_batch(rank.world_size),
            config.length,
            state.step,
            state.cursor,
        );
        let journal = gang
            .leads()
            .then(|| Journal::open(&config.output, state.step, Probe::new(device.is_cuda())))
            .transpose()?;
        if gang.leads() {
            tell_what_was_read(&data, &fresh, resumed.as_ref(), events);
            tell_what_was_left_out(&trainer.model.left_over, events);
        }
        Ok(Self {
            saver,
            config,
            gang,
            data,
            encoder,
            trainer,
            horizon,
            state,
            checkpoints,
            journal,
            stop,
            events,
        })
    }
}

fn start_saver(
    config: &Config,
    rank: &Rank,
    checkpoints: &CheckpointStore,
    trainer: &Trainer,
) -> Result<Saver, Error> {
    let place = (rank.rank, rank.world_size);
    let master = (rank.master_address.as_str(), rank.master_port);
    let mut saver =
        Saver::start(checkpoints.clone(), Reports::connect(place, master, rank.timeout)?)?;
    if config.save != Interval::Never {
        saver.reserve(&parts(trainer.tensors()))?;
    }
    Ok(saver)
}

fn stop_on_sigterm() -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))
        .map_err(|error| Error::Internal(format!("no handler for SIGTERM: {error}")))?;
    Ok(stop)
}

fn device(config: &Config, rank: &Rank) -> Result<Device, Error> {
    tch::set_num_threads(i32::try_from(rank.threads.get()).unwrap_or(i32::MAX));
    match config.accelerator {
        Accelerator::CPU => Ok(Device::Cpu),
        Accelerator::CUDA => {
            nccl_rs::cuda::load_backend()?;
            let devices = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
            if rank.local_rank >= devices {
                return Err(Error::NoDevice { wanted: rank.local_rank, devices });
            }
            Ok(Device::Cuda(rank.local_rank))
        }
    }
}

/// The checkpoint to go on from: rank 0 chooses, all follow.
fn find_checkpoint(
    checkpoints: &CheckpointStore,
    identity: &Identity,
    gang: &Gang,
    events: &mut dyn EventSink,
) -> Result<Option<Checkpoint>, Error> {
    let mut chosen = None;
    let decision = gang.follow_leader("resume", || {
        let found = choose(checkpoints, identity, events);
        // The others learn of a refusal too: they must not wait for it.
        let told = match &found {
            Ok(Some(checkpoint)) => Ok(Some(checkpoint.state.step)),
            Ok(None) => Ok(None),
            Err(error) => Err(error.sentence()),
        };
        let message = serde_json::to_vec(&told).unwrap_or_default();
        match found {
            Ok(found) => chosen = found,
            Err(error) => {
                gang.tell("resume", &message)?;
                return Err(error);
            }
        }
        Ok(message)
    })?;
    if gang.leads() {
        return Ok(chosen);
    }
    let told: Result<Option<u64>, String> = serde_json::from_slice(&decision)
        .map_err(|error| Error::Internal(format!("rank 0's choice of checkpoint: {error}")))?;
    match told {
        Ok(step) => step.map(|step| checkpoints.open_checked(step)).transpose(),
        Err(detail) => Err(Error::LeaderFailed { detail }),
    }
}

fn choose(
    checkpoints: &CheckpointStore,
    identity: &Identity,
    events: &mut dyn EventSink,
) -> Result<Option<Checkpoint>, Error> {
    checkpoints.prepare()?;
    let found = checkpoints.newest()?;
    let on = match &found.checkpoint {
        Some(checkpoint) => format!("step {}", checkpoint.state.step),
        None => "the start".to_owned(),
    };
    for (path, reason) in &found.rejected {
        let message = format!("{}: {reason}; training goes on from {on}", path.display());
        note(events, "CheckpointCorrupt", message);
    }
    if let Some(checkpoint) = &found.checkpoint
        && let Some(what) = checkpoint.state.identity.difference(identity)
    {
        return Err(Error::OtherRun { path: checkpoints.place(), what });
    }
    Ok(found.checkpoint)
}

fn tell_what_was_read(
    data: &TrainingSet,
    fresh: &[&str],
    resumed: Option<&Checkpoint>,
    events: &mut dyn EventSink,
) {
    if let Some((file, first)) = data.skipped.first() {
        let (rows, line) = (data.skipped.len(), first.line);
        let reason = &first.reason;
        note(
            events,
            "BadRows",
            format!("{rows} malformed row(s) skipped; the first is {file}:{line}: {reason}"),
        );
    }
    match resumed {
        Some(checkpoint) => events.send(&RankEvent::Resumed {
            step: signed(checkpoint.state.step),
            path: checkpoint.path.clone(),
        }),
        None if !fresh.is_empty() => note(
            events,
            "NewWeights",
            format!(
                "the model has no {} for this task; fresh weights are trained",
                fresh.join(" and ")
            ),
        ),
        None => {}
    }
    tracing::info!(
        train = data.train.len(),
        eval = data.eval.as_ref().map_or(0, crate::data::Samples::len),
        labels = ?data.labels.names(),
        "data is read"
    );
}

/// Heads of other tasks and tables that are computed are no loss to tell of.
fn tell_what_was_left_out(tensors: &[String], events: &mut dyn EventSink) {
    let matters = |name: &&String| {
        !["lm_head.", "cls.", "score."].iter().any(|head| name.starts_with(head))
            && !name.ends_with("position_ids")
    };
    let mut left_out = tensors.iter().filter(matters);
    let Some(first) = left_out.next() else { return };
    let count = 1 + left_out.count();
    let message =
        format!("{count} tensor(s) of the model's files take no part; the first is {first}");
    note(events, "WeightsLeftOut", message);
}

/// Signs of life of a rank whose work has no event of its own.
pub(super) struct Pulse {
    phase: Phase,
    step: u64,
    spoke: Instant,
}

impl Pulse {
    /// Longest silence at work.
    const INTERVAL: Duration = Duration::from_secs(2);

    pub(super) fn new(phase: Phase, step: u64) -> Self {
        Self { phase, step, spoke: Instant::now() }
    }

    /// Repeats the phase where the rank was silent for long.
    pub(super) fn beat(&mut self, events: &mut dyn EventSink) {
        if self.spoke.elapsed() >= Self::INTERVAL {
            events.send(&RankEvent::Phase { phase: self.phase, step: signed(self.step) });
            self.spoke = Instant::now();
        }
    }
}

/// Sends a note, and logs it.
pub(super) fn note(events: &mut dyn EventSink, reason: &str, message: String) {
    tracing::warn!(reason, "{message}");
    events.send(&RankEvent::Note { reason: reason.to_owned(), message });
}

/// Step counts are far below 2⁶³.
pub(super) fn signed(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}
