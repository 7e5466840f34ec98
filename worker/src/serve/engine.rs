//! The one thread that owns the model, and the way to it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};
use tokio::sync::oneshot;

use super::metrics::BatchMetrics;
use super::queue::{Bounds, Next, Queue};
use crate::backlog::{Refused, can_wait};
use crate::data::collate;
use crate::model::embedder::Embedder;
use crate::model::{Dropout, Model, ModelError};

/// What a model gives of a text: probabilities of the classes in the order of their ids, or a
/// vector. Shared with whoever asks again.
pub type Answer = Arc<[f32]>;

/// What computes texts that were tokenized.
pub trait Compute: Send + 'static {
    /// One answer a row. Rows must not be empty.
    fn answers(&mut self, rows: &[&[u32]]) -> Result<Vec<Answer>, ModelError>;
}

/// One text, and where its answer goes.
struct Item {
    ids: Vec<u32>,
    reply: oneshot::Sender<Result<Answer, String>>,
}

impl Compute for Box<dyn Compute> {
    fn answers(&mut self, rows: &[&[u32]]) -> Result<Vec<Answer>, ModelError> {
        self.as_mut().answers(rows)
    }
}

/// A text's answer did not come.
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

/// Hands texts to the computing thread.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    depth: usize,
}

struct Shared {
    queue: Mutex<Queue<Item>>,
    arrived: Condvar,
    started: Instant,
    metrics: Arc<BatchMetrics>,
}

impl Engine {
    /// Starts the computing thread. It ends after [`Self::close`], once the
    /// queue is empty; the handle then returns.
    pub fn start(
        mut model: impl Compute,
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

    /// Refuses what could never wait.
    pub fn check(&self, texts: usize) -> Result<(), Refused> {
        can_wait(texts, self.depth)
    }

    /// The answers of texts that were tokenized, in their order.
    pub async fn answers(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Answer>, EngineError> {
        self.shared.metrics.tokens(texts.iter().map(Vec::len).sum());
        let (items, replies): (Vec<_>, Vec<_>) = texts
            .into_iter()
            .map(|ids| {
                let (reply, receiver) = oneshot::channel();
                (Item { ids, reply }, receiver)
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue<Item>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, items: Vec<Item>) -> Result<(), Refused> {
        let mut queue = self.lock();
        queue.offer(items, self.started.elapsed())?;
        self.metrics.queue_depth(queue.len());
        self.arrived.notify_one();
        Ok(())
    }

    fn compute(&self, model: &mut impl Compute) {
        while let Some(batch) = self.take() {
            // Whoever went away needs no answer.
            let batch: Vec<Item> =
                batch.into_iter().filter(|item| !item.reply.is_closed()).collect();
            if batch.is_empty() {
                continue;
            }
            self.metrics.batch(batch.len());
            let rows: Vec<&[u32]> = batch.iter().map(|item| item.ids.as_slice()).collect();
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
    fn take(&self) -> Option<Vec<Item>> {
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

impl Compute for TextClassifier {
    /// Softmax of the logits of each row.
    fn answers(&mut self, rows: &[&[u32]]) -> Result<Vec<Answer>, ModelError> {
        tch::no_grad(|| {
            let batch = collate(rows, self.pad, self.device)?;
            let logits = self.classifier.logits(&batch, Dropout::Off)?;
            by_row(&logits.f_softmax(-1, Kind::Float)?)
        })
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
    fn answers(&mut self, rows: &[&[u32]]) -> Result<Vec<Answer>, ModelError> {
        tch::no_grad(|| by_row(&self.embedder.embed(&collate(rows, self.pad, self.device)?)?))
    }
}

/// A table's rows.
pub fn by_row(table: &Tensor) -> Result<Vec<Answer>, ModelError> {
    let rows = Vec::<Vec<f32>>::try_from(&table.f_to_device(Device::Cpu)?)?;
    Ok(rows.into_iter().map(Answer::from).collect())
}
