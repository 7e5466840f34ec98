//! The one thread that owns the model, and the way to it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use tokio::sync::oneshot;

use super::metrics::BatchMetrics;
use super::queue::{Bounds, Next, Queue};
use crate::backlog::{Refused, can_wait};
use crate::data::pictures::normalize;
use crate::data::{PixelFormat, collate};
use crate::model::embedder::Embedder;
use crate::model::{Dropout, Model, ModelError};

/// What a model gives of a text: probabilities of the classes in the order of their ids, or a
/// vector. Shared with whoever asks again.
pub type Answer = Arc<[f32]>;

/// What a row is made of: token ids, or bytes of prepared pixels.
pub trait Unit: Copy + Send + Sync + 'static {
    /// Tokens that a row counts as.
    fn tokens(row: &[Self]) -> usize;
    /// Adds a row to a hash.
    fn hash(row: &[Self], hasher: &mut blake3::Hasher);
}

impl Unit for u32 {
    fn tokens(row: &[Self]) -> usize {
        row.len()
    }

    fn hash(row: &[Self], hasher: &mut blake3::Hasher) {
        let bytes: Vec<u8> = row.iter().flat_map(|id| id.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
}

impl Unit for u8 {
    fn tokens(_: &[Self]) -> usize {
        0
    }

    fn hash(row: &[Self], hasher: &mut blake3::Hasher) {
        hasher.update(row);
    }
}

/// What computes rows.
pub trait Compute: Send + 'static {
    /// What a row is made of.
    type Unit: Unit;
    /// One answer a row. Rows must not be empty.
    fn answers(&mut self, rows: &[&[Self::Unit]]) -> Result<Vec<Answer>, ModelError>;
}

/// One row, and where its answer goes.
struct Item<U> {
    row: Vec<U>,
    reply: oneshot::Sender<Result<Answer, String>>,
}

impl<U: Unit> Compute for Box<dyn Compute<Unit = U>> {
    type Unit = U;

    fn answers(&mut self, rows: &[&[U]]) -> Result<Vec<Answer>, ModelError> {
        self.as_mut().answers(rows)
    }
}

/// An answer did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Not taken.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The model failed.
    #[error("the model failed: {0}")]
    Model(String),
    /// The computing thread is gone.
    #[error("the computing thread has ended")]
    Gone,
}

/// Hands rows to the computing thread.
#[derive(Clone)]
pub struct Engine<U> {
    shared: Arc<Shared<U>>,
    depth: usize,
}

struct Shared<U> {
    queue: Mutex<Queue<Item<U>>>,
    arrived: Condvar,
    started: Instant,
    metrics: Arc<BatchMetrics>,
}

impl<U: Unit> Engine<U> {
    /// Starts the computing thread. It ends after [`Self::close`], once the
    /// queue is empty; the handle then returns.
    pub fn start(
        mut model: impl Compute<Unit = U>,
        bounds: Bounds,
        metrics: Arc<BatchMetrics>,
    ) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let depth = bounds.depth;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::new(bounds)),
            arrived: Condvar::new(),
            started: Instant::now(),
            metrics,
        });
        let own = shared.clone();
        let thread = std::thread::Builder::new()
            .name("compute".to_owned())
            .spawn(move || own.compute(&mut model))?;
        Ok((Self { shared, depth }, thread))
    }

    /// Rows that may wait.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Refuses what could never wait.
    pub fn check(&self, rows: usize) -> Result<(), Refused> {
        can_wait(rows, self.depth)
    }

    /// The answers of rows, in their order.
    pub async fn answers(&self, rows: Vec<Vec<U>>) -> Result<Vec<Answer>, EngineError> {
        self.shared.metrics.tokens(rows.iter().map(|row| U::tokens(row)).sum());
        let (items, replies): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .map(|row| {
                let (reply, receiver) = oneshot::channel();
                (Item { row, reply }, receiver)
            })
            .unzip();
        self.shared.offer(items)?;
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            let answer = reply.await.map_err(|_| EngineError::Gone)?;
            answers.push(answer.map_err(EngineError::Model)?);
        }
        Ok(answers)
    }

    /// Takes nothing more; what waits is still computed.
    pub fn close(&self) {
        self.shared.lock().close();
        self.shared.arrived.notify_all();
    }
}

