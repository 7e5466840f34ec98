//! Tokens in flight over time, which the operator scales servers by.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_crds::load::History;
use hearth_crds::routing::{Load, MAX_LOAD_WINDOW};
use prometheus_client::metrics::gauge::Gauge;

/// Time between two samples.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest that anything is remembered.
const REMEMBERED: Duration = Duration::from_secs(MAX_LOAD_WINDOW as u64);

/// The tokens of a server, watched.
#[derive(Debug)]
pub struct TokenLoad {
    began: Instant,
    tokens: Gauge,
    history: Mutex<History>,
}

impl TokenLoad {
    /// Of a gauge of tokens in flight.
    pub fn new(tokens: Gauge) -> Self {
        Self { began: Instant::now(), tokens, history: Mutex::default() }
    }

    /// Takes samples, for ever.
    pub async fn watch(&self) {
        loop {
            self.sample(self.began.elapsed());
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn sample(&self, now: Duration) {
        let tokens = u32::try_from(self.tokens.get()).unwrap_or(0);
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.sample(now, tokens, REMEMBERED);
    }

    /// What was seen, of a revision, with the peak of so many seconds.
    pub fn read(&self, revision: &str, window: u32) -> Load {
        let window = Duration::from_secs(window.min(MAX_LOAD_WINDOW).into());
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        Load::of(revision, &history, self.began.elapsed(), window)
    }
}
