//! Files of lines → chunks of rows as they stand there: JSONL, plain text, and CSV, whose rows may
//! be several lines.
//!
//! Why no CSV library: rows are cut here and parsed on other threads, each with its line, and
//! neither an open quote nor a million commas may cost more memory than a row is allowed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::Bad;
use crate::error::PrepareError;

/// Most bytes of a row. A longer one is malformed, so that a file that is no text cannot fill the
/// memory.
pub(super) const MAX_ROW: u64 = 64 << 20;

/// Some rows as they stand in a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    /// Where they begin in the file, in bytes.
    pub(super) start: u64,
    /// Where they end.
    pub(super) end: u64,
    /// Line at which they begin, from 1.
    pub(super) line: u64,
    /// The line after them.
    pub(super) next_line: u64,
    pub(super) bytes: Vec<u8>,
    /// Where each row ends in `bytes`, and its line. The last one may have no newline.
    pub(super) rows: Vec<(usize, u64)>,
    /// Rows that are none.
    pub(super) bad: Vec<Bad>,
    /// Whether a newline follows the last row.
    pub(super) complete: bool,
}

impl Lines {
    /// Rows without their ends, with their lines, and whether they are cut off.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8], bool)> {
        let mut start = 0;
        self.rows.iter().enumerate().map(move |(index, (end, line))| {
            let row = &self.bytes[std::mem::replace(&mut start, *end)..*end];
            (*line, row, !self.complete && index + 1 == self.rows.len())
        })
    }
}

/// How rows are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// At newlines.
    Line,
    /// At newlines outside of quotes, with the fields' separator.
    Quoted(u8),
}

/// Reads chunks.
pub(super) struct Reader {
    input: BufReader<File>,
    path: PathBuf,
    cut: Cut,
    offset: u64,
    line: u64,
    max_row: u64,
}

impl Reader {
    /// From the byte `offset` on, which is at the beginning of `line`. A byte order mark at the
    /// beginning of the file is passed over.
    pub(super) fn open(
        path: &Path,
        cut: Cut,
        offset: u64,
        line: u64,
    ) -> Result<Self, PrepareError> {
        let open = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut input = BufReader::with_capacity(1 << 20, file);
            let marked = offset == 0 && input.fill_buf()?.starts_with(b"\xef\xbb\xbf");
            input.consume(if marked { 3 } else { 0 });
            Ok((input, if marked { 3 } else { offset }))
        };
        let (input, offset) = open().map_err(|error| PrepareError::reading(path, error))?;
        Ok(Self { input, path: path.to_owned(), cut, offset, line, max_row: MAX_ROW })
    }

    /// The next rows: up to `bytes` and `count`, but at least one; and none beyond `limit`.
    /// `None` at the end.
    pub(super) fn chunk(
        &mut self,
        bytes: usize,
        count: usize,
        limit: u64,
    ) -> Result<Option<Lines>, PrepareError> {
        let mut chunk = Lines {
            start: self.offset,
            line: self.line,
            complete: true,
            // The last row goes beyond them; a longer one than this makes it grow.
            bytes: Vec::with_capacity(bytes + bytes / 16),
            ..Lines::default()
        };
        while chunk.complete
            && self.offset < limit
            && chunk.bytes.len() < bytes
            && chunk.rows.len() + chunk.bad.len() < count
        {
            if !self.row(&mut chunk)? {
                break;
            }
        }
        chunk.end = self.offset;
        chunk.next_line = self.line;
        Ok((chunk.end > chunk.start).then_some(chunk))
    }

    /// Adds a row to the chunk, or nothing where a line is blank; false at the end of the file.
    fn row(&mut self, chunk: &mut Lines) -> Result<bool, PrepareError> {
        let (first, begin) = (self.line, chunk.bytes.len());
        let mut state = Quotes::Start;
        loop {
            let from = chunk.bytes.len();
            let left = self.max_row + 1 - (from - begin) as u64;
            let read = (&mut self.input)
                .take(left)
                .read_until(b'\n', &mut chunk.bytes)
                .map_err(|error| PrepareError::reading(&self.path, error))?;
            self.offset += read as u64;
            let ended = chunk.bytes[from..].ends_with(b"\n");
            if read == 0 && from == begin {
                return Ok(false);
            }
            if let Cut::Quoted(separator) = self.cut {
                state = state.after(separator, &chunk.bytes[from..]);
            }
            let open = state == Quotes::Inside;
            if ended && !open {
                self.line += 1;
                break;
            }
            let too_long = (chunk.bytes.len() - begin) as u64 > self.max_row;
            if open && (too_long || (!ended && self.line > first)) {
                let until = if too_long { "in 64 MiB" } else { "up to the end of the file" };
                return Err(PrepareError::damaged(
                    &self.path,
                    first,
                    format!(
                        "a quote that opens in this row is not closed {until}: the rows after it cannot be told apart; close it, or double quotes inside quotes"
                    ),
                ));
            }
            if too_long {
                chunk.bytes.truncate(begin);
                self.skip_line()?;
                self.line += 1;
                let reason = format!("the row is longer than {} bytes", self.max_row);
                chunk.bad.push(Bad { line: first, reason });
                return Ok(true);
            }
            self.line += 1;
            if !ended {
                chunk.complete = false;
                break;
            }
        }
        if chunk.bytes[begin..].trim_ascii().is_empty() {
            chunk.bytes.truncate(begin);
            chunk.complete = true;
        } else {
            while chunk.bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                chunk.bytes.pop();
            }
            chunk.rows.push((chunk.bytes.len(), first));
        }
        Ok(true)
    }

    fn skip_line(&mut self) -> Result<(), PrepareError> {
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(PrepareError::reading(&self.path, error)),
            };
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let (used, done) = match end {
                Some(end) => (end + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.input.consume(used);
            self.offset += used as u64;
            if done {
                return Ok(());
            }
        }
    }
}

