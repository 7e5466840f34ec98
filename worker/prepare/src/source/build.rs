//! Values of JSON → Arrow's arrays.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, ListArray, StructArray};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::ArrowError;
use indexmap::IndexMap;

use super::json::{Fields, Json};
use super::kind::{Kind, arrow_fields, item_field};

/// A value at each row; `None` where a row lacks the field.
type Cells<'a> = Vec<Option<&'a Json<'a>>>;

/// The columns of `rows`.
pub(super) fn columns(
    kinds: &IndexMap<String, Kind>,
    rows: &[Fields<'_>],
) -> Result<Vec<ArrayRef>, ArrowError> {
    let cells = by_name(kinds, rows.iter().map(Some), rows.len());
    kinds.values().zip(cells).map(|(kind, cells)| array(kind, &cells)).collect()
}

fn by_name<'a>(
    kinds: &IndexMap<String, Kind>,
    rows: impl Iterator<Item = Option<&'a Fields<'a>>>,
    count: usize,
) -> Vec<Cells<'a>> {
    let mut cells = vec![vec![None; count]; kinds.len()];
    for (row, fields) in rows.enumerate() {
        for (place, (name, value)) in fields.into_iter().flatten().enumerate() {
            let column = match kinds.get_index(place) {
                Some((known, _)) if known == name => Some(place),
                _ => kinds.get_index_of(name.as_ref()),
            };
            if let Some(column) = column {
                cells[column][row] = Some(value);
            }
        }
    }
    cells
}

/// Invariant: `kind` has seen all of `cells`.
fn array(kind: &Kind, cells: &Cells<'_>) -> Result<ArrayRef, ArrowError> {
    match kind {
        Kind::Bool => {
            let mut out = BooleanBuilder::with_capacity(cells.len());
            for cell in cells {
                out.append_option(match cell {
                    Some(Json::Bool(flag)) => Some(*flag),
                    _ => None,
                });
            }
            Ok(Arc::new(out.finish()))
        }
        Kind::Int => {
            let mut out = Int64Builder::with_capacity(cells.len());
            for cell in cells {
                out.append_option(match cell {
                    Some(Json::Int(number)) => Some(*number),
                    _ => None,
                });
            }
            Ok(Arc::new(out.finish()))
        }
        Kind::Float => {
            let mut out = Float64Builder::with_capacity(cells.len());
            for cell in cells {
                out.append_option(match cell {
                    Some(Json::Float(number)) => Some(*number),
                    Some(Json::Int(number)) => Some(*number as f64),
                    _ => None,
                });
            }
            Ok(Arc::new(out.finish()))
        }
        Kind::Struct(fields) if !fields.is_empty() => structs(fields, cells),
        Kind::List(item) => lists(item, cells),
        Kind::Null | Kind::Text | Kind::Struct(_) => {
            let bytes = cells.iter().map(|cell| match cell {
                Some(Json::Text(text)) => text.len(),
                _ => 0,
            });
            let mut out = StringBuilder::with_capacity(cells.len(), bytes.sum());
            for cell in cells {
                out.append_option(cell.and_then(text));
            }
            Ok(Arc::new(out.finish()))
        }
    }
}

/// A string as it is, all else as JSON.
fn text<'a>(value: &'a Json<'a>) -> Option<Cow<'a, str>> {
    match value {
        Json::Null => None,
        Json::Text(text) => Some(Cow::Borrowed(text)),
        other => {
            let mut out = String::new();
            other.render(&mut out);
            Some(Cow::Owned(out))
        }
    }
}

fn lists(item: &Kind, cells: &Cells<'_>) -> Result<ArrayRef, ArrowError> {
    let items = |cell: Option<&_>| match cell {
        Some(Json::List(items)) => items.len(),
        _ => 0,
    };
    let offsets = OffsetBuffer::from_lengths(cells.iter().copied().map(items));
    let valid = cells.iter().map(|cell| matches!(cell, Some(Json::List(_)))).collect();
    let mut inner: Cells<'_> = Vec::new();
    for cell in cells {
        if let Some(Json::List(items)) = cell {
            inner.extend(items.iter().map(Some));
        }
    }
    let values = array(item, &inner)?;
    let nulls = Some(NullBuffer::new(valid));
    Ok(Arc::new(ListArray::try_new(Arc::new(item_field(item)), offsets, values, nulls)?))
}

fn structs(fields: &IndexMap<String, Kind>, cells: &Cells<'_>) -> Result<ArrayRef, ArrowError> {
    let rows = cells.iter().map(|cell| match cell {
        Some(Json::Object(fields)) => Some(fields),
        _ => None,
    });
    let inner = by_name(fields, rows, cells.len());
    let arrays: Result<Vec<ArrayRef>, _> =
        fields.values().zip(inner).map(|(kind, cells)| array(kind, &cells)).collect();
    let valid = cells.iter().map(|cell| matches!(cell, Some(Json::Object(_)))).collect();
    let nulls = Some(NullBuffer::new(valid));
    Ok(Arc::new(StructArray::try_new(arrow_fields(fields), arrays?, nulls)?))
}
