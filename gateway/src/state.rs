//! What the parts of a gateway share: the table in force, and whether the
//! gateway is ready or on its way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hearth_crds::routing::Measured;
use tokio::time::Instant;

use crate::load::Loads;
use crate::metrics::Metrics;
use crate::table::Table;

/// Time between two looks at whether something is to be measured.
const MARK_PAUSE: Duration = Duration::from_millis(500);

/// Shared by traffic, admin port and table source.
#[derive(Debug, Default)]
pub struct State {
    table: RwLock<Option<Arc<Table>>>,
    was_ready: AtomicBool,
    draining: AtomicBool,
    loads: Loads,
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
    pub fn route_by(&self, mut table: Table) {
        self.metrics.routed(&table.document);
        if table.total() > 0 {
            self.was_ready.store(true, Ordering::Release);
        }
        let mut place = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.keep_counts(place.as_deref());
        table.count_in(&self.loads);
        *place = Some(Arc::new(table));
    }

    /// What was counted by the table in force.
    pub(crate) fn measured(&self) -> Measured {
        let table = self.table();
        let meter = table.as_ref().and_then(|table| table.meter());
        let loads = self.loads.read(Instant::now());
        Measured { loads, ..meter.map(|meter| meter.read()).unwrap_or_default() }
    }

    /// Keeps windows of what is counted, for ever.
    pub async fn mark_windows(&self) {
        loop {
            self.loads.sample(Instant::now());
            if let Some(meter) = self.table().as_ref().and_then(|table| table.meter()) {
                meter.mark(Instant::now());
            }
            tokio::time::sleep(MARK_PAUSE).await;
        }
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
