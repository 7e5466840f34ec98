//! Training rows with other pictures made of theirs.

use arrow_array::{BinaryArray, RecordBatch};
use hearth_crds::preparation::PrepareConfig;

use crate::error::PrepareError;
use crate::picture::augment::{PictureAugmenter, encoded};
use crate::picture::decode::decode;
use crate::rows::Pictures;

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

    /// Makes the copies of a batch's rows, one at a time, since they may be large; how many.
    pub(super) fn each(
        &self,
        batch: &RecordBatch,
        take: &mut dyn FnMut(RecordBatch) -> Result<(), PrepareError>,
    ) -> Result<u64, PrepareError> {
        let index = batch.schema_ref().index_of(&self.field).map_err(PrepareError::internal)?;
        let none = || PrepareError::internal("a row without a picture");
        let mut made = 0;
        for row in 0..batch.num_rows() {
            let row = batch.slice(row, 1);
            let pictures = Pictures::of(row.column(index)).ok_or_else(none)?;
            let bytes = pictures.get(0).ok_or_else(none)?;
            let picture = decode(bytes).map_err(PrepareError::internal)?;
            let content = blake3::hash(bytes);
            for copy in 0..u64::from(self.count) {
                let copy = self.augmenter.copy(&picture, content.as_bytes(), copy);
                let copy = encoded(&copy, bytes).map_err(PrepareError::internal)?;
                let mut columns = row.columns().to_vec();
                let other = BinaryArray::from_vec(vec![&copy]);
                columns[index] = pictures.replaced(other).map_err(PrepareError::internal)?;
                let copy = RecordBatch::try_new(row.schema(), columns);
                take(copy.map_err(PrepareError::internal)?)?;
                made += 1;
            }
        }
        Ok(made)
    }
}
