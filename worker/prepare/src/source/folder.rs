//! Sources of many files: a tree of pictures or of DICOM files; an export, or JSON lines, with their
//! pictures.
//!
//! Rows are dealt in a fixed order, one at a time, and files are looked up again each time: a list
//! of them would grow with the source.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use hearth_crds::training_job::DataFormat;
use hearth_crds::worker_config::DataFile;
use serde_json::{Map, Value};

use super::json::{Fields, Json};
use super::{Content, SourceFile};
use crate::error::PrepareError;
use crate::files::hash_file;
use crate::import::images::{Files, Images, ImagesOptions};
use crate::import::label_studio::{LabelStudio, LabelStudioOptions};
use crate::import::{ImportError, Imported, NoRow};
use crate::rows::Touched;

/// Most bytes of a picture's file, as of any row.
pub(super) const MAX_PICTURE: u64 = super::lines::MAX_ROW;

/// Says what files show, where it is.
const METADATA: &str = "metadata.jsonl";

type Items = Box<dyn Iterator<Item = Result<Imported, ImportError>> + Send>;

/// A source of many files.
pub(crate) struct Folder {
    /// Canonical: pictures are below it.
    root: PathBuf,
    layout: Layout,
    /// Field of the picture, where rows have one.
    image: Option<String>,
    /// Bytes of all files.
    pub(super) bytes: u64,
    /// Over names, sizes and times of the files.
    stamp: blake3::Hash,
}

enum Layout {
    /// Directories that name classes, or `metadata.jsonl`.
    Files(ImagesOptions),
    /// JSON lines.
    Rows(PathBuf, ImagesOptions),
    Export(PathBuf, LabelStudioOptions),
}

/// What a source deals, with where it comes from.
pub(crate) struct Dealt {
    /// Line of `metadata.jsonl`, element of an export; else the number of the file, from 1.
    pub(super) line: u64,
    /// Bytes of the picture's file; where there is none, about those of the row.
    pub(super) size: u64,
    pub(super) what: What,
}

pub(super) enum What {
    /// Values by field, and the path of the picture below the root.
    Row(Fields<'static>, Option<String>),
    /// Why it is no row.
    Bad(String),
    Unlabelled,
}

/// Deals what a source holds.
pub(super) struct Dealer {
    items: Items,
    /// Dealt so far.
    pub(super) count: u64,
}

impl Folder {
    /// Opens a source of such a format; `None` for those of other formats.
    pub(super) fn open(
        data: &DataFile,
        touched: &Touched,
    ) -> Result<Option<(Self, SourceFile)>, PrepareError> {
        let path = &data.path;
        let image = touched.image().map(str::to_owned);
        let label = touched.label().unwrap_or(&data.label).to_owned();
        let canonical = || path.canonicalize().map_err(|error| PrepareError::reading(path, error));
        let (layout, root, told) = match data.format {
            DataFormat::LabelStudio => {
                let export = export(path)?;
                let options = LabelStudioOptions { label, image: image.clone() };
                (Layout::Export(export.clone(), options), beside(&export)?, export)
            }
            DataFormat::ImageFolder | DataFormat::DICOM => {
                let image = files_image(data, touched)?;
                let dicom = data.format == DataFormat::DICOM;
                let files = if dicom { Files::Dicom } else { Files::Pictures };
                let metadata = path.join(METADATA);
                let told = if metadata.is_file() { metadata } else { path.clone() };
                (Layout::Files(ImagesOptions { image, label, files }), canonical()?, told)
            }
            DataFormat::JSONL if image.is_some() && !path.is_dir() => {
                let (root, image) = (beside(path)?, image.clone().unwrap_or_default());
                let options = ImagesOptions { image, label, files: Files::Pictures };
                (Layout::Rows(path.clone(), options), root, path.clone())
            }
            _ => return Ok(None),
        };
        let (bytes, stamp) = (0, blake3::hash(b""));
        let mut folder = Self { root, layout, image, bytes, stamp };
        (folder.bytes, folder.stamp) = folder.look()?;
        Ok(Some((folder, SourceFile::of(told)?)))
    }

    /// Field of the picture, where rows have one.
    pub(super) fn image(&self) -> Option<&str> {
        self.image.as_deref()
    }