/// Where in a row of CSV (RFC 4180) one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quotes {
    /// At the beginning of a field.
    Start,
    /// In a field, outside of quotes.
    Outside,
    /// Inside of quotes.
    Inside,
    /// After a quote inside of quotes: the end, or the first of two.
    Closing,
}

impl Quotes {
    fn after(self, separator: u8, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |state, byte| state.step(separator, *byte))
    }

    /// Where one is after `byte`.
    pub(super) fn step(self, separator: u8, byte: u8) -> Self {
        match (self, byte) {
            (Self::Inside, b'"') => Self::Closing,
            (Self::Inside, _) | (Self::Start | Self::Closing, b'"') => Self::Inside,
            (_, byte) if byte == separator || byte == b'\n' => Self::Start,
            _ => Self::Outside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Told = (Vec<(u64, String)>, Vec<(u64, String)>);

    fn read(file: &[u8], cut: Cut, chunk: usize, max_row: u64) -> Result<Told, PrepareError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        crate::files::write_whole(&path, |out| io::Write::write_all(out, file)).unwrap();
        let mut reader = Reader::open(&path, cut, 0, 1)?;
        reader.max_row = max_row;
        let (mut rows, mut bad) = (Vec::new(), Vec::new());
        while let Some(chunk) = reader.chunk(chunk, 100, u64::MAX)? {
            for (line, row, _) in chunk.iter() {
                rows.push((line, String::from_utf8(row.to_vec()).unwrap()));
            }
            bad.extend(chunk.bad.into_iter().map(|bad| (bad.line, bad.reason)));
        }
        Ok((rows, bad))
    }

    fn rows(told: &Told) -> Vec<(u64, &str)> {
        told.0.iter().map(|(line, row)| (*line, row.as_str())).collect()
    }

    #[test]
    fn a_line_is_a_row_and_keeps_its_blanks() {
        let file = "\u{feff}  one \r\n\n \ntwo".as_bytes();
        for chunk in [1, 5, 1000] {
            let told = read(file, Cut::Line, chunk, 100).unwrap();
            assert_eq!(rows(&told), [(1, "  one "), (4, "two")]);
        }
    }

    #[test]
    fn a_line_without_end_is_one_malformed_row_and_is_not_kept() {
        let file = [b"{}\n".to_vec(), vec![b'x'; 5000], b"\n{}\n".to_vec()].concat();
        for cut in [Cut::Line, Cut::Quoted(b',')] {
            let told = read(&file, cut, 1000, 100).unwrap();
            assert_eq!(rows(&told), [(1, "{}"), (3, "{}")]);
            assert_eq!(told.1, [(2, "the row is longer than 100 bytes".to_owned())]);
        }
        let just = read(b"1234567\n1234567", Cut::Line, 1000, 7).unwrap();
        assert_eq!((rows(&just).len(), just.1.len()), (2, 0));
    }

    #[test]
    fn a_quoted_row_goes_over_lines() {
        let file = b"a,\"b\nc\",d\n\"e\"\"\n\",f\"g\nh\n";
        for chunk in [1, 1000] {
            let told = read(file, Cut::Quoted(b','), chunk, 100).unwrap();
            assert_eq!(rows(&told), [(1, "a,\"b\nc\",d"), (3, "\"e\"\"\n\",f\"g"), (5, "h")]);
        }
    }

    #[test]
    fn an_open_quote_that_swallows_rows_is_refused_and_one_at_the_end_is_a_row() {
        let told = read(b"a\nb,\"c\nd\ne\n", Cut::Quoted(b','), 1000, 100).unwrap_err().to_string();
        assert!(told.contains(":2: a quote that opens"), "{told}");
        let told = read(b"a\nb,\"cccccc\nd\n", Cut::Quoted(b','), 1000, 9).unwrap_err().to_string();
        assert!(told.contains(":2: a quote that opens"), "{told}");
        let told = read(b"a\nb,\"c", Cut::Quoted(b','), 1000, 100).unwrap();
        assert_eq!(rows(&told), [(1, "a"), (2, "b,\"c")]);
    }

    #[test]
    fn a_part_ends_where_it_is_told_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        crate::files::write_whole(&path, |out| io::Write::write_all(out, b"aa\nbb\ncc\n")).unwrap();
        let mut reader = Reader::open(&path, Cut::Line, 3, 2).unwrap();
        let chunk = reader.chunk(1000, 100, 6).unwrap().unwrap();
        assert_eq!((chunk.start, chunk.end, chunk.line, chunk.next_line), (3, 6, 2, 3));
        assert_eq!(chunk.iter().next(), Some((2, b"bb".as_slice(), false)));
        assert!(reader.chunk(1000, 100, 6).unwrap().is_none());
    }
}
