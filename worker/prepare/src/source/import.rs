//! Rows of sources of many files: their values, and the pictures that they name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray as _;
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::{Field, Schema, SchemaRef};
use hearth_crds::training_job::DataFormat;
use image::DynamicImage;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use indexmap::IndexMap;

use super::folder::{Dealer, Dealt, Folder, MAX_PICTURE, What, json};
use super::json::{Fields, Json};
use super::kind::{self, Kind, MAX_COLUMNS};
use super::{Bad, Bounds, Chunk, Format, Part, Rows, Scan, Source, build};
use crate::bad_rows::BadRows;
use crate::error::PrepareError;
use crate::import::dicom::{self, Dicom, DicomError, DicomOptions};
use crate::progress::Counter;
use crate::rows::pictures;

/// Name in the card of what nobody labelled.
const UNLABELLED: &str = "unlabelled";

/// Trees of pictures and of DICOM files, and exports.
pub(super) struct ImportFormat;

/// What rows are read by.
#[derive(Default)]
pub(super) struct ImportScan {
    fields: IndexMap<String, Kind>,
    /// Where the part that was read last has ended: parts are read one after another.
    at: Mutex<Option<Dealer>>,
}

impl std::fmt::Debug for ImportScan {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ImportScan").field("fields", &self.fields).finish_non_exhaustive()
    }
}

impl ImportScan {
    /// Deals from the item of that number on.
    fn dealer(&self, folder: &Folder, start: u64) -> Result<Dealer, PrepareError> {
        let known = self.at.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(dealer) = known.filter(|dealer| dealer.count == start) {
            return Ok(dealer);
        }
        let mut dealer = folder.deal()?;
        while dealer.count < start && dealer.next(folder)?.is_some() {}
        Ok(dealer)
    }
}

impl Format for ImportFormat {
    fn scan(
        &self,
        source: &Source,
        bounds: Bounds,
        bad: &mut BadRows,
        counter: &mut Counter<'_>,
    ) -> Result<Scan, PrepareError> {
        let folder = folder(source)?;
        let mut fields = known_fields(source, folder);
        let mut parts = Vec::<Part>::new();
        let mut dealer = folder.deal()?;
        while let Some(dealt) = dealer.next(folder)? {
            counter.add(1, dealt.size);
            match checked(source, dealt.what) {
                What::Row(row, _) => kind::see_fields(&mut fields, &row),
                What::Bad(reason) => {
                    bad.add(&source.files[0].path, Bad { line: dealt.line, reason })?;
                }
                What::Unlabelled => {}
            }
            let columns: usize = fields.values().map(Kind::columns).sum();
            if columns > MAX_COLUMNS {
                let detail = format!(
                    "up to here rows have {columns} columns, nested ones counted, and {MAX_COLUMNS} are read; leave some out"
                );
                return Err(PrepareError::damaged(&source.files[0].path, dealt.line, detail));
            }
            let (start, end) = (dealer.count - 1, dealer.count);
            match parts.last_mut() {
                Some(part) if part.bytes < bounds.part_bytes => {
                    part.end = end;
                    part.bytes += dealt.size;
                }
                _ => {
                    let (line, bytes) = (dealt.line, dealt.size);
                    parts.push(Part { file: 0, start, end, line, rows: None, bytes });
                }
            }
        }
        source.touched.settle(&mut fields, false, &source.data.path)?;
        let scan = Scan::new(schema(folder, &fields), parts, bounds);
        Ok(Scan { import: Some(ImportScan { fields, at: Mutex::default() }), ..scan })
    }