    /// Where a picture is.
    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Begins to deal.
    pub(super) fn deal(&self) -> Result<Dealer, PrepareError> {
        let items: Items = match &self.layout {
            Layout::Files(options) => {
                Box::new(Images::open(&self.root, options.clone()).map_err(told)?)
            }
            Layout::Rows(path, options) => {
                Box::new(Images::open_rows(path, options.clone()).map_err(told)?)
            }
            Layout::Export(path, options) => {
                Box::new(LabelStudio::open(path, options.clone()).map_err(told)?)
            }
        };
        Ok(Dealer { items, count: 0 })
    }

    /// Refuses files that somebody wrote to since they were looked up.
    pub(super) fn unchanged(&self) -> Result<(), PrepareError> {
        if self.look()? == (self.bytes, self.stamp) {
            return Ok(());
        }
        Err(PrepareError::Changed { path: self.root.clone() })
    }

    /// Hashes what files hold; `tell` learns of each part that was read.
    pub(super) fn hash(
        &self,
        index: &SourceFile,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Content, PrepareError> {
        let mut hasher = blake3::Hasher::new();
        let (mut bytes, mut count) = (0, 0_u64);
        let mut add = |name: &str, path: &Path| {
            let read = hash_file(path, &mut *tell);
            let (size, hash) = read.map_err(|error| PrepareError::reading(path, error))?;
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(hash.as_bytes());
            (bytes, count) = (bytes + size, count + 1);
            Ok(())
        };
        if index.path.is_file() {
            add(&index.name, &index.path)?;
        }
        let mut dealer = self.deal()?;
        while let Some(dealt) = dealer.next(self)? {
            if let What::Row(_, Some(path)) = dealt.what {
                add(&path, &self.file(&path))?;
            }
        }
        let blake3 = hasher.finalize().to_hex().to_string();
        Ok(Content { name: format!("{count} file(s)"), bytes, blake3 })
    }

    fn look(&self) -> Result<(u64, blake3::Hash), PrepareError> {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = 0;
        let mut dealer = self.deal()?;
        while let Some(dealt) = dealer.next(self)? {
            let What::Row(_, Some(path)) = dealt.what else {
                hasher.update(&dealt.line.to_le_bytes());
                continue;
            };
            let file = SourceFile::of(self.file(&path))?;
            hasher.update(format!("{path:?} {} {:?}", file.size, file.modified).as_bytes());
            bytes += file.size;
        }
        Ok((bytes, hasher.finalize()))
    }

    /// Where there is no row, told by the line of a file, or by the file's name. What a file of a
    /// patient is called is not told: its number is.
    fn reason(&self, no_row: NoRow) -> (Option<u64>, String) {
        let NoRow { origin, index, reason } = no_row;
        if !self.is_of_tree(&origin) {
            return (Some(index), reason);
        }
        let name = origin.strip_prefix(&self.root).unwrap_or(&origin).display();
        let is_dicom = matches!(&self.layout, Layout::Files(of) if of.files == Files::Dicom);
        (None, if is_dicom { format!("the file {reason}") } else { format!("{name} {reason}") })
    }

    /// Whether what comes from there is a file of a tree, and no line of `metadata.jsonl` or task.
    fn is_of_tree(&self, origin: &Path) -> bool {
        matches!(self.layout, Layout::Files(_)) && !origin.ends_with(METADATA)
    }
}

impl Dealer {
    /// What comes next.
    pub(super) fn next(&mut self, folder: &Folder) -> Result<Option<Dealt>, PrepareError> {
        let Some(item) = self.items.next().transpose().map_err(told)? else { return Ok(None) };
        self.count += 1;
        let count = self.count;
        let no_row = |what: fn(String) -> What, place: NoRow| {
            let (line, reason) = folder.reason(place);
            Dealt { line: line.unwrap_or(count), size: 0, what: what(reason) }
        };
        Ok(Some(match item {
            Imported::Malformed(row) => no_row(What::Bad, row),
            Imported::Unlabelled(row) => no_row(|_| What::Unlabelled, row),
            Imported::Row(row) => {
                let line = if folder.is_of_tree(&row.origin) { count } else { row.index };
                dealt(folder, line, row.fields)?
            }
        }))
    }
}

fn dealt(folder: &Folder, line: u64, row: Map<String, Value>) -> Result<Dealt, PrepareError> {
    let mut row = row;
    let image = folder.image().and_then(|name| Some((name.to_owned(), row.remove(name)?)));
    let mut fields: Fields<'static> =
        row.into_iter().map(|(name, value)| (Cow::Owned(name), json(value))).collect();
    let Some((name, Value::String(path))) = image else {
        let mut text = String::new();
        for (_, value) in &fields {
            value.render(&mut text);
        }
        let size = text.len() as u64;
        return Ok(Dealt { line, size, what: What::Row(fields, None) });
    };
    let file = folder.file(&path);
    let metadata = fs::metadata(&file).map_err(|error| PrepareError::reading(&file, error))?;
    let size = metadata.len();
    fields.insert(0, (Cow::Owned(name), Json::Text(Cow::Owned(path.clone()))));
    Ok(Dealt { line, size, what: What::Row(fields, Some(path)) })
}

/// A value as preparation reads values of JSON.
pub(super) fn json(value: Value) -> Json<'static> {
    match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(flag),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Json::Int(number),
            None => Json::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Json::Text(Cow::Owned(text)),
        Value::Array(items) => Json::List(items.into_iter().map(json).collect()),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| (Cow::Owned(name), json(value)));
            Json::Object(fields.collect())
        }
    }
}

