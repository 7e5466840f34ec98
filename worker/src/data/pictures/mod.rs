//! Files of pictures → pixels, prepared as the model's `preprocessor_config.json` says.
//!
//! What is prepared is kept in the cache as 8-bit pixels of the model's size, after decoding,
//! resizing and cropping, each of which is done once, on all cores. Nothing of that is random, so
//! nothing is lost; and a step then waits for a read of 147 KB (of 224 by 224 pixels) where it
//! would else wait for 10 ms of decoding and resizing a picture. Rescaling and normalizing are
//! done when a batch is made: as floats, pictures would take four times the room.

mod decode;
pub mod preprocess;
pub mod resample;

use std::path::{Path, PathBuf};

use tch::{Device, Kind, TchError, Tensor};

pub use decode::{decode, decode_within};
pub use preprocess::Preprocessor;

use super::DataError;
use super::ingest::{Encode, Encoded, Refusal};
use super::sequence;
use super::source::{Columns, Parts, Picture, SourceFile};

/// Pixels in RGB, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` bytes.
    pub bytes: Vec<u8>,
}

/// How prepared pixels become a model's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PixelFormat {
    /// Rows of a picture.
    pub height: usize,
    /// Columns of a picture.
    pub width: usize,
    /// Factor of a byte (`rescale_factor`).
    pub scale: f64,
    /// Of each channel, taken away after rescaling.
    pub mean: [f32; 3],
    /// Of each channel; what is left is divided by it.
    pub std: [f32; 3],
}

/// `count` prepared pictures, one after another in `bytes`, as a model's input f32 `[B, 3, H, W]`:
/// rescaled, then normalized by channel. They stay in the order of their bytes (channels last),
/// in which convolutions are fastest.
pub fn normalize(
    bytes: &[u8],
    count: usize,
    format: PixelFormat,
    device: Device,
) -> Result<Tensor, TchError> {
    let shape =
        [count, format.height, format.width, 3].map(|size| i64::try_from(size).unwrap_or(0));
    let channels = |values: [f32; 3]| Tensor::f_from_slice(&values)?.f_to_device(device);
    let pixels = Tensor::f_from_slice(bytes)?.f_view(shape)?.f_to_device(device)?;
    let rescaled = pixels.f_to_kind(Kind::Float)?.f_mul_scalar(format.scale)?;
    let normed = rescaled.f_sub(&channels(format.mean)?)?.f_div(&channels(format.std)?)?;
    normed.f_permute([0, 3, 1, 2])
}

/// Decodes and prepares the pictures of one file of rows. Shared by threads.
#[derive(Debug)]
pub(super) struct PictureEncoder<'a> {
    preprocessor: &'a Preprocessor,
    /// What paths in the file are relative to.
    folder: PathBuf,
}

impl<'a> PictureEncoder<'a> {
    pub(super) fn new(preprocessor: &'a Preprocessor, file: &Path) -> Self {
        let folder = if file.is_dir() { file } else { file.parent().unwrap_or(Path::new("")) };
        let folder = folder.to_owned();
        Self { preprocessor, folder }
    }

    /// Bytes of a picture in a file of its own.
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        if Path::new(path).is_absolute() {
            return Err(format!("path {path:?} is not relative to the file of rows"));
        }
        std::fs::read(self.folder.join(path)).map_err(|error| format!("{path:?}: {error}"))
    }
}

impl Encode for PictureEncoder<'_> {
    fn kind(&self) -> sequence::Kind {
        sequence::Kind::Pixels
    }

    fn recipe(&self, columns: &Columns) -> String {
        format!("pictures {} {columns:?}", self.preprocessor.recipe())
    }

    /// Paths are rows' content, and what is under them is not: its size and age stand for it.
    fn outside(&self, file: &SourceFile) -> Result<Option<blake3::Hash>, DataError> {
        let mut hasher = blake3::Hasher::new();
        for record in file.records()? {
            if let Ok(Parts::Picture { picture: Picture::Path(path), .. }) =
                record?.parts(&file.columns)
            {
                let of_file = std::fs::metadata(self.folder.join(&path)).ok();
                let stamp = of_file.map(|found| (found.len(), found.modified().ok()));
                hasher.update(format!("{path:?} {stamp:?}\n").as_bytes());
            }
        }
        Ok(Some(hasher.finalize()))
    }

    fn rows_per_chunk(&self) -> usize {
        // A chunk of prepared pictures is 2 MB, then.
        16
    }

    fn encode(&self, parts: Parts) -> Result<Encoded, Refusal> {
        let Parts::Picture { picture, label } = parts else {
            return Err(Refusal::Malformed("no labelled picture".into()));
        };
        let (bytes, name) = match picture {
            Picture::Bytes(bytes) => (bytes, "the picture".to_owned()),
            Picture::Path(path) => {
                (self.read(&path).map_err(Refusal::Malformed)?, format!("{path:?}"))
            }
        };
        let decoded = decode::decode(&bytes)
            .map_err(|reason| Refusal::Malformed(format!("{name}: {reason}")))?;
        let (pixels, facts) = self.preprocessor.measured(decoded);
        Ok(Encoded { label: Some(label), sequences: Vec::new(), pixels: Some(pixels), facts })
    }
}
