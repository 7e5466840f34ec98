//! Rows of CSV: a header, then as many fields in each row (RFC 4180). An empty field has no value.

use std::borrow::Cow;
use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::json::{Fields, Json};
use super::kind::{Kind, MAX_COLUMNS};
use super::lines::{Cut, Reader};
use crate::error::PrepareError;

/// What a file's first row says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) separator: u8,
    pub(super) names: Vec<String>,
    /// Where the first row of values begins, in bytes.
    pub(super) end: u64,
    /// Its line.
    pub(super) line: u64,
}

impl Header {
    /// Reads it. The separator is that of comma, semicolon and tab which the first line holds
    /// most; a comma where it holds none.
    pub(super) fn read(path: &Path) -> Result<Self, PrepareError> {
        let first = |cut| Reader::open(path, cut, 0, 1)?.chunk(1, 1, u64::MAX);
        let empty = || PrepareError::damaged(path, 1, "no header; write the columns' names first");
        let line = first(Cut::Line)?.ok_or_else(empty)?;
        #[expect(clippy::naive_bytecount, reason = "one line of a file")]
        let count = |separator: u8| line.bytes.iter().filter(|byte| **byte == separator).count();
        let separator = [b'\t', b';', b','].into_iter().max_by_key(|separator| count(*separator));
        let separator = separator.filter(|separator| count(*separator) > 0).unwrap_or(b',');
        let chunk = first(Cut::Quoted(separator))?.ok_or_else(empty)?;
        let (line, row, _) = chunk.iter().next().ok_or_else(empty)?;
        let told = |reason: String| PrepareError::damaged(path, line, reason);
        let fields = split(row, separator, MAX_COLUMNS)
            .map_err(|reason| told(format!("the header cannot be used: {reason}")))?;
        let names: Vec<String> = fields.into_iter().map(Cow::into_owned).collect();
        let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        if sorted.first() == Some(&"") {
            return Err(told("a column of the header has no name; name each".to_owned()));
        }
        if let Some([name, _]) = sorted.array_windows().find(|[one, other]| one == other) {
            return Err(told(format!("column {name:?} stands twice in the header")));
        }
        Ok(Self { separator, names, end: chunk.end, line: chunk.next_line })
    }

    /// Fields of a row as texts, or what is wrong with it.
    pub(super) fn fields<'a>(
        &'a self,
        row: &'a [u8],
    ) -> Result<impl Iterator<Item = (&'a str, Cow<'a, str>)>, String> {
        let fields = split(row, self.separator, self.names.len())?;
        if fields.len() < self.names.len() {
            let (found, want) = (fields.len(), self.names.len());
            return Err(format!("{found} field(s), and the header has {want}"));
        }
        Ok(self.names.iter().map(String::as_str).zip(fields))
    }

    /// Values of a row whose columns hold `kinds`, or what is wrong with it.
    pub(super) fn values<'a>(
        &'a self,
        row: &'a [u8],
        kinds: &IndexMap<String, Kind>,
    ) -> Result<Fields<'a>, String> {
        let fields = self.fields(row)?.enumerate();
        Ok(fields
            .map(|(place, (name, text))| {
                let kind = match kinds.get_index(place) {
                    Some((known, kind)) if known == name => Some(kind),
                    _ => kinds.get(name),
                };
                (Cow::Borrowed(name), value(kind, text))
            })
            .collect())
    }
}

fn value<'a>(kind: Option<&Kind>, text: Cow<'a, str>) -> Json<'a> {
    match kind {
        _ if text.is_empty() => Json::Null,
        Some(Kind::Bool) => Json::Bool(text.eq_ignore_ascii_case("true")),
        Some(Kind::Int | Kind::Float) => number(&text).unwrap_or(Json::Null),
        _ => Json::Text(text),
    }
}

/// Fields of a row; at most `most`.
fn split(row: &[u8], separator: u8, most: usize) -> Result<Vec<Cow<'_, str>>, String> {
    let row = simdutf8::basic::from_utf8(row).map_err(|_| "not UTF-8".to_owned())?;
    let mut fields = Vec::new();
    let mut rest = row;
    loop {
        if fields.len() == most {
            return Err(if most == MAX_COLUMNS {
                format!("more than {MAX_COLUMNS} columns")
            } else {
                format!("more fields than the header, which has {most}")
            });
        }
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted, separator)?,
            None => match rest.bytes().position(|byte| byte == separator) {
                Some(end) => (Cow::Borrowed(&rest[..end]), Some(&rest[end + 1..])),
                None => (Cow::Borrowed(rest), None),
            },
        };
        fields.push(field);
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

