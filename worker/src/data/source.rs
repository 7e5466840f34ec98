//! Reads labelled text from JSONL files.
//!
//! Invariant: a malformed row is never dropped in silence. It is counted and
//! returned with its line and reason; past the permitted number the whole file
//! is refused.

use std::path::Path;

use hearth_crds::worker_config::DataFile;
use serde_json::{Map, Value};

use super::DataError;

/// A well-formed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Line in the file, from 1.
    pub line: u64,
    /// Text, not cleaned.
    pub text: String,
    /// Label; whole numbers in decimal.
    pub label: String,
}

/// A malformed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Line in the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Well-formed rows in the file's order.
    pub rows: Vec<Row>,
    /// Malformed rows in the file's order.
    pub bad: Vec<BadRow>,
}

/// Reads `file`, skipping up to `max_bad_rows` malformed rows.
pub fn read_rows(file: &DataFile, max_bad_rows: u64) -> Result<Rows, DataError> {
    let bytes = read_file(&file.path)?;
    let rows = parse_rows(&bytes, &file.text, &file.label);
    refuse_bad_rows(file, &rows, max_bad_rows)?;
    if rows.rows.is_empty() {
        return Err(DataError::Empty { path: file.path.clone() });
    }
    Ok(rows)
}

/// The bytes of a file that must exist.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DataError::Missing { path: path.to_owned() },
        _ => DataError::Read { path: path.to_owned(), source },
    })
}

/// Refuses a file with more than `max_bad_rows` malformed rows.
pub(crate) fn refuse_bad_rows(file: &DataFile, rows: &Rows, max: u64) -> Result<(), DataError> {
    let Some(first) = rows.bad.first() else { return Ok(()) };
    let bad = rows.bad.len() as u64;
    if bad <= max {
        return Ok(());
    }
    Err(DataError::BadRows {
        path: file.path.clone(),
        line: first.line,
        reason: first.reason.clone(),
        bad,
        max,
    })
}

/// Splits JSONL into rows. Blank lines are no rows.
pub(crate) fn parse_rows(bytes: &[u8], text_field: &str, label_field: &str) -> Rows {
    let mut found = Rows::default();
    for (line, piece) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        let complete = piece.ends_with(b"\n");
        let content = piece.trim_ascii();
        if content.is_empty() {
            continue;
        }
        match parse_row(content, text_field, label_field) {
            Ok((text, label)) => found.rows.push(Row { line, text, label }),
            Err(reason) if !complete => found.bad.push(BadRow {
                line,
                reason: format!("{reason} (the file ends in the middle of this row: truncated?)"),
            }),
            Err(reason) => found.bad.push(BadRow { line, reason }),
        }
    }
    found
}

fn parse_row(
    content: &[u8],
    text_field: &str,
    label_field: &str,
) -> Result<(String, String), String> {
    let content = std::str::from_utf8(content).map_err(|_| "not UTF-8".to_owned())?;
    let mut object: Map<String, Value> =
        serde_json::from_str(content).map_err(|error| format!("not a JSON object: {error}"))?;
    let text = match object.remove(text_field) {
        Some(Value::String(text)) if text.trim().is_empty() => {
            return Err(format!("field {text_field:?} is empty"));
        }
        Some(Value::String(text)) => text,
        Some(other) => {
            return Err(format!("field {text_field:?} is {}, not a string", kind(&other)));
        }
        None => return Err(format!("field {text_field:?} is missing")),
    };
    let label = match object.remove(label_field) {
        Some(Value::String(label)) if label.is_empty() => {
            return Err(format!("field {label_field:?} is empty"));
        }
        Some(Value::String(label)) => label,
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => number.to_string(),
        Some(other) => {
            return Err(format!(
                "field {label_field:?} is {}, neither a string nor a whole number",
                kind(&other)
            ));
        }
        None => return Err(format!("field {label_field:?} is missing")),
    };
    Ok((text, label))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_malformed_row_is_named_with_its_line() {
        let file = concat!(
            "{\"text\":\"a\",\"label\":\"x\"}\n",
            "\n",
            "{\"text\":\"b\",\"label\":7}\n",
            "{\"text\":1,\"label\":\"x\"}\n",
            "{\"label\":\"x\"}\n",
            "{\"text\":\"c\",\"label\":1.5}\n",
            "{\"text\":\"  \",\"label\":\"x\"}\n",
            "[1]\n",
            "{\"text\":\"d\",\"la",
        );
        let rows = parse_rows(file.as_bytes(), "text", "label");
        let good: Vec<_> =
            rows.rows.iter().map(|r| (r.line, r.text.as_str(), r.label.as_str())).collect();
        assert_eq!(good, [(1, "a", "x"), (3, "b", "7")]);
        let bad: Vec<_> = rows.bad.iter().map(|row| row.line).collect();
        assert_eq!(bad, [4, 5, 6, 7, 8, 9]);
        assert!(rows.bad[0].reason.contains("a number, not a string"), "{:?}", rows.bad[0]);
        assert!(rows.bad[5].reason.contains("truncated"), "{:?}", rows.bad[5]);
    }

    #[test]
    fn a_last_line_without_a_newline_is_a_row_like_any_other() {
        let rows = parse_rows(b"{\"text\":\"a\",\"label\":\"x\"}", "text", "label");
        assert_eq!((rows.rows.len(), rows.bad.len()), (1, 0));
    }

    #[test]
    fn invalid_utf8_is_one_bad_row_and_no_more() {
        let rows = parse_rows(b"\xff\xfe\n{\"text\":\"a\",\"label\":\"x\"}\n", "text", "label");
        assert_eq!((rows.rows.len(), rows.bad[0].reason.as_str()), (1, "not UTF-8"));
    }
}
