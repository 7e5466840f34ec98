//! Features of entities: read when a model is served, loaded into their store, and joined to
//! training rows as they were at each row's time.
//!
//! ```text
//! config: settings -> checked views    layout: names in the store    value: texts there <-> values
//! store: how the server is reached     link: one connection that comes back    client: rows -> features
//! column: Arrow's values               read: Parquet -> entries      load: entries -> the store
//! history: features by entity and time -> rows as of theirs
//! ```
//!
//! Invariants:
//! 1. A request never waits longer than its timeout for features, whatever the store does.
//! 2. What training rows are joined to was true at their time: no later value is ever seen.
//! 3. Loading the same files again, after a kill or beside another load, leaves the store the same.
//! 4. No message holds a value of a feature, nor a password.

mod client;
mod column;
mod config;
mod error;
mod history;
mod layout;
mod link;
mod load;
mod metrics;
mod read;
mod store;
mod value;

pub use client::{FeatureClient, MAX_LOOKUPS, Row};
pub use config::Views;
pub use error::{ConfigError, LoadError, LookupError, Reason, TableError};
pub use history::{Fill, History, HistoryBuilder, HistoryOptions, Joined};
pub use layout::{MAX_ENTITY_BYTES, entity_of, redis_key};
pub use load::{LoadOptions, LoadReport, load};
pub use metrics::{FeatureMetrics, Outcome};
pub use read::Columns;
pub use store::{Access, Password, Store};
