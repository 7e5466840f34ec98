//! A directory of files, read as one: its files of one format in the order of their names.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{Format, Record, Records, read_error, unprepared};
use crate::data::DataError;

/// The files that a source is: itself, or those of a directory.
pub(super) fn files(path: &Path, format: Format) -> Result<Vec<PathBuf>, DataError> {
    if let Format::Raw(of) = format {
        return Err(unprepared(path, of));
    }
    if !metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| read_error(path, error))? {
        let file = entry.map_err(|error| read_error(path, error))?.path();
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or("");
        let is_ours = format.endings().iter().any(|known| ending.eq_ignore_ascii_case(known));
        if is_ours && metadata(&file)?.is_file() {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(DataError::Setting {
            path: path.to_owned(),
            detail: format!(
                "the directory holds no file that ends with .{}; correct the source, or write its format",
                format.endings().join(" or .")
            ),
        });
    }
    Ok(files)
}

/// Length and age of each file of a source: what changes when somebody writes to it.
pub(in crate::data) fn stamp(
    path: &Path,
    format: Format,
) -> Result<Vec<(PathBuf, u64, Option<SystemTime>)>, DataError> {
    let of = |file: PathBuf| {
        let metadata = metadata(&file)?;
        Ok((file, metadata.len(), metadata.modified().ok()))
    };
    files(path, format)?.into_iter().map(of).collect()
}

fn metadata(path: &Path) -> Result<std::fs::Metadata, DataError> {
    std::fs::metadata(path).map_err(|error| read_error(path, error))
}

/// Rows of several files. Their numbers go on from file to file.
pub(super) struct Chained<O> {
    files: std::vec::IntoIter<PathBuf>,
    open: O,
    now: Option<Records>,
    before: u64,
    last: u64,
    ended: bool,
}

impl<O: FnMut(PathBuf) -> Result<Records, DataError>> Chained<O> {
    pub(super) fn new(files: Vec<PathBuf>, open: O) -> Self {
        Self { files: files.into_iter(), open, now: None, before: 0, last: 0, ended: false }
    }

    fn numbered(&mut self, record: Record) -> Record {
        self.last = self.before + record.line;
        Record { line: self.last, ..record }
    }
}

impl<O: FnMut(PathBuf) -> Result<Records, DataError>> Iterator for Chained<O> {
    type Item = Result<Record, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.now.as_mut().and_then(Iterator::next) {
                Some(Ok(record)) => return Some(Ok(self.numbered(record))),
                Some(Err(error)) => {
                    self.ended = true;
                    return Some(Err(error));
                }
                None => self.now = None,
            }
            self.before = self.last;
            let file = self.files.next()?;
            match (self.open)(file) {
                Ok(records) => self.now = Some(records),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::source::{Columns, Parts, SourceFile, digest};

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for (name, text) in files {
            crate::files::write_atomically(&home.path().join(name), |out| {
                std::io::Write::write_all(out, text.as_bytes())
            })
            .unwrap();
        }
        home
    }

    fn texts(home: &Path, format: Format) -> Result<Vec<(u64, String)>, DataError> {
        let columns = Columns::Text { text: "text".into() };
        let source = SourceFile { path: home.to_owned(), format, columns };
        let text = |record: Record| match (record.line, record.parts(&source.columns)) {
            (line, Ok(Parts::Text(text))) => (line, text),
            other => panic!("{other:?}"),
        };
        source.records()?.map(|record| record.map(text)).collect()
    }

    #[test]
    fn files_are_read_in_the_order_of_their_names_and_rows_counted_through() {
        let home = folder(&[
            ("b.txt", "three\n"),
            ("a.txt", "one\n\ntwo\n"),
            ("c.TXT", "four"),
            ("notes.md", "no row"),
        ]);
        let read = texts(home.path(), Format::Text).unwrap();
        let want = [(1, "one"), (3, "two"), (4, "three"), (5, "four")];
        assert_eq!(read, want.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn a_directory_without_such_files_says_what_it_looks_for() {
        let home = folder(&[("a.txt", "one")]);
        let told = texts(home.path(), Format::Parquet).unwrap_err().to_string();
        assert!(told.contains("no file that ends with .parquet"), "{told}");
    }

    #[test]
    fn its_content_is_all_of_its_files_and_their_names() {
        let of = |files: &[(&str, &str)]| digest(folder(files).path(), Format::Text).unwrap();
        let one = of(&[("a.txt", "x"), ("b.txt", "y")]);
        assert_eq!(one, of(&[("b.txt", "y"), ("a.txt", "x"), ("c.md", "z")]));
        assert_ne!(one, of(&[("a.txt", "x"), ("b.txt", "z")]));
        assert_ne!(one, of(&[("a.txt", "x"), ("c.txt", "y")]));
    }
}
