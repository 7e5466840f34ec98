//! What the parts of a gateway share: the table in force, and whether the
//! gateway is ready or on its way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::metrics::Metrics;
use crate::table::Table;

/// Shared by traffic, admin port and table source.
#[derive(Debug, Default)]
pub struct State {
    table: RwLock<Option<Arc<Table>>>,
    was_ready: AtomicBool,
    draining: AtomicBool,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

impl State {
    /// Nothing known yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The table in force.
    pub fn table(&self) -> Option<Arc<Table>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests that come from now on are routed by `table`.
    pub fn route_by(&self, table: Table) {
        self.metrics.routed(&table.document);
        if table.total() > 0 {
            self.was_ready.store(true, Ordering::Release);
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(table));
    }

    /// Whether a Service may send requests here: a table with a backend was
    /// loaded, and the gateway is not on its way out.
    pub fn is_ready(&self) -> bool {
        self.was_ready.load(Ordering::Acquire) && !self.is_draining()
    }

    /// No new clients, please.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the gateway is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }
}
