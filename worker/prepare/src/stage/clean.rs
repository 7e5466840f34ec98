//! Parts of the input → the same parts, cleaned, on the disk.

use std::path::Path;

use arrow_schema::SchemaRef;

use crate::bad_rows::{BadRow, BadRows};
use crate::error::PrepareError;
use crate::join::Joins;
use crate::parallel::in_order;
use crate::progress::Counter;
use crate::rows::Recipe;
use crate::source::{Bounds, Part, Scan, Source};

use super::parts::{PartFiles, PartReport, PartWriter};

/// What a source's parts became.
#[derive(Debug)]
pub(crate) struct Cleaned {
    pub(crate) schema: SchemaRef,
    /// Each part with what became of it.
    pub(crate) parts: Vec<(PartFiles, PartReport)>,
}

impl Cleaned {
    /// Rows that stay.
    pub(crate) fn kept(&self) -> u64 {
        self.parts.iter().map(|(_, report)| report.kept()).sum()
    }

    /// Rows read.
    pub(crate) fn rows(&self) -> u64 {
        self.parts.iter().map(|(_, report)| report.rows).sum()
    }
}

/// The parts of a source, to be cleaned below `directory`.
#[derive(Clone, Copy)]
pub(crate) struct Cleaning<'a> {
    pub(crate) source: &'a Source,
    pub(crate) scan: &'a Scan,
    pub(crate) joins: &'a Joins,
    pub(crate) recipe: &'a Recipe,
    pub(crate) bounds: Bounds,
    pub(crate) directory: &'a Path,
}

impl Cleaning<'_> {
    /// Cleans the parts that are not whole yet.
    pub(crate) fn run(
        &self,
        bad: &mut BadRows,
        counter: &mut Counter<'_>,
    ) -> Result<Cleaned, PrepareError> {
        let path = &self.source.data.path;
        let schema = self.joins.schema(&self.scan.schema, path)?;
        let schema = self.recipe.columns.schema(&schema, path)?;
        let mut cleaned = Cleaned { schema, parts: Vec::new() };
        for (number, part) in self.scan.parts.iter().enumerate() {
            let files = PartFiles::new(self.directory, number);
            let report = if let Some(report) = files.report() {
                bad.extend(report.bad, report.first_bad.clone())?;
                counter.add(report.rows, 0);
                report
            } else {
                let writer = PartWriter::create(files.clone(), &cleaned.schema)?;
                self.part(part, writer, bad, counter)?
            };
            counter.add(0, part.bytes);
            cleaned.parts.push((files, report));
        }
        self.source.unchanged()?;
        Ok(cleaned)
    }

    fn part(
        &self,
        part: &Part,
        mut writer: PartWriter,
        bad: &mut BadRows,
        counter: &mut Counter<'_>,
    ) -> Result<PartReport, PrepareError> {
        let Self { source, scan, joins, recipe, bounds, .. } = *self;
        let file = source.files[part.file].path.display().to_string();
        in_order(
            bounds.threads,
            |send| source.format().read(source, scan, part, send),
            |chunk| recipe.process(joins.join(source.format().decode(source, scan, chunk)?)?),
            |mut made| {
                let rows = std::mem::take(&mut made.bad).into_iter();
                let rows: Vec<BadRow> = rows
                    .map(|row| BadRow { file: file.clone(), line: row.line, reason: row.reason })
                    .collect();
                bad.extend(rows.len() as u64, rows.clone())?;
                counter.add(made.rows, 0);
                writer.add(&made, rows, recipe.similar())
            },
        )?;
        writer.finish()
    }
}
