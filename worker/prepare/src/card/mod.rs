//! What is told of prepared data.

mod markdown;
mod sketch;
mod summary;

use std::collections::BTreeMap;

use hearth_crds::preparation::{DataCard, LengthCard, MalformedRow, MendedColumn};

use crate::bad_rows::BadRows;
use crate::stage::{Cleaned, Fate, Fates, ShapeReport, Written};
use crate::table::rules::TableRules;

pub use markdown::markdown;
pub(crate) use summary::Summary;

/// Name of the file of rows that were made, with what they were made of: texts of rows and
/// small pictures, which the card holds none of.
pub(crate) const SAMPLES: &str = "samples.json";

/// Tells of rows what became of them; what they were made by is for the caller to add.
pub(crate) fn card(sources: &[&Cleaned], bad: &BadRows, fates: &Fates, made: &Written) -> DataCard {
    let mut dropped = BTreeMap::new();
    let mut masked = BTreeMap::new();
    for (_, report) in sources.iter().flat_map(|source| &source.parts) {
        for (reason, count) in &report.dropped {
            *dropped.entry(reason.clone()).or_default() += count;
        }
        for (kind, count) in &report.masked {
            *masked.entry(kind.clone()).or_default() += count;
        }
    }
    for fate in [Fate::Duplicate, Fate::NearDuplicate, Fate::AlsoInEval] {
        let count = fates.count(fate);
        if let (Some(reason), true) = (fate.dropped(), count > 0) {
            dropped.insert(reason.to_owned(), count);
        }
    }
    let row = |row: &crate::bad_rows::BadRow| MalformedRow {
        file: row.file.clone(),
        line: row.line,
        reason: row.reason.clone(),
    };
    DataCard {
        rows: sources.iter().map(|source| source.rows()).sum(),
        malformed: bad.count,
        malformed_rows: bad.first.iter().map(row).collect(),
        train_rows: made.train.rows,
        eval_rows: made.eval.rows,
        dropped,
        conflicting_labels: fates.told.conflicting_labels,
        masked,
        labels: made.train.labels.values.clone(),
        eval_labels: made.eval.labels.values.clone(),
        lengths: lengths(&made.train.lengths, &made.eval.lengths),
        widths: lengths(&made.train.widths, &made.eval.widths),
        heights: lengths(&made.train.heights, &made.eval.heights),
        columns: made.train.columns(),
        ..DataCard::default()
    }
}

/// Tells what columns were mended of, and what was made of rows.
pub(crate) fn tell_shape(card: &mut DataCard, shaped: &ShapeReport, rules: &TableRules) {
    for (name, column) in rules.columns.iter().filter(|(_, column)| !column.rule.is_idle()) {
        let [filled, capped, dropped] = shaped.mended.get(name).copied().unwrap_or_default();
        if dropped > 0 {
            card.dropped.insert(format!("outlier of {name:?}"), dropped);
        }
        let rule = column.rule.describe();
        card.mended.insert(name.clone(), MendedColumn { filled, capped, dropped, rule });
    }
    card.augmented.clone_from(&shaped.made);
    card.not_augmented.clone_from(&shaped.not_made);
}

fn lengths(train: &[u64], eval: &[u64]) -> Vec<LengthCard> {
    let at = |counts: &[u64], place: usize| counts.get(place).copied().unwrap_or(0);
    (0..train.len().max(eval.len()))
        .map(|place| LengthCard {
            from: 1 << place,
            to: (2 << place) - 1,
            train: at(train, place),
            eval: at(eval, place),
        })
        .skip_while(|length| length.train + length.eval == 0)
        .collect()
}
