//! Lines of a file, of bounded length.

use std::io::{self, BufRead, Read};
use std::path::PathBuf;

use super::{Content, Format, Record, read_error};
use crate::data::DataError;

/// Most bytes of a line. A longer one is a malformed row, so that a file that is
/// no text cannot fill the memory.
const MAX_LINE: u64 = 64 << 20;

/// Rows of JSONL or plain text. Blank lines are no rows.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    path: PathBuf,
    format: Format,
    line: u64,
    max_line: u64,
    ended: bool,
}

/// A line without its end, or what is left of one that is too long.
struct Line {
    bytes: Vec<u8>,
    complete: bool,
    too_long: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R, path: PathBuf, format: Format) -> Self {
        Self { input, path, format, line: 0, max_line: MAX_LINE, ended: false }
    }

    /// The next line; `None` at the end of the file.
    fn read_line(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let read = (&mut self.input).take(self.max_line + 1).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        let complete = bytes.ends_with(b"\n");
        let too_long = !complete && read as u64 > self.max_line;
        if too_long {
            bytes = Vec::new();
            self.skip_line()?;
        }
        Ok(Some(Line { bytes, complete, too_long }))
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let (used, done) = match end {
                Some(end) => (end + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.input.consume(used);
            if done {
                return Ok(());
            }
        }
    }

    fn content(&self, line: Line) -> Option<Content> {
        if line.too_long {
            let reason = format!("the line is longer than {} bytes", self.max_line);
            return Some(Content::Malformed(reason));
        }
        let Line { mut bytes, complete, .. } = line;
        if bytes.trim_ascii().is_empty() {
            return None;
        }
        if self.format == Format::Text {
            while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                bytes.pop();
            }
            return Some(Content::Text(bytes));
        }
        let content = bytes.trim_ascii();
        if content.len() < bytes.len() {
            bytes = content.to_vec();
        }
        Some(Content::Json { bytes, complete })
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = Result<Record, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.read_line() {
                Ok(Some(line)) => {
                    if let Some(content) = self.content(line) {
                        return Some(Ok(Record { line: self.line, content }));
                    }
                }
                Ok(None) => self.ended = true,
                Err(error) => {
                    self.ended = true;
                    return Some(Err(read_error(&self.path, error)));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &[u8], format: Format, max_line: u64) -> Vec<(u64, Content)> {
        let mut lines = Lines::new(file, PathBuf::new(), format);
        lines.max_line = max_line;
        lines.map(|record| record.unwrap()).map(|record| (record.line, record.content)).collect()
    }

    #[test]
    fn a_line_of_text_is_a_row_and_keeps_its_blanks() {
        let rows = read("  one \r\n\n \ntwo".as_bytes(), Format::Text, 100);
        let texts: Vec<_> = rows
            .iter()
            .map(|(line, content)| match content {
                Content::Text(bytes) => (*line, std::str::from_utf8(bytes).unwrap()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(texts, [(1, "  one "), (4, "two")]);
    }

    #[test]
    fn a_line_without_end_is_one_malformed_row_and_is_not_kept() {
        let file = [b"{}\n".to_vec(), vec![b'x'; 5000], b"\n{}\n".to_vec()].concat();
        // A buffer smaller than the line: skipping goes over several.
        let input = io::BufReader::with_capacity(64, file.as_slice());
        let mut lines = Lines::new(input, PathBuf::new(), Format::Jsonl);
        lines.max_line = 100;
        let rows: Vec<_> = lines.map(|record| record.unwrap()).collect();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(matches!(&rows[1].content, Content::Malformed(reason) if reason.contains("100")));
        assert!(matches!(&rows[2].content, Content::Json { complete: true, .. }));
    }

    #[test]
    fn a_line_of_just_the_permitted_length_is_read() {
        let rows = read(b"{\"a\":1}\n{\"a\":1}", Format::Jsonl, 7);
        assert!(matches!(rows[..], [(1, Content::Json { .. }), (2, Content::Json { .. })]));
    }
}
