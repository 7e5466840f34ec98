//! What is missing or empty in rows, as the trainer would tell it.

use arrow_array::{Array, RecordBatch};
use hearth_crds::preparation::SplitBy;

use super::key::time;
use super::value::{Scalar, scalar};
use super::{Pictures, Pieces, Touched};

/// What is wrong with each row.
pub(super) fn flaws(batch: &RecordBatch, touched: &Touched) -> Vec<Option<String>> {
    let mut flaws = vec![None; batch.num_rows()];
    let mut each = |flaw: &dyn Fn(usize) -> Option<String>| {
        for (row, told) in flaws.iter_mut().enumerate() {
            if told.is_none() {
                *told = flaw(row);
            }
        }
    };
    for name in touched.texts() {
        match batch.column_by_name(name).and_then(Pieces::of) {
            Some(pieces) => each(&|row| flaw_of_text(&pieces, row, name)),
            None => each(&|_| Some(missing(name))),
        }
    }
    if let Some(name) = touched.image() {
        match batch.column_by_name(name).and_then(Pictures::of) {
            Some(pictures) => each(&|row| pictures.get(row).is_none().then(|| missing(name))),
            None => each(&|_| Some(missing(name))),
        }
    }
    if let Some(name) = touched.label() {
        match batch.column_by_name(name) {
            Some(column) => each(&|row| flaw_of_label(column, row, name, touched.classes())),
            None => each(&|_| Some(missing(name))),
        }
    }
    let windows = touched.time().map(|name| (SplitBy::Time, name));
    for (by, name) in touched.split().into_iter().chain(windows) {
        match batch.column_by_name(name) {
            Some(column) => each(&|row| match by {
                _ if column.is_null(row) => Some(missing(name)),
                SplitBy::Time if time(column, row).is_none() => Some(format!(
                    "field {name:?} is neither a number nor a time as RFC 3339 has it"
                )),
                _ => None,
            }),
            None => each(&|_| Some(missing(name))),
        }
    }
    flaws
}

fn missing(name: &str) -> String {
    format!("field {name:?} is missing")
}

fn flaw_of_text(pieces: &Pieces<'_>, row: usize, name: &str) -> Option<String> {
    if pieces.is_missing(row) {
        return Some(missing(name));
    }
    let empty = if pieces.are_messages() {
        pieces.range(row).is_empty()
    } else {
        pieces.iter(row).all(|text| text.trim().is_empty())
    };
    empty.then(|| format!("field {name:?} is empty"))
}

fn flaw_of_label(column: &dyn Array, row: usize, name: &str, classes: bool) -> Option<String> {
    match scalar(column, row) {
        Scalar::Null => Some(missing(name)),
        Scalar::Text("") => Some(format!("field {name:?} is empty")),
        Scalar::Text(_) | Scalar::Int(_) => None,
        Scalar::Float(_) | Scalar::Bool(_) if !classes => None,
        _ => Some(format!("field {name:?} is neither a string nor a whole number")),
    }
}