impl<U: Unit> Shared<U> {
    fn lock(&self) -> MutexGuard<'_, Queue<Item<U>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, items: Vec<Item<U>>) -> Result<(), Refused> {
        let mut queue = self.lock();
        queue.offer(items, self.started.elapsed())?;
        self.metrics.queue_depth(queue.len());
        self.arrived.notify_one();
        Ok(())
    }

    fn compute(&self, model: &mut impl Compute<Unit = U>) {
        while let Some(batch) = self.take() {
            // Whoever went away needs no answer.
            let batch: Vec<Item<U>> =
                batch.into_iter().filter(|item| !item.reply.is_closed()).collect();
            if batch.is_empty() {
                continue;
            }
            self.metrics.batch(batch.len());
            let rows: Vec<&[U]> = batch.iter().map(|item| item.row.as_slice()).collect();
            match model.answers(&rows) {
                Ok(answers) => {
                    for (item, answer) in batch.into_iter().zip(answers) {
                        let _ = item.reply.send(Ok(answer));
                    }
                }
                Err(error) => {
                    let why = crate::agent::service::chain(&error);
                    tracing::error!("{why}");
                    for item in batch {
                        let _ = item.reply.send(Err(why.clone()));
                    }
                }
            }
        }
    }

    /// Waits for a batch; `None` once the queue is closed and empty.
    fn take(&self) -> Option<Vec<Item<U>>> {
        let mut queue = self.lock();
        loop {
            let now = self.started.elapsed();
            queue = match queue.next(now) {
                Next::Batch(batch) => {
                    self.metrics.queue_depth(queue.len());
                    return Some(batch);
                }
                Next::Closed => return None,
                Next::Idle => self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Next::WaitUntil(time) => {
                    let wait: Duration = time.saturating_sub(now);
                    let woken = self.arrived.wait_timeout(queue, wait);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

/// A classifier with what it needs to compute texts.
pub struct TextClassifier {
    /// The classifier.
    pub classifier: Model,
    /// Id that fills rows up.
    pub pad: u32,
    /// Where it computes.
    pub device: Device,
}

impl TextClassifier {
    /// Logits `[B, C]` of rows.
    pub fn logits(&self, rows: &[&[u32]]) -> Result<Tensor, ModelError> {
        self.classifier.logits(&collate(rows, self.pad, self.device)?, Dropout::Off)
    }
}

impl Compute for TextClassifier {
    type Unit = u32;

    fn answers(&mut self, rows: &[&[u32]]) -> Result<Vec<Answer>, ModelError> {
        tch::no_grad(|| probabilities(&self.logits(rows)?))
    }
}

/// An embedder with what it needs to compute texts.
pub struct TextEmbedder {
    /// The embedder.
    pub embedder: Embedder,
    /// Id that fills rows up.
    pub pad: u32,
    /// Where it computes.
    pub device: Device,
}

impl Compute for TextEmbedder {
    type Unit = u32;

    fn answers(&mut self, rows: &[&[u32]]) -> Result<Vec<Answer>, ModelError> {
        tch::no_grad(|| by_row(&self.embedder.embed(&collate(rows, self.pad, self.device)?)?))
    }
}

/// A classifier of pictures with what it needs to compute them.
pub struct PictureClassifier {
    /// The classifier.
    pub classifier: Model,
    /// How prepared pixels become its input.
    pub format: PixelFormat,
    /// Where it computes.
    pub device: Device,
}

impl PictureClassifier {
    /// Logits `[B, C]` of prepared pictures.
    pub fn logits(&self, rows: &[&[u8]]) -> Result<Tensor, ModelError> {
        let pixels = normalize(&rows.concat(), rows.len(), self.format, self.device)?;
        self.classifier.classify_pixels(&pixels, Dropout::Off)
    }
}

impl Compute for PictureClassifier {
    type Unit = u8;

    fn answers(&mut self, rows: &[&[u8]]) -> Result<Vec<Answer>, ModelError> {
        tch::no_grad(|| probabilities(&self.logits(rows)?))
    }
}

/// Softmax of the logits of each row.
pub fn probabilities(logits: &Tensor) -> Result<Vec<Answer>, ModelError> {
    by_row(&logits.f_softmax(-1, Kind::Float)?)
}

/// A table's rows. What is not finite is no answer.
fn by_row(table: &Tensor) -> Result<Vec<Answer>, ModelError> {
    let rows = Vec::<Vec<f32>>::try_from(&table.f_to_device(Device::Cpu)?)?;
    if !rows.iter().flatten().all(|number| number.is_finite()) {
        return Err(ModelError::Pass("what the model gives is not finite"));
    }
    Ok(rows.into_iter().map(Answer::from).collect())
}
