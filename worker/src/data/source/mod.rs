//! Reads rows out of files, one after another, with memory that does not grow with the file.
//!
//! Invariant: a malformed row is never dropped in silence. It is counted and
//! returned with its line and reason; past the permitted number the whole file
//! is refused.

mod columns;
pub(in crate::data) mod folder;
mod lines;
mod parquet;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::DataFile;
use minijinja::Value;

pub use columns::{Columns, Parts, Picture, Said};

use super::DataError;
use lines::Lines;

/// How a file is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
    /// Plain text: a line is a row, as in the text loader of Hugging Face `datasets`.
    Text,
    /// Comma-separated values, which preparation reads: no file for training.
    Csv,
    /// What else preparation alone reads.
    Raw(DataFormat),
}

impl Format {
    /// By the name's extension; JSONL where that says nothing.
    pub fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
        match extension.to_ascii_lowercase().as_str() {
            "parquet" => Self::Parquet,
            "txt" | "text" => Self::Text,
            "csv" | "tsv" => Self::Csv,
            _ => Self::Jsonl,
        }
    }
}

impl Format {
    /// How the names of such files end in a directory of them.
    fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Jsonl => &["jsonl", "json", "ndjson"],
            Self::Parquet => &["parquet"],
            Self::Text => &["txt", "text"],
            Self::Csv => &["csv"],
            Self::Raw(_) => &[],
        }
    }
}

impl From<DataFormat> for Format {
    fn from(format: DataFormat) -> Self {
        match format {
            DataFormat::JSONL => Self::Jsonl,
            DataFormat::Parquet => Self::Parquet,
            DataFormat::Text => Self::Text,
            DataFormat::CSV => Self::Csv,
            DataFormat::ImageFolder | DataFormat::LabelStudio | DataFormat::DICOM => {
                Self::Raw(format)
            }
        }
    }
}

/// A file, and what its rows hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// File, or a directory of files.
    pub path: PathBuf,
    /// How it is written down.
    pub format: Format,
    /// What its rows hold, and where.
    pub columns: Columns,
}

impl SourceFile {
    /// A file of labelled texts.
    pub fn labelled(file: &DataFile) -> Self {
        Self {
            path: file.path.clone(),
            format: file.format.into(),
            columns: Columns::Labelled { text: file.text.clone(), label: file.label.clone() },
        }
    }

    /// A file of labelled pictures.
    pub fn pictures(file: &DataFile) -> Self {
        Self {
            path: file.path.clone(),
            format: file.format.into(),
            columns: Columns::Picture { image: file.image.clone(), label: file.label.clone() },
        }
    }

    /// Its rows, in order.
    pub fn records(&self) -> Result<Records, DataError> {
        let names = self.columns.names();
        if self.format == Format::Text && !matches!(self.columns, Columns::Text { .. }) {
            return Err(DataError::Setting {
                path: self.path.clone(),
                detail: format!(
                    "a plain text file holds no {}; use JSONL or Parquet",
                    names.join(", ")
                ),
            });
        }
        let mut files = folder::files(&self.path, self.format)?;
        if files.len() == 1 {
            return records(files.swap_remove(0), self.format, &names);
        }
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let format = self.format;
        let open = move |file| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            records(file, format, &names)
        };
        Ok(Box::new(folder::Chained::new(files, open)))
    }
}

/// Rows of one file.
fn records(file: PathBuf, format: Format, names: &[&str]) -> Result<Records, DataError> {
    match format {
        Format::Csv => Err(DataError::Setting {
            path: file,
            detail:
                "CSV is read by preparation alone; write data.preparation, or use JSONL or Parquet"
                    .into(),
        }),
        Format::Raw(of) => Err(unprepared(&file, of)),
        Format::Parquet => Ok(Box::new(parquet::Rows::open(&file, names)?)),
        Format::Jsonl | Format::Text => {
            let input = BufReader::with_capacity(1 << 20, open(&file)?);
            Ok(Box::new(Lines::new(input, file, format)))
        }
    }
}

/// What is told of rows that are still to be made.
fn unprepared(path: &Path, format: DataFormat) -> DataError {
    let detail = format!(
        "{} is read by preparation alone; write data.preparation: {{}}, which makes rows of it",
        format.name()
    );
    DataError::Setting { path: path.to_owned(), detail }
}

/// Names of the fields that the first row of a source has.
pub fn first_fields(data: &DataFile) -> Result<BTreeSet<String>, DataError> {
    let format = Format::from(data.format);
    let file = folder::files(&data.path, format)?.swap_remove(0);
    match format {
        Format::Parquet => parquet::columns(&file),
        Format::Text => Ok(BTreeSet::from(["text".to_owned()])),
        Format::Csv => header(&file),
        Format::Raw(of) => Err(unprepared(&file, of)),
        Format::Jsonl => {
            let first = records(file, format, &[])?.next().transpose()?;
            let Some(Content::Json { bytes, .. }) = first.map(|record| record.content) else {
                return Err(DataError::Empty { path: data.path.clone() });
            };
            // A malformed row is told of by whoever reads them all.
            Ok(parse_json(&bytes).unwrap_or_default().into_keys().collect())
        }
    }
}

/// Names in the header of a CSV file.
fn header(path: &Path) -> Result<BTreeSet<String>, DataError> {
    let mut line = String::new();
    let read = BufReader::new(open(path)?.take(1 << 20)).read_line(&mut line);
    read.map_err(|error| read_error(path, error))?;
    let names = line.trim_end().split([',', ';', '\t']);
    Ok(names.map(|name| name.trim_matches(['"', '\u{feff}']).to_owned()).collect())
}

