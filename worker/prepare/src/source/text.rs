//! Rows of text: JSONL, CSV, and plain text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, RecordBatchOptions};
use hearth_crds::training_job::DataFormat;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::csv::{self, Header};
use super::json::{self, Fields, Json};
use super::kind::{self, Kind, MAX_COLUMNS};
use super::lines::{Cut, Lines, Reader};
use super::{Bad, Bounds, Chunk, Format, Part, Rows, Scan, Source, build};
use crate::bad_rows::BadRows;
use crate::error::PrepareError;
use crate::parallel::in_order;
use crate::progress::Counter;

/// What rows of text are read by.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct TextScan {
    fields: IndexMap<String, Kind>,
    /// Each file's header, where it has one.
    headers: Vec<Option<Header>>,
}

/// JSONL, CSV, and plain text.
pub(super) struct TextFormat;

/// What a chunk's rows hold.
struct Seen {
    file: usize,
    fields: IndexMap<String, Kind>,
    rows: u64,
    bad: Vec<Bad>,
    lines: Lines,
}

impl Format for TextFormat {
    fn scan(
        &self,
        source: &Source,
        bounds: Bounds,
        bad: &mut BadRows,
        counter: &mut Counter<'_>,
    ) -> Result<Scan, PrepareError> {
        let headers = headers(source)?;
        let (mut fields, mut parts) = (IndexMap::new(), Vec::<Part>::new());
        for header in headers.iter().flatten() {
            for name in &header.names {
                fields.entry(name.clone()).or_insert(Kind::Null);
            }
        }
        let read = |send: &mut dyn FnMut((usize, Lines), u64) -> bool| {
            for (index, file) in source.files.iter().enumerate() {
                let (offset, line) = headers[index].as_ref().map_or((0, 1), |h| (h.end, h.line));
                let mut reader =
                    Reader::open(&file.path, cut(headers[index].as_ref()), offset, line)?;
                while let Some(chunk) = reader.chunk(bounds.chunk_bytes, usize::MAX, u64::MAX)? {
                    let size = chunk.bytes.len() as u64;
                    if !send((index, chunk), size) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        };
        let look =
            |(file, lines): (usize, Lines)| look(source, headers[file].as_ref(), file, lines);
        in_order(bounds.threads, read, look, |seen| {
            let Lines { start, end, line, .. } = seen.lines;
            for row in seen.bad {
                bad.add(&source.files[seen.file].path, row)?;
            }
            for (name, kind) in seen.fields {
                fields.entry(name).or_insert(Kind::Null).join(kind);
            }
            let columns: usize = fields.values().map(Kind::columns).sum();
            if columns > MAX_COLUMNS {
                return Err(too_wide(source, seen.file, line, columns));
            }
            match parts.last_mut() {
                Some(part) if part.file == seen.file && part.bytes < bounds.part_bytes => {
                    part.end = end;
                    part.bytes += end - start;
                }
                _ => parts.push(Part {
                    file: seen.file,
                    start,
                    end,
                    line,
                    rows: None,
                    bytes: end - start,
                }),
            }
            counter.add(seen.rows, end - start);
            Ok(())
        })?;
        source.touched.settle(&mut fields, source.format == DataFormat::CSV, &source.data.path)?;
        let scan = Scan::new(kind::schema(&fields), parts, bounds);
        Ok(Scan { text: Some(TextScan { fields, headers }), ..scan })
    }

    fn read(
        &self,
        source: &Source,
        scan: &Scan,
        part: &Part,
        send: &mut dyn FnMut(Chunk, u64) -> bool,
    ) -> Result<(), PrepareError> {
        let text = known(scan)?;
        let file = &source.files[part.file];
        let cut = cut(text.headers[part.file].as_ref());
        let mut reader = Reader::open(&file.path, cut, part.start, part.line)?;
        let count = Bounds::rows(text.fields.values().map(Kind::columns).sum());
        while let Some(lines) = reader.chunk(scan.bounds.chunk_bytes, count, part.end)? {
            let size = lines.bytes.len() as u64;
            if !send(Chunk::Lines { lines, file: part.file }, size) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn decode(&self, source: &Source, scan: &Scan, chunk: Chunk) -> Result<Rows, PrepareError> {
        let text = known(scan)?;
        let Chunk::Lines { mut lines, file } = chunk else {
            return Err(PrepareError::internal("rows of text that are decoded already"));
        };
        let mut bad = std::mem::take(&mut lines.bad);
        let (mut rows, mut places) = (Vec::new(), Vec::new());
        for (line, row, cut_off) in lines.iter() {
            let parsed = match &text.headers[file] {
                Some(header) => header.values(row, &text.fields),
                None => parse(source, row, cut_off),
            };
            match parsed.and_then(|fields| {
                source.touched.check(&fields)?;
                source.touched.fits(&fields, &text.fields)?;
                Ok(fields)
            }) {
                Ok(fields) => {
                    rows.push(fields);
                    places.push(line);
                }
                Err(reason) => bad.push(Bad { line, reason }),
            }
        }
        bad.sort_by_key(|row| row.line);
        let columns = build::columns(&text.fields, &rows).map_err(PrepareError::internal)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&scan.schema), columns, &options)
            .map_err(PrepareError::internal)?;
        Ok(Rows { batch, lines: places, bad, dropped: BTreeMap::new() })
    }
}

fn known(scan: &Scan) -> Result<&TextScan, PrepareError> {
    scan.text.as_ref().ok_or_else(|| PrepareError::internal("rows of text without their fields"))
}

fn headers(source: &Source) -> Result<Vec<Option<Header>>, PrepareError> {
    let of = |path: &Path| {
        if source.format != DataFormat::CSV {
            return Ok(None);
        }
        let header = Header::read(path)?;
        let names: Vec<&str> = header.names.iter().map(String::as_str).collect();
        source.needs(path, &names)?;
        Ok(Some(header))
    };
    source.files.iter().map(|file| of(&file.path)).collect()
}

fn cut(header: Option<&Header>) -> Cut {
    header.map_or(Cut::Line, |header| Cut::Quoted(header.separator))
}

/// Fields of a row of JSONL or plain text.
fn parse<'a>(source: &'a Source, row: &'a [u8], cut_off: bool) -> Result<Fields<'a>, String> {
    if source.format == DataFormat::Text {
        let text = simdutf8::basic::from_utf8(row).map_err(|_| "not UTF-8".to_owned())?;
        let name = Cow::Borrowed(source.data.text.as_str());
        return Ok(vec![(name, Json::Text(Cow::Borrowed(text)))]);
    }
    json::parse(row.trim_ascii()).map_err(|reason| {
        let cut = " (the file ends in the middle of this row: truncated?)";
        if cut_off { reason + cut } else { reason }
    })
}

/// What the rows of a chunk hold.
fn look(
    source: &Source,
    header: Option<&Header>,
    file: usize,
    mut lines: Lines,
) -> Result<Seen, PrepareError> {
    let mut bad = std::mem::take(&mut lines.bad);
    let (mut fields, mut rows) = (IndexMap::new(), bad.len() as u64);
    for (line, row, cut_off) in lines.iter() {
        rows += 1;
        let seen = match header {
            Some(header) => see_texts(&mut fields, header, row),
            None => parse(source, row, cut_off).and_then(|values| {
                source.touched.check(&values)?;
                kind::see_fields(&mut fields, &values);
                Ok(())
            }),
        };
        if let Err(reason) = seen {
            bad.push(Bad { line, reason });
        }
        if fields.len() > MAX_COLUMNS {
            return Err(too_wide(source, file, line, fields.len()));
        }
    }
    bad.sort_by_key(|row| row.line);
    // What was seen is small; what it was seen in goes now.
    lines.bytes = Vec::new();
    Ok(Seen { file, fields, rows, bad, lines })
}

fn see_texts(
    fields: &mut IndexMap<String, Kind>,
    header: &Header,
    row: &[u8],
) -> Result<(), String> {
    for (name, text) in header.fields(row)? {
        let kind = csv::kind_of(&text);
        match fields.get_mut(name) {
            Some(known) => known.join(kind),
            None => drop(fields.insert(name.to_owned(), kind)),
        }
    }
    Ok(())
}

fn too_wide(source: &Source, file: usize, line: u64, columns: usize) -> PrepareError {
    let detail = format!(
        "up to here rows have {columns} columns, nested ones counted, and {MAX_COLUMNS} are read; leave some out, or keep those that vary as one field of JSON"
    );
    PrepareError::damaged(&source.files[file].path, line, detail)
}
