//! Pictures of a batch: which are of use, and by what they are told apart.

use std::collections::BTreeMap;

use arrow_array::{BooleanArray, RecordBatch};
use hearth_crds::preparation::{ImageFilter, PrepareConfig};

use super::Pictures;
use crate::error::PrepareError;
use crate::picture::decode::{PictureError, decode, stays};
use crate::picture::hash::PerceptualHash;

/// Most bits of 64 in which hashes of pictures that show the same may be said to differ: hashes of
/// any two pictures differ in 32 about.
const MOST_DISTANCE: u32 = 16;

/// Looks at the picture of each row.
pub(super) struct Viewer {
    field: String,
    filter: ImageFilter,
    /// Where pictures that show the same are looked for, with the bits that may differ.
    hash: Option<(PerceptualHash, u32)>,
}

/// What was seen of a batch.
pub(super) struct Seen {
    pub(super) stay: BooleanArray,
    /// Of each row that stays: what its pixels are known by.
    pub(super) contents: Vec<u128>,
    /// Halves of their perceptual hashes, the higher first.
    pub(super) hashes: Vec<u32>,
}

impl Viewer {
    /// As the settings have it; `None` where rows have no pictures.
    pub(super) fn new(config: &PrepareConfig) -> Result<Option<Self>, PrepareError> {
        let asked = &config.preparation;
        let distance = asked.deduplicate.as_ref().and_then(|asked| asked.hash_distance);
        let refuse = |name: &str, detail: String| {
            Err(PrepareError::Setting { setting: format!("data.preparation.{name}"), detail })
        };
        let Some(field) = config.image.clone() else {
            let augment = asked.augment.as_ref().and_then(|asked| asked.image.as_ref());
            let for_pictures = [
                ("images", asked.images.is_some()),
                ("deduplicate.hashDistance", distance.is_some()),
                ("augment.image", augment.is_some()),
            ];
            return match for_pictures.into_iter().find(|(_, is_asked)| *is_asked) {
                Some((name, _)) => {
                    refuse(name, "rows have no field of pictures; leave it out".to_owned())
                }
                None => Ok(None),
            };
        };
        let bits = distance.map(|bits| u32::try_from(bits).unwrap_or(u32::MAX));
        if let Some(bits) = bits.filter(|bits| *bits > MOST_DISTANCE) {
            let detail = format!("{bits} of 64 bits; write 0 to {MOST_DISTANCE}");
            return refuse("deduplicate.hashDistance", detail);
        }
        let filter = asked.images.clone().unwrap_or_default();
        let hash = bits.map(|bits| (PerceptualHash::new(), bits));
        Ok(Some(Self { field, filter, hash }))
    }

    /// Bits in which hashes of pictures that show the same may differ.
    pub(super) fn distance(&self) -> Option<u32> {
        self.hash.as_ref().map(|(_, distance)| *distance)
    }

    /// Looks at a batch; rows that go are counted by why. Rows without a picture go, too, but they
    /// were told before.
    pub(super) fn see(&self, batch: &RecordBatch, dropped: &mut BTreeMap<String, u64>) -> Seen {
        let (mut contents, mut hashes) = (Vec::new(), Vec::new());
        let pictures = batch.column_by_name(&self.field).and_then(Pictures::of);
        let mut stay = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let bytes = pictures.and_then(|pictures| pictures.get(row)).unwrap_or_default();
            match self.look(bytes) {
                Ok((content, hash)) => {
                    contents.push(content);
                    hashes.extend(hash.into_iter().flatten());
                    stay.push(true);
                }
                Err(reason) => {
                    *dropped.entry(reason.to_owned()).or_default() += 1;
                    stay.push(false);
                }
            }
        }
        Seen { stay: stay.into(), contents, hashes }
    }

    /// What a picture is known by, and its hash; or why it goes.
    fn look(&self, bytes: &[u8]) -> Result<(u128, Option<[u32; 2]>), &'static str> {
        let picture = decode(bytes).map_err(|error| match error {
            PictureError::Format => "neither PNG nor JPEG",
            PictureError::Decode(_) | PictureError::Empty => "picture cannot be decoded",
            PictureError::TooLarge { .. } => "picture of more pixels than are decoded",
        })?;
        if !stays(&self.filter, picture.dimensions()) {
            return Err("picture smaller than minSide");
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&picture.width().to_le_bytes()).update(picture.as_raw());
        let content = hasher.finalize();
        let content = u128::from_be_bytes(*content.as_bytes().first_chunk().unwrap_or(&[0; 16]));
        let halves = |hash: u64| {
            let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or_default();
            [half(hash >> 32), half(hash)]
        };
        Ok((content, self.hash.as_ref().map(|(hash, _)| halves(hash.of(&picture)))))
    }
}
