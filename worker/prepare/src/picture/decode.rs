//! Bytes of a PNG or JPEG → pixels, within bounds that hold before anything is allocated.

use std::io::Cursor;

use hearth_crds::preparation::ImageFilter;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

/// Longest edge, in pixels: that of the worker, which reads what is prepared here.
const LONGEST_EDGE: u32 = 32_768;
/// Most pixels.
const MOST_PIXELS: u64 = 44_000_000;
/// Most bytes of a decoder's buffers, and of what it decodes to. Turning and making RGB of it
/// takes as much again.
const MOST_BYTES: u64 = 128 << 20;

/// Why bytes are no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Neither PNG nor JPEG.
    #[error("is neither PNG nor JPEG; convert it")]
    Format,
    /// Damaged, cut short, or beyond the decoder's bounds.
    #[error("cannot be decoded: {0}")]
    Decode(#[from] image::ImageError),
    /// More pixels than are decoded.
    #[error(
        "says that it has {width} by {height} pixels, and no more than {MOST_PIXELS} of at most {MOST_BYTES} bytes are decoded; scale it down"
    )]
    TooLarge {
        /// Pixels of a row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// No pixel.
    #[error("has no pixel")]
    Empty,
}

/// Decodes a PNG or JPEG to RGB, turned as its camera says (EXIF 2.32, tag 0x0112); grey is
/// repeated, transparency dropped and 16 bits are scaled to 8.
///
/// What a picture says of its size is checked before its pixels are read, so that a small file
/// takes no more memory than a large one may.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    let format = image::guess_format(bytes).map_err(|_| PictureError::Format)?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg) {
        return Err(PictureError::Format);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MOST_PIXELS || decoder.total_bytes() > MOST_BYTES {
        return Err(PictureError::TooLarge { width, height });
    }
    if pixels == 0 {
        return Err(PictureError::Empty);
    }
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Width and height of a PNG or JPEG once it is turned, as its header has them.
pub fn size(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().ok()?;
    reader.limits(limits());
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let is_turned = matches!(
        decoder.orientation().ok()?,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    Some(if is_turned { (height, width) } else { (width, height) })
}

/// Whether a filter lets a picture of that many pixels stay.
pub fn stays(filter: &ImageFilter, (width, height): (u32, u32)) -> bool {
    let least = filter.min_side.unwrap_or(0);
    i64::from(width.min(height)) >= i64::from(least)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_EDGE);
    limits.max_image_height = Some(LONGEST_EDGE);
    limits.max_alloc = Some(MOST_BYTES);
    limits
}

#[cfg(test)]
mod tests;
