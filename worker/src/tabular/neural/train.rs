//! Rows → a network, step by step.

use std::time::Instant;

use hearth_crds::training_arguments::{IntervalStrategy, TrainingArguments};
use hearth_tabular::{NetworkConfig, Shape, Table, Task};
use nccl_rs::autograd::set_grad;
use nccl_rs::ops;
use tch::{Kind, Reduction, Tensor};

use super::checkpoint::{self, Checkpoint, Position};
use super::net::{Batch, Net, Noise, size};
use super::tensors::{Maker, NetworkError, Source};
use super::{AT_ONCE, TableNetwork};
use crate::config::{Adam, EarlyStopping, Length, Optim, ScheduleConfig};
use crate::data::order::{Cursor, generator, permutation};
use crate::error::Error;
use crate::model::Parameter;
use crate::train::horizon::Horizon;
use crate::train::optimizer::Optimizer;
use crate::train::schedule;

/// How a network is trained.
pub(crate) struct Asked<'a> {
    /// Its architecture.
    pub(crate) shape: Shape,
    /// What is said of training; of it, what [`hearth_crds::tabular::Neural::training`] keeps.
    pub(crate) training: &'a TrainingArguments,
    /// What a row of each label counts.
    pub(crate) label_weights: Option<Vec<f64>>,
    /// Of what the run follows from, for its checkpoints.
    pub(crate) fingerprint: &'a str,
}

/// What a step tells.
pub(crate) struct Told<'a> {
    /// Which, from 1.
    pub(crate) step: u64,
    /// Most of them.
    pub(crate) of: u64,
    /// Passes over the rows done.
    pub(crate) epoch: f64,
    /// Mean loss of the step's rows: cross-entropy in nats, weighted, or the squared error.
    pub(crate) loss: f64,
    /// L2 norm of the gradient, before it was clipped.
    pub(crate) grad_norm: f64,
    /// Learning rate.
    pub(crate) learning_rate: f64,
    /// Rows of the step.
    pub(crate) rows: u64,
    /// At the end of an epoch, how good the network is on held-out rows, where they are looked at.
    pub(crate) evaluation: Option<Evaluation>,
    /// Step of the lowest of these.
    pub(crate) best: Option<u64>,
    run: &'a Run<'a>,
}

impl Told<'_> {
    /// Writes down where training is.
    pub(crate) fn checkpoint(&self) -> Result<Vec<u8>, Error> {
        let run = self.run;
        let state = (run.net.parameters(), &run.optimizer);
        let best = run.best.as_deref();
        Ok(checkpoint::bytes(state, best, run.position, run.asked.fingerprint)?)
    }
}

/// How good a network is on held-out rows.
#[derive(Clone, Copy)]
pub(crate) struct Evaluation {
    /// Mean loss, unweighted.
    pub(crate) loss: f64,
    /// Rows.
    pub(crate) rows: u64,
    /// Seconds that it took to say.
    pub(crate) seconds: f64,
}

/// Rows, encoded, with what is predicted.
struct Data {
    batch: Batch,
    /// f32 `[R]` of one raw score, i64 `[R]` of several.
    targets: Tensor,
    rows: usize,
}

/// A run of training.
struct Run<'a> {
    asked: &'a Asked<'a>,
    net: Net,
    optimizer: Optimizer,
    task: Task,
    classes: usize,
    /// What losses are multiplied by, since a regression learns a label without its unit.
    unit: f64,
    position: Position,
    /// The weights of the lowest loss on held-out rows.
    best: Option<Vec<Tensor>>,
}