/// Rows of a file. After an error there are no more.
pub type Records = Box<dyn Iterator<Item = Result<Record, DataError>>>;

/// Values of a row by column.
pub type Fields = BTreeMap<String, Value>;

/// A row as its file holds it.
#[derive(Clone, Debug)]
pub struct Record {
    /// Line or row in the file, from 1.
    pub line: u64,
    /// What is there.
    pub content: Content,
}

/// What a file holds in a row.
#[derive(Clone, Debug)]
pub enum Content {
    /// A JSON text.
    Json {
        /// The text.
        bytes: Vec<u8>,
        /// Whether a newline follows.
        complete: bool,
    },
    /// Plain text.
    Text(Vec<u8>),
    /// Values.
    Fields(Fields),
    /// What cannot be read, and why.
    Malformed(String),
}

impl Record {
    /// About the bytes that it holds.
    pub(super) fn size(&self) -> usize {
        match &self.content {
            Content::Json { bytes, .. } | Content::Text(bytes) => bytes.len(),
            Content::Fields(fields) => {
                fields.values().map(|value| value.as_str().map_or(256, str::len)).sum()
            }
            Content::Malformed(_) => 0,
        }
    }

    /// What the row holds in `columns`, or what is wrong with it.
    pub fn parts(self, columns: &Columns) -> Result<Parts, String> {
        match self.content {
            Content::Malformed(reason) => Err(reason),
            Content::Fields(fields) => columns.parts(fields),
            Content::Text(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
                Ok(Parts::Text(text))
            }
            Content::Json { bytes, complete } => {
                let parts = parse_json(&bytes).and_then(|fields| columns.parts(fields));
                parts.map_err(|reason| {
                    let cut = " (the file ends in the middle of this row: truncated?)";
                    if complete { reason } else { reason + cut }
                })
            }
        }
    }
}

fn parse_json(bytes: &[u8]) -> Result<Fields, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

/// A malformed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Line in the file, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// The bytes of a small file that must exist.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path).map_err(|source| read_error(path, source))
}

/// Opens a file that must exist.
pub(super) fn open(path: &Path) -> Result<File, DataError> {
    File::open(path).map_err(|source| read_error(path, source))
}

pub(super) fn read_error(path: &Path, source: io::Error) -> DataError {
    match source.kind() {
        io::ErrorKind::NotFound => DataError::Missing { path: path.to_owned() },
        _ => DataError::Read { path: path.to_owned(), source },
    }
}

/// BLAKE3 of a source's content: of a file, or of the names and contents of a directory's files.
pub(super) fn digest(path: &Path, format: Format) -> Result<blake3::Hash, DataError> {
    let files = folder::files(path, format)?;
    if let [file] = &files[..]
        && file == path
    {
        return digest_file(file);
    }
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().as_encoded_bytes();
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update(digest_file(&file)?.as_bytes());
    }
    Ok(hasher.finalize())
}

fn digest_file(path: &Path) -> Result<blake3::Hash, DataError> {
    let mut hasher = blake3::Hasher::new();
    let mut file = open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(read_error(path, error)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Good rows as (line, text, label), and malformed ones.
    fn parse(file: &[u8]) -> (Vec<(u64, String, String)>, Vec<BadRow>) {
        let columns = Columns::Labelled { text: "text".into(), label: "label".into() };
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for record in Lines::new(file, PathBuf::from("x.jsonl"), Format::Jsonl) {
            let record = record.unwrap();
            let line = record.line;
            match record.parts(&columns) {
                Ok(Parts::Labelled { text, label }) => good.push((line, text, label)),
                Ok(other) => panic!("{other:?}"),
                Err(reason) => bad.push(BadRow { line, reason }),
            }
        }
        (good, bad)
    }

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
        let (good, bad) = parse(file.as_bytes());
        let good: Vec<_> =
            good.iter().map(|(line, text, label)| (*line, text.as_str(), label.as_str())).collect();
        assert_eq!(good, [(1, "a", "x"), (3, "b", "7")]);
        let lines: Vec<_> = bad.iter().map(|row| row.line).collect();
        assert_eq!(lines, [4, 5, 6, 7, 8, 9]);
        assert!(bad[0].reason.contains("a number, not a string"), "{:?}", bad[0]);
        assert!(bad[5].reason.contains("truncated"), "{:?}", bad[5]);
    }

    #[test]
    fn a_last_line_without_a_newline_is_a_row_like_any_other() {
        let (good, bad) = parse(b"{\"text\":\"a\",\"label\":\"x\"}");
        assert_eq!((good.len(), bad.len()), (1, 0));
    }

    #[test]
    fn invalid_utf8_is_one_bad_row_and_no_more() {
        let (good, bad) = parse(b"\xff\xfe\n{\"text\":\"a\",\"label\":\"x\"}\n");
        assert_eq!((good.len(), bad[0].reason.as_str()), (1, "not UTF-8"));
    }

    #[test]
    fn the_format_shows_in_the_name() {
        for (name, want) in [
            ("a.jsonl", Format::Jsonl),
            ("a", Format::Jsonl),
            ("b.PARQUET", Format::Parquet),
            ("c.txt", Format::Text),
        ] {
            assert_eq!(Format::of(Path::new(name)), want, "{name}");
        }
    }
}