    fn read(
        &self,
        source: &Source,
        scan: &Scan,
        part: &Part,
        send: &mut dyn FnMut(Chunk, u64) -> bool,
    ) -> Result<(), PrepareError> {
        let (folder, import) = (folder(source)?, known(scan)?);
        let mut dealer = import.dealer(folder, part.start)?;
        let most = Bounds::rows(import.fields.values().map(Kind::columns).sum());
        let (mut chunk, mut size) = (Vec::new(), 0);
        while dealer.count < part.end {
            let Some(dealt) = dealer.next(folder)? else {
                return Err(PrepareError::Changed { path: source.data.path.clone() });
            };
            size += dealt.size;
            chunk.push(dealt);
            let is_full = size >= scan.bounds.chunk_bytes as u64 || chunk.len() >= most;
            if (is_full || dealer.count == part.end)
                && !send(Chunk::Dealt(std::mem::take(&mut chunk)), std::mem::take(&mut size))
            {
                return Ok(());
            }
        }
        *import.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(dealer);
        Ok(())
    }

    fn decode(&self, source: &Source, scan: &Scan, chunk: Chunk) -> Result<Rows, PrepareError> {
        let (folder, import) = (folder(source)?, known(scan)?);
        let Chunk::Dealt(dealt) = chunk else {
            return Err(PrepareError::internal("rows of files that are decoded already"));
        };
        let mut decoded = Decoded::default();
        for Dealt { line, what, .. } in dealt {
            match checked(source, what) {
                What::Bad(reason) => decoded.bad.push(Bad { line, reason }),
                What::Unlabelled => decoded.unlabelled += 1,
                What::Row(fields, None) => decoded.add(line, fields, None),
                What::Row(fields, Some(path)) => {
                    if source.format == DataFormat::DICOM {
                        decoded.add_dicom(folder, line, fields, &path)?;
                    } else {
                        decoded.add_picture(folder, line, fields, &path)?;
                    }
                }
            }
        }
        decoded.rows(folder, import, &scan.schema)
    }
}

/// Rows of a chunk.
#[derive(Default)]
struct Decoded {
    rows: Vec<Fields<'static>>,
    pictures: Vec<Option<Vec<u8>>>,
    lines: Vec<u64>,
    bad: Vec<Bad>,
    unlabelled: u64,
}

impl Decoded {
    fn add(&mut self, line: u64, fields: Fields<'static>, picture: Option<Vec<u8>>) {
        self.rows.push(fields);
        self.pictures.push(picture);
        self.lines.push(line);
    }

    fn add_picture(
        &mut self,
        folder: &Folder,
        line: u64,
        fields: Fields<'static>,
        path: &str,
    ) -> Result<(), PrepareError> {
        let file = folder.file(path);
        let mut bytes = Vec::new();
        let read =
            File::open(&file).and_then(|file| file.take(MAX_PICTURE + 1).read_to_end(&mut bytes));
        read.map_err(|error| PrepareError::reading(&file, error))?;
        if bytes.len() as u64 > MAX_PICTURE {
            let reason = format!("{path} has more than {MAX_PICTURE} bytes; scale it down");
            self.bad.push(Bad { line, reason });
        } else {
            self.add(line, fields, Some(bytes));
        }
        Ok(())
    }

    /// Adds a row a frame. What the file is called is left out: it may be the name of a patient.
    fn add_dicom(
        &mut self,
        folder: &Folder,
        line: u64,
        mut fields: Fields<'static>,
        path: &str,
    ) -> Result<(), PrepareError> {
        let path = folder.file(path);
        let file = File::open(&path).map_err(|error| PrepareError::reading(&path, error))?;
        let Dicom { frames, attributes } = match dicom::read(file, DicomOptions::default()) {
            Ok(read) => read,
            Err(DicomError::Read(source)) => return Err(PrepareError::reading(&path, source)),
            Err(error) => {
                self.bad.push(Bad { line, reason: format!("the file {error}") });
                return Ok(());
            }
        };
        fields.retain(|(name, _)| Some(name.as_ref()) != folder.image());
        for (name, _) in attribute_kinds() {
            let value = serde_json::to_value(&attributes)
                .ok()
                .and_then(|mut of| Some(of.get_mut(name)?.take()));
            put(&mut fields, name, json(value.unwrap_or_default()));
        }
        for (number, frame) in (1..).zip(&frames) {
            let mut fields = fields.clone();
            put(&mut fields, FRAME, Json::Int(number));
            self.add(line, fields, Some(png(frame)?));
        }
        Ok(())
    }

