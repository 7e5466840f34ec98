//! Where the routing table comes from. A source never ends and never takes a
//! good table away: what it cannot read it logs and counts.

pub mod config_map;
pub mod file;

use crate::metrics::TableTrouble;
use crate::state::State;
use crate::table::Table;

/// Takes a document over, unless it is no routing table.
fn take_over(state: &State, text: &str) {
    match Table::parse(text) {
        Ok(table) => {
            if state.table().is_some_and(|now| now.document == table.document) {
                return;
            }
            tracing::info!(routing = %summary(&table), "routing table taken over");
            state.route_by(table);
        }
        Err(error) => troubled(state, TableTrouble::Malformed, &error.to_string()),
    }
}

fn troubled(state: &State, reason: TableTrouble, message: &str) {
    state.metrics.troubled(reason);
    let stands = if state.table().is_some() { "the one before stands" } else { "there is none" };
    tracing::warn!(?reason, message, "no new routing table; {stands}");
}

/// `stable=r1@host:80 (100%)`, for the log.
fn summary(table: &Table) -> String {
    let variants = table.document.variants.iter();
    let each = variants.map(|v| format!("{}={}@{} ({}%)", v.name, v.revision, v.backend, v.weight));
    let all = each.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "no backend".to_owned() } else { all }
}
