//! Everything that a rank reads before its first step.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hearth_crds::training_job::Accelerator;
use hearth_crds::worker_config::TrainConfig;
use tch::{Device, Kind};

use super::epoch::{Epoch, Sampling};
use super::evaluate::EvalOptions;
use super::gang::Gang;
use super::horizon::Horizon;
use super::inputs::{self, Beginning, Encoder};
use super::journal::Journal;
use super::memory::{self, FittingBatch};
use super::optimizer::Optimizer;
use super::rank::Rank;
use super::state::{Identity, TrainState};
use super::step::Trainer;
use super::team::{Team, whole};
use crate::checkpoint::reports::Reports;
use crate::checkpoint::store::Checkpoint;
use crate::checkpoint::{CheckpointStore, Saver};
use crate::config::{Config, ConfigError, Interval};
use crate::data::{Samples, TrainingSet};
use crate::error::Error;
use crate::event::{EventSink, Phase, RankEvent};
use crate::model::{Model, ModelConfig};
use crate::monitor::Probe;
use crate::objective::{Objective, Place, Preference, Reference};
use crate::parallel::chain::Recipe;

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
    pub(super) sampling: Sampling,
    /// The present pass over the data.
    pub(super) epoch: Epoch,
    /// Items in one forward pass.
    pub(super) micro_batch: usize,
    /// Bytes that this rank may take, where that is known.
    pub(super) memory_limit: Option<u64>,
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
    pub(super) fn prepare(
        asked: TrainConfig,
        events: &'a mut dyn EventSink,
    ) -> Result<Self, Error> {
        let config = Config::follow(asked)?;
        let rank = Rank::from_environment(&config)?;
        events.send(&RankEvent::Started {
            rank: rank.rank,
            world_size: rank.world_size,
            generation: rank.generation,
        });
        events.send(&RankEvent::Phase { phase: Phase::Loading, step: 0 });
        let stop = stop_on_sigterm()?;
        let device = device(&config, &rank)?;
        // Drivers of GPUs reserve far more addresses than memory.
        let memory_limit =
            if device.is_cuda() { None } else { memory::bound(rank.local_world_size) };

        let mut gang = Gang::meet(&rank, device, &config.parallelism)?;
        let model_config = ModelConfig::read(&config.model)?;
        let encoder = Encoder::load(&config, &model_config, gang.leads(), events)?;
        let mut data = encoder.read(&config, &model_config, &gang)?;
        refuse_threshold(&config, &data)?;
        let head = encoder.head(&data);
        let Beginning { mut model, fresh, adapters, zeros } =
            inputs::model(&config, &model_config, head, device)?;
        let place = Place {
            packed: config.packing,
            bf16: config.bf16,
            ..Place::new(encoder.pad(), device)
        };
        let objective = inputs::objective(&config, &data.train, &model, adapters.as_ref(), device)?;
        let identity = Identity {
            settings: config.fingerprint.clone(),
            data: data.fingerprint.clone(),
            model: model.fingerprint.clone(),
        };

        let checkpoints = CheckpointStore::at(&config.checkpoints, rank.generation)?;
        let resumed = find_checkpoint(&checkpoints, &identity, &gang, events)?;
        if let Objective::Preference(Preference { reference: Reference::Known, .. }) = objective {
            // Before the model moves away from its start.
            data = refer(data, &model, &config, (&gang, place), events)?;
        }
        let state = resumed.as_ref().map_or_else(
            || TrainState { identity, ..TrainState::default() },
            |from| from.state.clone(),
        );
        gang.connect(&rank)?;
        let recipe = Recipe {
            recompute: config.gradient_checkpointing,
            precision: config.bf16.then_some(Kind::BFloat16),
        };
        refuse_statistics(&model, &gang, &config)?;
        let bucket = config.bucket_cap_mb.map(|megabytes| megabytes.get() << 20);
        let team = Team::form(&mut model, &gang, &rank, recipe, bucket)?;
        let parameters = team.parameters(&model);
        let optimizer = Optimizer::new(&parameters, &config.optim, state.step)?;
        if let Some(checkpoint) = &resumed {
            let mut targets = team.targets(&parameters, &optimizer)?;
            targets.extend(whole(&model.statistics()));
            checkpoint.restore_parts(&targets)?;
        }
        gang.assemble("restored")?;
        let micro_batch = micro_batch(&config, &gang)?;
        let own = (team, parameters, optimizer);
        let mut trainer = Trainer::new((model, objective), own, &mut gang, (place, config.seed))?;
        trainer.keep_zero(&zeros)?;
        let saver = start_saver(&config, &rank, &checkpoints, &trainer)?;
        let sampling = Sampling::new(&config, encoder.max_length());
        let horizon = horizon(&config, &sampling, &data.train, gang.layout().shares(), &state)?;
        let epoch = draw(&sampling, &data.train, state.cursor.epoch);
        let journal = gang
            .leads()
            .then(|| Journal::open(&config.output, state.step, Probe::new(device.is_cuda())))
            .transpose()?;
        if gang.leads() && micro_batch < config.train_batch.get() {
            let message = format!(
                "{micro_batch} samples in a forward pass fit into memory, not training.perDeviceTrainBatchSize: {}; the batch of a step stays the same",
                config.train_batch
            );
            note(events, "BatchHalved", message);
        }
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
            sampling,
            epoch,
            micro_batch,
            memory_limit,
            state,
            checkpoints,
            journal,
            stop,
            events,
        })
    }

    /// A pass over the data.
    pub(super) fn draw(&self, number: u64) -> Epoch {
        draw(&self.sampling, &self.data.train, number)
    }
}

