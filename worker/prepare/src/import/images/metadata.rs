//! `metadata.jsonl`, or any file of JSON lines: a picture a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{ImagesOptions, Kind, malformed, text};
use crate::import::within::{is_file, plain, slashed};
use crate::import::{ImportError, Imported, Row};

/// Its name.
pub(super) const NAME: &str = "metadata.jsonl";
/// The field of the picture's path, there.
pub(super) const FILE_NAME: &str = "file_name";
/// Most bytes of a line.
const LONGEST_LINE: u64 = 1 << 20;

/// The lines of a file.
pub(super) struct Metadata<R = BufReader<File>> {
    /// Canonical.
    root: PathBuf,
    origin: PathBuf,
    /// The field of the picture's path.
    field: String,
    lines: R,
    line: u64,
    ended: bool,
}

impl Metadata {
    pub(super) fn open(root: PathBuf, origin: PathBuf, field: &str) -> Result<Self, ImportError> {
        match File::open(&origin) {
            Ok(file) => Ok(Self::new(BufReader::new(file), root, origin, field)),
            Err(source) => Err(ImportError::Read { path: origin, source }),
        }
    }
}

impl<R: BufRead> Metadata<R> {
    pub(super) fn new(lines: R, root: PathBuf, origin: PathBuf, field: &str) -> Self {
        Self { root, origin, field: field.to_owned(), lines, line: 0, ended: false }
    }

    /// The next row. Lines of white space are none.
    pub(super) fn next_row(
        &mut self,
        options: &ImagesOptions,
    ) -> Option<Result<Imported, ImportError>> {
        while !self.ended {
            let mut line = Vec::new();
            match self.read(&mut line) {
                Ok(Some(true)) if line.trim_ascii().is_empty() => {}
                Ok(Some(true)) => return Some(Ok(self.row(&line, options))),
                Ok(Some(false)) => {
                    let told = "the line has more than 1 MiB; shorten it";
                    return Some(Ok(malformed(self.origin.clone(), self.line, told)));
                }
                Ok(None) => self.ended = true,
                Err(source) => {
                    self.ended = true;
                    return Some(Err(ImportError::Read { path: self.origin.clone(), source }));
                }
            }
        }
        None
    }

    /// Reads a line, unless it is too long, which is passed over: false then. `None` at the end.
    fn read(&mut self, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
        let read = self.lines.by_ref().take(LONGEST_LINE).read_until(b'\n', line)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if line.ends_with(b"\n") || (line.len() as u64) < LONGEST_LINE {
            return Ok(Some(true));
        }
        self.lines.skip_until(b'\n')?;
        Ok(Some(false))
    }

    fn row(&self, line: &[u8], options: &ImagesOptions) -> Imported {
        match self.fields(line, options) {
            Ok(fields) => {
                Imported::Row(Row { origin: self.origin.clone(), index: self.line, fields })
            }
            Err(reason) => malformed(self.origin.clone(), self.line, &reason),
        }
    }

    fn fields(&self, line: &[u8], options: &ImagesOptions) -> Result<Map<String, Value>, String> {
        let field = &self.field;
        let fields = serde_json::from_slice(line).map_err(|_| "the line is no JSON object")?;
        let mut fields: Map<String, Value> = fields;
        let Some(Value::String(name)) = fields.remove(field) else {
            return Err(format!("the line has no {field}, which says where the picture is"));
        };
        let path = plain(&name).ok_or_else(|| format!("{field} leads out of the directory"))?;
        if options.files.kind(&path) != Kind::Picture {
            return Err(options.files.not_read().to_owned());
        }
        if !is_file(&self.root, &path) {
            return Err(format!("{field} names no file below the directory"));
        }
        let path = slashed(&path).ok_or_else(|| format!("{field} is not UTF-8"))?;
        fields.insert(options.image.clone(), text(path));
        Ok(fields)
    }
}
