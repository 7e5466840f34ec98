//! Frames of JPEG. DICOM's lossless JPEG is read by no other decoder in Rust.

use jpeg_decoder::{ColorTransform, Decoder, Error, PixelFormat};

use super::DicomError;
use super::pixels::Layout;

/// Decodes a frame to its samples, pixel by pixel; colours become RGB.
///
/// What a frame says of its size is compared with the file's, whose size is bounded, before its
/// pixels are decoded.
pub(super) fn decode(frame: &[u8], layout: &Layout) -> Result<Vec<u16>, DicomError> {
    let failed = |error| match error {
        Error::Unsupported(kind) => DicomError::unsupported(format!(
            "has JPEG of a kind that is not read ({kind:?}); decompress it, for example with dcmdjpeg"
        )),
        error => DicomError::damaged(format!("a JPEG frame cannot be decoded: {error}")),
    };
    let mut decoder = Decoder::new(frame);
    if layout.samples == 3 {
        // The file knows: frames have no JFIF or Adobe header (PS3.5, 8.2.1).
        let ycbcr = layout.photometric.starts_with("YBR");
        let transform = if ycbcr { ColorTransform::YCbCr } else { ColorTransform::RGB };
        decoder.set_color_transform(transform);
    }
    decoder.set_max_decoding_buffer_size(layout.frame_bytes());
    decoder.read_info().map_err(failed)?;
    let info = decoder.info().ok_or_else(|| DicomError::damaged("a JPEG frame has no header"))?;
    let (samples, bytes) = match info.pixel_format {
        PixelFormat::L8 => (1, 1),
        PixelFormat::L16 => (1, 2),
        PixelFormat::RGB24 => (3, 1),
        PixelFormat::CMYK32 => (4, 1),
    };
    if (info.height, info.width) != (layout.rows, layout.columns)
        || samples != layout.samples
        || bytes > layout.sample_bytes
    {
        return Err(DicomError::damaged("a JPEG frame is not of the size that the header says"));
    }
    let parts = decoder.decode().map_err(failed)?;
    let values: Vec<u16> = match bytes {
        1 => parts.into_iter().map(u16::from).collect(),
        _ => parts.as_chunks::<2>().0.iter().map(|bytes| u16::from_ne_bytes(*bytes)).collect(),
    };
    if values.len() != layout.frame_samples() {
        return Err(DicomError::damaged("a JPEG frame is cut short"));
    }
    Ok(values)
}
