//! Cleaned rows of one fate, read back from their parts, batch by batch.

use std::ops::Range;
use std::path::Path;

use arrow_array::{BooleanArray, RecordBatch};
use arrow_schema::ArrowError;
use arrow_select::filter::filter_record_batch;

use crate::error::PrepareError;

use super::compare::Rows;
use super::fate::{Fate, Fates};
use super::parts::{PartFiles, PartReport};

/// Reads rows back.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) fates: &'a Fates,
    /// Directory of the parts, for messages.
    pub(crate) work: &'a Path,
}

impl Reading<'_> {
    /// The rows of a fate, of those whose numbers are in `range`, in their order.
    pub(crate) fn each(
        &self,
        range: &Range<u32>,
        fate: Fate,
        take: &mut dyn FnMut(RecordBatch) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        let mut first = 0;
        for (files, report) in self.rows.parts() {
            let end = first + u32::try_from(report.kept()).unwrap_or(u32::MAX);
            if first < range.end && range.start < end {
                let wanted = |row| range.contains(&row) && self.fates.rows[row as usize] == fate;
                self.part(first, (files, report), &wanted, take)?;
            }
            first = end;
        }
        Ok(())
    }

    /// All rows for training.
    pub(crate) fn training(
        &self,
        take: &mut dyn FnMut(RecordBatch) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        self.each(&(0..u32::MAX), Fate::Train, take)
    }

    /// The wanted rows of a part, whose first row has the number `first`.
    fn part(
        &self,
        mut first: u32,
        (files, report): (&PartFiles, &PartReport),
        wanted: &dyn Fn(u32) -> bool,
        take: &mut dyn FnMut(RecordBatch) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        let unread = |error: ArrowError| match error {
            ArrowError::IoError(_, source) => PrepareError::writing(self.work, source),
            other => PrepareError::internal(other),
        };
        let mut rows = files.rows().map_err(unread)?;
        for (index, count) in report.batches.iter().enumerate() {
            let end = first + count;
            let keep: BooleanArray = (first..end).map(|row| Some(wanted(row))).collect();
            if keep.true_count() > 0 {
                rows.set_index(index).map_err(unread)?;
                let batch = rows.next().ok_or_else(|| PrepareError::internal("a batch is gone"))?;
                take(filter_record_batch(&batch.map_err(unread)?, &keep).map_err(unread)?)?;
            }
            first = end;
        }
        Ok(())
    }
}
