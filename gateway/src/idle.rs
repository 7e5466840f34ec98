//! A limit on waiting for the other side: it runs only while something is awaited.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// The limit, and the wait that runs against it.
#[derive(Debug)]
pub(crate) struct IdleLimit {
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl IdleLimit {
    /// Nothing is awaited yet.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, waiting: None }
    }

    /// What was awaited came.
    pub(crate) fn came(&mut self) {
        self.waiting = None;
    }

    /// Ready once the present wait is as long as the limit.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.waiting.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx)
    }
}