/// What fits into memory, as rank 0 knows of earlier attempts.
fn micro_batch(config: &Config, gang: &Gang) -> Result<usize, Error> {
    let asked = config.train_batch.get();
    if !config.auto_find_batch_size {
        return Ok(asked);
    }
    let known = gang.follow_leader("microBatch", || {
        let known = FittingBatch::read(&config.output, &config.fingerprint);
        Ok(known.unwrap_or(asked).to_string().into_bytes())
    })?;
    let known = String::from_utf8_lossy(&known).parse().unwrap_or(asked);
    Ok(known.clamp(1, asked))
}

fn draw(sampling: &Sampling, samples: &Samples, number: u64) -> Epoch {
    Epoch::new(number, sampling, samples.len(), |row| samples.length(row))
}

fn horizon(
    config: &Config,
    sampling: &Sampling,
    samples: &Samples,
    shares: usize,
    state: &TrainState,
) -> Result<Horizon, Error> {
    // Packs are another number in each epoch, and making them takes a while.
    let known = RefCell::new(HashMap::new());
    let items = |number: u64| match sampling.packing {
        None => samples.len().into(),
        Some(_) => *known
            .borrow_mut()
            .entry(number)
            .or_insert_with(|| draw(sampling, samples, number).len()),
    };
    let global_batch = config.global_batch(shares);
    let horizon = Horizon::new(
        (global_batch, sampling.drop_last),
        config.length,
        (state.step, state.cursor),
        items,
    );
    if horizon.steps_of(items(0)) == 0 {
        let detail = format!(
            "leaves nothing of {} samples, which do not fill a step's batch of {global_batch}; set it to false, or lower training.perDeviceTrainBatchSize or training.gradientAccumulationSteps",
            items(0)
        );
        return Err(ConfigError::Setting { field: "training.dataloaderDropLast", detail }.into());
    }
    Ok(horizon)
}

/// A threshold is between two labels.
fn refuse_threshold(config: &Config, data: &TrainingSet) -> Result<(), Error> {
    let labels = data.labels.names();
    if config.threshold.is_none() || labels.len() == 2 {
        return Ok(());
    }
    let detail = format!(
        "is between two labels, and {} has {}; remove it",
        config.data.train.uri,
        labels.len()
    );
    Err(ConfigError::Setting { field: "objective.threshold", detail }.into())
}

/// Running statistics follow from whole passes on whole stages.
fn refuse_statistics(model: &Model, gang: &Gang, config: &Config) -> Result<(), Error> {
    let plain = gang.layout().is_plain();
    if model.statistics().is_empty() || (plain && !config.gradient_checkpointing) {
        return Ok(());
    }
    let (field, fix) = if plain {
        ("training.gradientCheckpointing", "set it to false")
    } else {
        ("parallelism", "use sharding None and tensor, pipeline and expert 1")
    };
    let detail = format!("{} keeps running statistics (batch norm); {fix}", model.architecture());
    Err(ConfigError::Setting { field, detail }.into())
}

/// Asks the model what it thinks of every answer.
fn refer(
    data: TrainingSet,
    model: &Model,
    config: &Config,
    (gang, place): (&Gang, Place),
    events: &mut dyn EventSink,
) -> Result<TrainingSet, Error> {
    let (share, shares) = (gang.rank(), gang.world_size());
    let batch_size = config.eval_batch.get();
    let options = EvalOptions { batch_size, place, share, shares, in_lockstep: false };
    let mut pulse = Pulse::new(Phase::Loading, 0);
    let mut ask = |name, samples| {
        let mut beat = || pulse.beat(events);
        inputs::with_references(samples, model, gang, (name, &options), &mut beat)
    };
    let train = ask("train", data.train)?;
    let eval = data.eval.map(|samples| ask("eval", samples)).transpose()?;
    Ok(TrainingSet { train, eval, ..data })
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
        saver.reserve(&trainer.parts()?)?;
    }
    Ok(saver)
}

pub(crate) fn stop_on_sigterm() -> Result<Arc<AtomicBool>, Error> {
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
            if config.full_determinism {
                if std::env::var_os("CUBLAS_WORKSPACE_CONFIG").is_none() {
                    return Err(Error::Environment(
                        "training.fullDeterminism needs CUBLAS_WORKSPACE_CONFIG=:4096:8, which the agent sets".into(),
                    ));
                }
                nccl_rs::ops::use_deterministic_algorithms()?;
            }
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