    fn rows(
        self,
        folder: &Folder,
        import: &ImportScan,
        schema: &SchemaRef,
    ) -> Result<Rows, PrepareError> {
        let Self { rows, pictures, lines, mut bad, unlabelled } = self;
        bad.sort_by_key(|row| row.line);
        let mut columns: Vec<ArrayRef> =
            build::columns(&import.fields, &rows).map_err(PrepareError::internal)?;
        if let Some(at) = folder.image().and_then(|name| import.fields.get_index_of(name)) {
            let paths = columns[at].as_string::<i32>().clone();
            columns[at] = pictures::column(&pictures, paths).map_err(PrepareError::internal)?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let batch = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
            .map_err(PrepareError::internal)?;
        let dropped = BTreeMap::from([(UNLABELLED.to_owned(), unlabelled)]);
        Ok(Rows { batch, lines, bad, dropped })
    }
}

/// The column of the number of a frame, from 1.
const FRAME: &str = "frame";

/// What is told of a DICOM file besides its pixels: a part of [`dicom::Attributes`].
fn attribute_kinds() -> [(&'static str, Kind); 7] {
    [
        ("modality", Kind::Text),
        ("bodyPart", Kind::Text),
        ("view", Kind::Text),
        ("laterality", Kind::Text),
        ("pixelSpacing", Kind::List(Box::new(Kind::Float))),
        ("burnedIn", Kind::Bool),
        ("recognizable", Kind::Bool),
    ]
}

/// Sets a field, unless the source itself has one of that name.
fn put(fields: &mut Fields<'static>, name: &'static str, value: Json<'static>) {
    if fields.iter().all(|(known, _)| known != name) {
        fields.push((Cow::Borrowed(name), value));
    }
}

/// Fields that rows have whatever the source holds.
fn known_fields(source: &Source, folder: &Folder) -> IndexMap<String, Kind> {
    let mut fields = IndexMap::new();
    if let Some(image) = folder.image() {
        fields.insert(image.to_owned(), Kind::Text);
    }
    if source.format == DataFormat::DICOM {
        let frame = (FRAME, Kind::Int);
        let known = attribute_kinds().into_iter().chain([frame]);
        fields.extend(known.map(|(name, kind)| (name.to_owned(), kind)));
    }
    fields
}

fn schema(folder: &Folder, fields: &IndexMap<String, Kind>) -> SchemaRef {
    let of = |(name, kind): (&String, &Kind)| {
        let is_image = folder.image() == Some(name);
        let data_type = if is_image { pictures::data_type() } else { kind.data_type() };
        Field::new(name, data_type, true)
    };
    Arc::new(Schema::new(fields.iter().map(of).collect::<Vec<_>>()))
}

/// A row whose values are of the wrong kind is none.
fn checked(source: &Source, what: What) -> What {
    match what {
        What::Row(fields, path) => match source.touched.check(&fields) {
            Ok(()) => What::Row(fields, path),
            Err(reason) => What::Bad(reason),
        },
        other => other,
    }
}

fn png(frame: &DynamicImage) -> Result<Vec<u8>, PrepareError> {
    let mut bytes = Vec::new();
    let encoder =
        PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive);
    frame.write_with_encoder(encoder).map_err(PrepareError::internal)?;
    Ok(bytes)
}

fn folder(source: &Source) -> Result<&Folder, PrepareError> {
    source.folder.as_ref().ok_or_else(|| PrepareError::internal("a folder that is none"))
}

fn known(scan: &Scan) -> Result<&ImportScan, PrepareError> {
    scan.import.as_ref().ok_or_else(|| PrepareError::internal("rows without their fields"))
}
