//! Which files a source is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::DataFile;

use crate::error::PrepareError;

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    /// Its name in the source's directory, or by itself.
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(super) modified: Option<SystemTime>,
}

impl SourceFile {
    pub(super) fn of(path: PathBuf) -> Result<Self, PrepareError> {
        let metadata = fs::metadata(&path).map_err(|error| PrepareError::reading(&path, error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { path, name, size: metadata.len(), modified: metadata.modified().ok() })
    }

    pub(super) fn unchanged(&self) -> Result<(), PrepareError> {
        if Self::of(self.path.clone())? == *self {
            return Ok(());
        }
        Err(PrepareError::Changed { path: self.path.clone() })
    }
}

/// Formats with the endings of their files.
const ENDINGS: [(DataFormat, &[&str]); 4] = [
    (DataFormat::JSONL, &["jsonl", "ndjson", "json"]),
    (DataFormat::Parquet, &["parquet"]),
    (DataFormat::CSV, &["csv", "tsv"]),
    (DataFormat::Text, &["txt", "text"]),
];

/// The format of a file's ending; Parquet where that says nothing.
pub(crate) fn format_of(path: &Path) -> DataFormat {
    of_ending(path).unwrap_or(DataFormat::Parquet)
}

fn of_ending(path: &Path) -> Option<DataFormat> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    ENDINGS
        .iter()
        .find(|(_, endings)| endings.contains(&ending.as_str()))
        .map(|(format, _)| *format)
}

/// The files of a source: itself; or, of a directory, those whose names end as the format's do, in
/// the order of their names. Where there are none such, and all that can be read are of one other
/// format, it is that. Names that begin with a dot or an underscore are passed over, as Spark and
/// Hugging Face `datasets` do.
pub(crate) fn list(data: &DataFile) -> Result<(DataFormat, Vec<SourceFile>), PrepareError> {
    let root = &data.path;
    let reading = |error| PrepareError::reading(root, error);
    if !fs::metadata(root).map_err(reading)?.is_dir() {
        return Ok((data.format, vec![SourceFile::of(root.clone())?]));
    }
    let mut known = Vec::new();
    for entry in fs::read_dir(root).map_err(reading)? {
        let path = entry.map_err(reading)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let (false, Some(format)) = (name.starts_with(['.', '_']), of_ending(&path))
            && path.is_file()
        {
            known.push((format, path));
        }
    }
    known.sort_by(|(_, one), (_, other)| one.cmp(other));
    let format = match known.first() {
        Some((first, _)) if known.iter().all(|(format, _)| format == first) => *first,
        _ => data.format,
    };
    known.retain(|(of, _)| *of == format);
    if known.is_empty() {
        let endings: Vec<String> = ENDINGS
            .iter()
            .filter(|(of, _)| *of == format)
            .flat_map(|(_, endings)| endings.iter().map(|ending| format!(".{ending}")))
            .collect();
        let detail = format!(
            "a directory without a file whose name ends in {}; write the format in the job's data, or name another directory",
            endings.join(", ")
        );
        return Err(PrepareError::damaged(root, 0, detail));
    }
    let files =
        known.into_iter().map(|(_, path)| SourceFile::of(path)).collect::<Result<_, _>>()?;
    Ok((format, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> (tempfile::TempDir, DataFile) {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            fs::File::create(root.path().join(name)).unwrap();
        }
        let data = DataFile { path: root.path().to_owned(), ..DataFile::default() };
        (root, data)
    }

    #[test]
    fn the_files_of_a_directory_come_by_ending_in_the_order_of_their_names() {
        for (names, format, want) in [
            (
                vec!["b.jsonl", "a.JSONL", "c.csv", "_d.jsonl", ".e.jsonl", "README.md"],
                DataFormat::JSONL,
                vec!["a.JSONL", "b.jsonl"],
            ),
            (vec!["b.csv", "a.tsv", "README.md"], DataFormat::CSV, vec!["a.tsv", "b.csv"]),
        ] {
            let (_root, data) = directory(&names);
            let (of, files) = list(&data).unwrap();
            let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
            assert_eq!((of, names), (format, want));
        }
    }

    #[test]
    fn a_directory_without_rows_is_refused() {
        for names in [vec![], vec!["README.md"], vec!["a.csv", "b.parquet"]] {
            let (_root, data) = directory(&names);
            let told = list(&data).unwrap_err().to_string();
            assert!(told.contains("ends in .jsonl, .ndjson, .json"), "{told}");
        }
    }
}