/// Trains a network on `train`. `on_step` is told of each step, and ends training by an error.
///
/// # Errors
///
/// Losses that are not finite, what `on_step` says, and what libtorch refuses.
pub(crate) fn learn(
    asked: &Asked<'_>,
    (train, eval): (&Table, Option<&Table>),
    from: Option<&Checkpoint>,
    on_step: &mut dyn FnMut(&Told<'_>) -> Result<(), Error>,
) -> Result<(NetworkConfig, TableNetwork), Error> {
    let mut config = NetworkConfig::learn(asked.shape.clone(), train, asked.training.seed);
    let features = train.features();
    let classes = features.classes();
    let random = generator(asked.training.seed, "weights of a table's network", 0);
    let net = Net::new(&config, classes, Maker::new(Source::Drawn(Box::new(random))))?;
    let done = from.map_or(0, |from| from.position.step);
    let optimizer = Optimizer::new(net.parameters(), &optim(asked.training), done)?;
    let best = from.map(|from| from.restore(net.parameters(), &optimizer)).transpose()?;
    let mut run = Run {
        asked,
        net,
        optimizer,
        task: features.task,
        classes,
        unit: config.target.map_or(1.0, |scale| scale.deviation * scale.deviation),
        position: from.map(|from| from.position).unwrap_or_default(),
        best: best.flatten(),
    };
    let data = Data::new(&config, train)?;
    let looks = asked.training.eval_strategy == IntervalStrategy::Epoch;
    let held_out = eval.filter(|_| looks).map(|eval| Data::new(&config, eval)).transpose()?;
    run.train(&data, held_out.as_ref(), on_step)?;
    config.steps = run.keep_best()?;
    let network = TableNetwork::new(config.clone(), run.net)?;
    Ok((config, network))
}

impl Data {
    fn new(config: &NetworkConfig, table: &Table) -> Result<Self, NetworkError> {
        let batch = Batch::new(config, &config.encode(table.values()), table.rows())?;
        let labels = Tensor::f_from_slice(table.labels())?;
        let targets = match config.target {
            Some(scale) => labels.f_sub_scalar(scale.mean)?.f_div_scalar(scale.deviation)?,
            None => labels,
        };
        let several = table.features().classes() > 1;
        let targets = targets.f_to_kind(if several { Kind::Int64 } else { Kind::Float })?;
        Ok(Self { batch, targets, rows: table.rows() })
    }
}

fn optim(training: &TrainingArguments) -> Optim {
    Optim::AdamW(Adam {
        beta1: training.adam_beta1,
        beta2: training.adam_beta2,
        epsilon: training.adam_epsilon,
        weight_decay: training.weight_decay,
    })
}

/// The shape of a run over that many rows.
pub(super) fn horizon(training: &TrainingArguments, rows: u64) -> Horizon {
    let batch = u64::from(training.per_device_train_batch_size.unsigned_abs()).max(1);
    let length = match u64::try_from(training.max_steps) {
        Ok(steps) if steps > 0 => Length::Steps(steps),
        _ => Length::Epochs(training.num_train_epochs),
    };
    Horizon::new((batch, false), length, (0, Cursor::default()), |_| rows)
}

impl Run<'_> {
    fn train(
        &mut self,
        data: &Data,
        held_out: Option<&Data>,
        on_step: &mut dyn FnMut(&Told<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let training = self.asked.training;
        let rows = u32::try_from(data.rows)
            .map_err(|_| Error::Internal(format!("{} rows are more than 2^32", data.rows)))?;
        let horizon = horizon(training, u64::from(rows));
        let each = horizon.steps_of(u64::from(rows)).max(1);
        let schedule = ScheduleConfig {
            shape: training.lr_scheduler_type,
            peak: training.learning_rate,
            warmup: training.warmup_steps,
        };
        let mut order = (u64::MAX, Tensor::new());
        while self.position.step < horizon.total && !self.position.over {
            let done = self.position.step;
            let cursor = Cursor { epoch: done / each, offset: done % each * horizon.global_batch };
            if order.0 != cursor.epoch {
                let rows: Vec<i64> = permutation(training.seed, cursor.epoch, rows)
                    .into_iter()
                    .map(i64::from)
                    .collect();
                order = (cursor.epoch, Tensor::f_from_slice(&rows)?);
            }
            let taken = horizon.next(cursor, u64::from(rows));
            let count = taken.end - taken.start;
            let [start, length] = [taken.start, count].map(u64::cast_signed);
            let learning_rate = schedule::rate(&schedule, done, horizon.total);
            let (loss, grad_norm) =
                self.step(data, &order.1.f_narrow(0, start, length)?, learning_rate)?;
            self.position.step = done + 1;
            let after = horizon.after(cursor, u64::from(rows));
            let ends = after.offset == 0 || self.position.step == horizon.total;
            let evaluation =
                held_out.filter(|_| ends).map(|rows| self.evaluate(rows)).transpose()?;
            if let Some(Evaluation { loss, .. }) = evaluation {
                self.take_note(loss)?;
            }
            on_step(&Told {
                step: self.position.step,
                of: horizon.total,
                epoch: Horizon::epochs(after, u64::from(rows)),
                loss: loss * self.unit,
                grad_norm,
                learning_rate,
                rows: count,
                evaluation,
                best: self.position.best_step,
                run: &*self,
            })?;
        }
        Ok(())
    }

    /// Loss and gradient norm of one step.
    fn step(&mut self, data: &Data, rows: &Tensor, rate: f64) -> Result<(f64, f64), Error> {
        let training = self.asked.training;
        let parameters = self.net.parameters();
        for parameter in parameters {
            set_grad(&parameter.tensor, None)?;
        }
        let noise = generator(training.seed, "dropout of a table's network", self.position.step);
        let mut noise = Noise::On(Box::new(noise));
        let scores = self.net.score(&self.net.embed(&data.batch.take(rows)?)?, &mut noise)?;
        let targets = data.targets.f_index_select(0, rows)?;
        let loss = self.loss(&scores, &targets, self.asked.label_weights.as_deref())?;
        let loss = loss.f_div_scalar(rows.size()[0] as f64)?;
        loss.f_backward()?;
        let gradients: Vec<Tensor> = parameters
            .iter()
            .map(|parameter| parameter.tensor.grad())
            .filter(Tensor::defined)
            .collect();
        let norm = if training.max_grad_norm > 0.0 {
            ops::clip_grad_norm_(&gradients, training.max_grad_norm)?
        } else {
            ops::total_norm(&gradients)?
        };
        let loss = f64::try_from(&loss)?;
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::NotFinite {
                step: self.position.step + 1,
                loss,
                place: format!("the norm of its gradient is {norm}"),
                in_a_row: 1,
            });
        }
        self.optimizer.step(rate)?;
        Ok((loss, norm))
    }

    /// Sum over rows.
    fn loss(
        &self,
        scores: &Tensor,
        targets: &Tensor,
        weights: Option<&[f64]>,
    ) -> Result<Tensor, NetworkError> {
        let sum = Reduction::Sum;
        let weights = weights.map(|weights| Tensor::f_from_slice(weights)?.f_to_kind(Kind::Float));
        let weights = weights.transpose()?;
        if self.classes > 1 {
            return Ok(scores.f_cross_entropy_loss(targets, weights.as_ref(), sum, -100, 0.0)?);
        }
        let scores = scores.f_squeeze_dim(1)?;
        if self.task == Task::TabularRegression {
            return Ok(scores.f_mse_loss(targets, sum)?);
        }
        let of_rows =
            weights.map(|weights| weights.f_index_select(0, &targets.f_to_kind(Kind::Int64)?));
        let of_rows = of_rows.transpose()?;
        Ok(scores.f_binary_cross_entropy_with_logits(targets, of_rows.as_ref(), None, sum)?)
    }

    /// How good it is on rows.
    fn evaluate(&self, data: &Data) -> Result<Evaluation, NetworkError> {
        let began = Instant::now();
        let all = Tensor::f_arange(size(data.rows), (Kind::Int64, tch::Device::Cpu))?;
        tch::no_grad(|| {
            let mut sum = 0.0;
            for rows in all.f_split(size(AT_ONCE), 0)? {
                let embedded = self.net.embed(&data.batch.take(&rows)?)?;
                let scores = self.net.score(&embedded, &mut Noise::Off)?;
                let targets = data.targets.f_index_select(0, &rows)?;
                sum += f64::try_from(&self.loss(&scores, &targets, None)?)?;
            }
            let loss = self.unit * sum / data.rows.max(1) as f64;
            let seconds = began.elapsed().as_secs_f64();
            Ok(Evaluation { loss, rows: data.rows as u64, seconds })
        })
    }

    /// Keeps the weights where the loss of held-out rows was never lower, where training may stop
    /// early.
    fn take_note(&mut self, loss: f64) -> Result<(), NetworkError> {
        let training = self.asked.training;
        let Some(patience) = training.early_stopping_patience else { return Ok(()) };
        let rule = EarlyStopping {
            patience: patience.unsigned_abs(),
            threshold: training.early_stopping_threshold,
        };
        if self.position.patience.best.is_none_or(|best| loss < best) {
            let copy = |parameter: &Parameter| {
                let mut kept = parameter.tensor.f_detach()?.f_zeros_like()?;
                kept.f_copy_(&parameter.tensor)?;
                Ok::<_, NetworkError>(kept)
            };
            let copies = || self.net.parameters().iter().map(copy).collect::<Result<_, _>>();
            self.best = Some(tch::no_grad(copies)?);
            self.position.best_step = Some(self.position.step);
        }
        self.position.over = self.position.patience.observe(rule, loss, false);
        Ok(())
    }

    /// Puts the best weights back, where there are some; the steps that made the weights.
    fn keep_best(&self) -> Result<u64, NetworkError> {
        let Some((best, step)) = self.best.as_ref().zip(self.position.best_step) else {
            return Ok(self.position.step);
        };
        tch::no_grad(|| {
            for (parameter, best) in self.net.parameters().iter().zip(best) {
                parameter.tensor.shallow_clone().f_copy_(best)?;
            }
            Ok(step)
        })
    }
}
