//! A DICOM file → pictures of 8 bits, and the few attributes that say nothing of who is shown.
//!
//! Headers are read element by element: what is not on a short list is skipped without being read,
//! sequences and private elements whole. So neither names, numbers, dates nor free texts reach
//! memory, and a length that a file claims costs nothing.
//!
//! Uncompressed pixels (little and big endian), RLE, and JPEG (baseline, extended of 8 bits,
//! lossless) are decoded. JPEG 2000 and JPEG-LS are refused: their decoders are C++ (CharLS) or C
//! turned into Rust by a machine (openjp2), which are not to be fed by anybody.

mod attributes;
mod elements;
mod jpeg;
mod level;
mod pixels;
mod rle;

use std::io::{self, Read, Seek};

use image::DynamicImage;

pub use attributes::Attributes;
pub use level::{Shape, Window};

/// Most bytes of all of a file's decoded samples, two a sample: 64 Mi pixels of grey, or 22 million
/// of RGB. Reading takes up to four times as much, compressed pixels included.
const MOST_BYTES: u64 = 128 << 20;

/// What is made of files.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DicomOptions {
    /// Which values are shown from black to white; what the header says where left out.
    pub window: Option<Window>,
    /// Whether sex and decade of age are told ("Retain Patient Characteristics Option" of PS3.15
    /// Annex E). The Basic Profile removes both.
    pub patient_characteristics: bool,
}

/// What a file shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Dicom {
    /// Its frames in their order, of one size, grey or RGB, 8 bits a sample.
    pub frames: Vec<DynamicImage>,
    /// What is told besides.
    pub attributes: Attributes,
}

/// Why a file shows nothing. No message holds anything of what the file says of a patient.
#[derive(Debug, thiserror::Error)]
pub enum DicomError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// No DICOM file.
    #[error("is no DICOM file: the letters DICM after its first 128 bytes are missing")]
    Format,
    /// A file that is not whole, or that contradicts itself.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// A file of a kind that is not read.
    #[error("{0}")]
    Unsupported(String),
    /// More samples than are decoded.
    #[error(
        "says that it has {rows} by {columns} pixels of {samples} sample(s) in {frames} frame(s), and no more than {MOST_BYTES} bytes, two a sample, are decoded; split it"
    )]
    TooLarge {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
        /// Samples of a pixel.
        samples: u16,
        /// Frames.
        frames: u32,
    },
}

impl DicomError {
    fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }
}

/// Reads a file from its beginning. Values become grey as PS3.3 C.11 has it: rescaled, cut to the
/// window and stretched over 8 bits; `MONOCHROME1` is inverted, so that more is always brighter.
pub fn read(source: impl Read + Seek, options: DicomOptions) -> Result<Dicom, DicomError> {
    let (header, data) = elements::read(source)?;
    let attributes = Attributes::of(&header, options.patient_characteristics);
    let frames = pixels::frames(&header, &data, options.window)?;
    Ok(Dicom { frames, attributes })
}

#[cfg(test)]
mod tests;
