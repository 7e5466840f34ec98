//! Training rows with other pictures made of theirs.

use arrow_array::{BinaryArray, RecordBatch};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hearth_crds::preparation::PrepareConfig;
use image::{ImageError, RgbImage, imageops};

use super::write::{SAMPLES, Sample, ShapeReport};
use crate::error::PrepareError;
use crate::picture::augment::{PictureAugmenter, encoded, png};
use crate::picture::decode::decode;
use crate::rows::Pictures;

/// What rows are said to be made by.
const KIND: &str = "picture";
/// Longest edge of a picture that is shown, in pixels.
const SHOWN: u32 = 128;

/// Makes rows of rows: all that they hold, and another picture.
pub(crate) struct Copies {
    field: String,
    augmenter: PictureAugmenter,
    /// Of each row.
    count: u32,
}

impl Copies {
    /// As the settings have it; `None` where they ask for none.
    pub(crate) fn new(config: &PrepareConfig) -> Option<Self> {
        let asked = config.preparation.augment.as_ref()?.image.as_ref()?;
        let augmenter = PictureAugmenter::new(asked, config.preparation.seed.cast_unsigned());
        let count = u32::try_from(asked.copies).unwrap_or(0);
        Some(Self { field: config.image.clone()?, augmenter, count })
    }

    /// About the bytes of a row with its copies, where it has `size`.
    pub(super) fn size(&self, size: u32) -> u32 {
        size.saturating_mul(self.count + 1)
    }

    /// Makes the copies of a batch's rows, one at a time, since they may be large, and tells of them.
    pub(super) fn each(
        &self,
        batch: &RecordBatch,
        report: &mut ShapeReport,
        take: &mut dyn FnMut(RecordBatch) -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        let index = batch.schema_ref().index_of(&self.field).map_err(PrepareError::internal)?;
        let none = || PrepareError::internal("a row without a picture");
        for row in 0..batch.num_rows() {
            let row = batch.slice(row, 1);
            let pictures = Pictures::of(row.column(index)).ok_or_else(none)?;
            let bytes = pictures.get(0).ok_or_else(none)?;
            let picture = decode(bytes).map_err(PrepareError::internal)?;
            let content = blake3::hash(bytes);
            for copy in 0..u64::from(self.count) {
                let made = self.augmenter.copy(&picture, content.as_bytes(), copy);
                let copy = encoded(&made, bytes).map_err(PrepareError::internal)?;
                tell(report, &picture, &made).map_err(PrepareError::internal)?;
                let mut columns = row.columns().to_vec();
                let other = BinaryArray::from_vec(vec![&copy]);
                columns[index] = pictures.replaced(other).map_err(PrepareError::internal)?;
                let copy = RecordBatch::try_new(row.schema(), columns);
                take(copy.map_err(PrepareError::internal)?)?;
            }
        }
        Ok(())
    }
}

/// Counts a picture that was made, and shows the first ones with what they were made of.
fn tell(report: &mut ShapeReport, of: &RgbImage, made: &RgbImage) -> Result<(), ImageError> {
    *report.made.entry(KIND.to_owned()).or_default() += 1;
    let shown = report.samples.entry(KIND.to_owned()).or_default();
    if shown.len() < SAMPLES {
        shown.push(Sample { before: small(of)?.into(), after: small(made)?.into() });
    }
    Ok(())
}

/// A small picture as a data URI (RFC 2397), which browsers show.
fn small(picture: &RgbImage) -> Result<String, ImageError> {
    let (width, height) = picture.dimensions();
    let scale = f64::from(SHOWN) / f64::from(width.max(height).max(1));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 128")]
    let edge = |length: u32| (f64::from(length) * scale.min(1.0)).round().max(1.0) as u32;
    let small = imageops::thumbnail(picture, edge(width), edge(height));
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png(&small)?)))
}