/// The directory of a file, links followed.
fn beside(path: &Path) -> Result<PathBuf, PrepareError> {
    let file = path.canonicalize().map_err(|error| PrepareError::reading(path, error))?;
    Ok(file.parent().unwrap_or(&file).to_owned())
}

/// The export that a source is: itself, or the only one of a directory.
fn export(path: &Path) -> Result<PathBuf, PrepareError> {
    let reading = |error| PrepareError::reading(path, error);
    if !fs::metadata(path).map_err(reading)?.is_dir() {
        return Ok(path.to_owned());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(reading)? {
        let file = entry.map_err(reading)?.path();
        if file.extension().is_some_and(|ending| ending == "json") && file.is_file() {
            found.push(file);
        }
    }
    match (found.pop(), found.len()) {
        (Some(export), 0) => Ok(export),
        (found, others) => {
            let count = others + usize::from(found.is_some());
            let detail = format!(
                "the directory holds {count} files that end in .json; name the export of Label Studio itself"
            );
            Err(PrepareError::damaged(path, 0, detail))
        }
    }
}

/// The field of pictures, where there must be one, of a directory.
fn files_image(data: &DataFile, touched: &Touched) -> Result<String, PrepareError> {
    let reading = |error| PrepareError::reading(&data.path, error);
    if !fs::metadata(&data.path).map_err(reading)?.is_dir() {
        let detail = format!(
            "it is no directory, and {} is one; name the directory, or another format",
            data.format.name()
        );
        return Err(PrepareError::damaged(&data.path, 0, detail));
    }
    touched.image().map(str::to_owned).ok_or_else(|| PrepareError::Setting {
        setting: "data.train.format".to_owned(),
        detail: format!(
            "{} holds pictures, and the task reads none; take ImageClassification, or another format",
            data.format.name()
        ),
    })
}

/// An importer's error as that of a preparation.
fn told(error: ImportError) -> PrepareError {
    match error {
        ImportError::Read { path, source } => PrepareError::reading(&path, source),
        ImportError::Damaged { path, index, detail } => {
            PrepareError::Damaged { path, line: index, detail }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use hearth_crds::preparation::PrepareConfig;

    use super::*;

    fn touched() -> Touched {
        let told = r#"{"version":"","job":{"namespace":"n","name":"j","uid":"u"},"train":{"path":"","uri":"","text":"text","label":"label"},"label":"label","image":"image","output":"","outputUri":""}"#;
        Touched::new(&serde_json::from_str::<PrepareConfig>(told).unwrap())
    }

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::File::create(path).unwrap().write_all(content.as_bytes()).unwrap();
    }

    #[test]
    fn files_that_change_are_told() {
        for change in ["c/1.png", "c/3.png", "d/1.png", "metadata.jsonl"] {
            let root = tempfile::tempdir().unwrap();
            for name in ["c/1.png", "c/2.png", "notes/readme.txt"] {
                write(&root.path().join(name), name);
            }
            let path = root.path().to_owned();
            let data = DataFile { path, format: DataFormat::ImageFolder, ..DataFile::default() };
            let (folder, _) = Folder::open(&data, &touched()).unwrap().unwrap();
            assert_eq!(folder.bytes, 14);
            write(&root.path().join("notes/more.txt"), "no picture");
            folder.unchanged().unwrap();
            write(&root.path().join(change), "something else");
            let told = folder.unchanged().unwrap_err().to_string();
            assert!(told.contains("changed while it was read"), "{change}: {told}");
        }
    }
}