type Field<'a> = (Cow<'a, str>, Option<&'a str>);

/// A field up to its closing quote, and what comes after the separator behind it.
fn unquote(quoted: &str, separator: u8) -> Result<Field<'_>, String> {
    let bytes = quoted.as_bytes();
    let mut text = Cow::Borrowed("");
    let mut start = 0;
    loop {
        let Some(found) = bytes[start..].iter().position(|byte| *byte == b'"') else {
            return Err(
                "a quote is not closed (the file ends in the middle of this row: truncated?)"
                    .to_owned(),
            );
        };
        let end = start + found;
        match bytes.get(end + 1) {
            Some(b'"') => {
                text.to_mut().push_str(&quoted[start..=end]);
                start = end + 2;
            }
            next => {
                let last = &quoted[start..end];
                if text.is_empty() {
                    text = Cow::Borrowed(last);
                } else {
                    text.to_mut().push_str(last);
                }
                return match next {
                    None => Ok((text, None)),
                    Some(byte) if *byte == separator => Ok((text, Some(&quoted[end + 2..]))),
                    Some(_) => {
                        Err("text after a closing quote; double quotes inside quotes".to_owned())
                    }
                };
            }
        }
    }
}

/// What kind a field's text is of. Only numbers that are written as they would be written again
/// are numbers: `007` is a text.
pub(super) fn kind_of(text: &str) -> Kind {
    match text {
        "" => Kind::Null,
        "true" | "false" | "True" | "False" | "TRUE" | "FALSE" => Kind::Bool,
        _ => number(text).map_or(Kind::Text, |number| match number {
            Json::Int(_) => Kind::Int,
            _ => Kind::Float,
        }),
    }
}

fn number(text: &str) -> Option<Json<'static>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    let padded =
        digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    if !digits.starts_with(|first: char| first.is_ascii_digit())
        || padded
        || !digits.bytes().all(plain)
    {
        return None;
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // A longer row of digits names something: as a number it would lose some.
        return text.parse().ok().filter(|_| text != "-0").map(Json::Int);
    }
    text.parse().ok().filter(|number: &f64| number.is_finite()).map(Json::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_row_is_named() {
        for (row, want) in [
            ("a,\"b", "a quote is not closed"),
            ("a,\"b\"c", "text after a closing quote"),
            ("a,b,c", "more fields than the header, which has 2"),
        ] {
            let told = split(row.as_bytes(), b',', 2).unwrap_err();
            assert!(told.contains(want), "{told}");
        }
        let wide = ",".repeat(MAX_COLUMNS);
        assert!(split(wide.as_bytes(), b',', MAX_COLUMNS).unwrap_err().contains("10000 columns"));
    }

    #[test]
    fn only_what_is_written_as_a_number_is_one() {
        for (text, want) in [
            ("", Kind::Null),
            ("7", Kind::Int),
            ("-7", Kind::Int),
            ("0", Kind::Int),
            ("0.5", Kind::Float),
            ("1e5", Kind::Float),
            ("007", Kind::Text),
            ("-0", Kind::Text),
            ("+7", Kind::Text),
            ("NaN", Kind::Text),
            ("inf", Kind::Text),
            ("1e999", Kind::Text),
            ("12345678901234567890", Kind::Text),
            ("1-2", Kind::Text),
            ("True", Kind::Bool),
            ("x", Kind::Text),
        ] {
            assert_eq!(kind_of(text), want, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_was_quoted_is_read_as_it_was(fields in proptest::collection::vec("[a,;\"\n ]{0,6}", 1..5)) {
            let quoted: Vec<String> =
                fields.iter().map(|field| format!("\"{}\"", field.replace('"', "\"\""))).collect();
            let row = quoted.join(",");
            prop_assert_eq!(split(row.as_bytes(), b',', 10).unwrap(), fields);
        }
    }
}
