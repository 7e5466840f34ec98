//! Samples → pictures.

use std::borrow::Cow;

use dicom_dictionary_std::tags;
use image::{DynamicImage, GrayImage, RgbImage};

use super::elements::{Encoding, Header, PixelBytes};
use super::level::{Shape, Window};
use super::{DicomError, MOST_BYTES, jpeg, rle};

/// How samples lie in a frame (PS3.3, C.7.6.3).
///
/// Invariant: all frames together have at most [`MOST_BYTES`] bytes, two a sample, and a frame has at
/// least one sample.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) rows: u16,
    pub(super) columns: u16,
    /// 1, or 3.
    pub(super) samples: u16,
    /// 1, or 2.
    pub(super) sample_bytes: usize,
    pub(super) photometric: String,
    frames: u32,
    bits_stored: u16,
    /// Bits below the stored ones.
    shift: u16,
    signed: bool,
    /// All reds, then all greens, then all blues.
    planar: bool,
}

impl Layout {
    fn of(header: &Header) -> Result<Self, DicomError> {
        let photometric = header.text(tags::PHOTOMETRIC_INTERPRETATION).unwrap_or_default();
        let rows = header.required(tags::ROWS, "the number of rows")?;
        let columns = header.required(tags::COLUMNS, "the number of columns")?;
        let samples = header.number(tags::SAMPLES_PER_PIXEL).unwrap_or(1);
        let frames = header.text(tags::NUMBER_OF_FRAMES).map_or(Ok(1), |text| {
            text.parse().map_err(|_| DicomError::damaged("the number of frames is no number"))
        })?;
        let bits_allocated = header.required(tags::BITS_ALLOCATED, "the number of bits")?;
        let bits_stored = header.number(tags::BITS_STORED).unwrap_or(bits_allocated);
        let high_bit = header.number(tags::HIGH_BIT).unwrap_or(bits_stored.saturating_sub(1));
        let (colour, known) = match photometric {
            "MONOCHROME1" | "MONOCHROME2" => (false, samples == 1),
            "RGB" | "YBR_FULL" => (true, samples == 3),
            "YBR_FULL_422" => (true, samples == 3 && header.encoding == Encoding::Jpeg),
            _ => (false, false),
        };
        let bits = matches!(bits_allocated, 8 | 16) && !(colour && bits_stored != 8);
        let swapped = header.encoding == Encoding::BigEndian && bits_allocated == 8;
        if !known || !bits || swapped {
            return Err(DicomError::unsupported(
                "has pixels of a kind that is not read (grey of 8 or 16 bits and RGB of 8 are); convert them",
            ));
        }
        if bits_stored == 0 || high_bit >= bits_allocated || high_bit + 1 < bits_stored {
            return Err(DicomError::damaged("its bits contradict one another"));
        }
        let sample_bytes = usize::from(bits_allocated / 8);
        let frame = u64::from(rows) * u64::from(columns) * u64::from(samples);
        let bytes = u128::from(frame) * u128::from(frames) * 2;
        if bytes > u128::from(MOST_BYTES) {
            return Err(DicomError::TooLarge { rows, columns, samples, frames });
        }
        if bytes == 0 {
            return Err(DicomError::damaged("it says that it has no pixel"));
        }
        Ok(Self {
            rows,
            columns,
            samples,
            sample_bytes,
            photometric: photometric.to_owned(),
            frames,
            bits_stored,
            shift: high_bit + 1 - bits_stored,
            signed: header.number(tags::PIXEL_REPRESENTATION) == Some(1),
            planar: header.number(tags::PLANAR_CONFIGURATION) == Some(1),
        })
    }

    fn pixels(&self) -> usize {
        usize::from(self.rows) * usize::from(self.columns)
    }

    pub(super) fn frame_samples(&self) -> usize {
        self.pixels() * usize::from(self.samples)
    }

    pub(super) fn frame_bytes(&self) -> usize {
        self.frame_samples() * self.sample_bytes
    }

    /// The value that is stored in a sample.
    fn value(&self, sample: u16) -> i32 {
        let unused = 32 - u32::from(self.bits_stored);
        let stored = u32::from(sample >> self.shift) << unused;
        if self.signed { stored.cast_signed() >> unused } else { (stored >> unused).cast_signed() }
    }

    /// Pixel by pixel, of samples that may lie in planes.
    fn interleaved(&self, samples: Vec<u16>) -> Vec<u16> {
        if !self.planar || self.samples == 1 {
            return samples;
        }
        let pixels = self.pixels();
        let planes = usize::from(self.samples);
        (0..samples.len()).map(|at| samples[at % planes * pixels + at / planes]).collect()
    }
}

/// The frames of a file.
pub(super) fn frames(
    header: &Header,
    bytes: &PixelBytes,
    window: Option<Window>,
) -> Result<Vec<DynamicImage>, DicomError> {
    let layout = Layout::of(header)?;
    let level = Level::of(header, window, &layout)?;
    let frames = 0..layout.frames as usize;
    frames
        .map(|frame| {
            let samples = samples(header.encoding, &layout, bytes, frame)?;
            let image = match layout.samples {
                1 => level.grey(&layout, &samples).map(DynamicImage::from),
                _ => colour(header.encoding, &layout, &samples).map(DynamicImage::from),
            };
            image.ok_or_else(|| DicomError::damaged("a frame is cut short"))
        })
        .collect()
}

/// The samples of a frame, pixel by pixel.
fn samples(
    encoding: Encoding,
    layout: &Layout,
    bytes: &PixelBytes,
    frame: usize,
) -> Result<Vec<u16>, DicomError> {
    match (encoding, bytes) {
        (Encoding::LittleEndian | Encoding::BigEndian, PixelBytes::Native(bytes)) => {
            let (begin, end) = (frame * layout.frame_bytes(), (frame + 1) * layout.frame_bytes());
            let bytes = bytes.get(begin..end);
            let bytes = bytes.ok_or_else(|| DicomError::damaged("its pixels are cut short"))?;
            let pairs = bytes.as_chunks::<2>().0.iter();
            let samples = match (layout.sample_bytes, encoding) {
                (1, _) => bytes.iter().map(|byte| u16::from(*byte)).collect(),
                (_, Encoding::BigEndian) => pairs.map(|pair| u16::from_be_bytes(*pair)).collect(),
                _ => pairs.map(|pair| u16::from_le_bytes(*pair)).collect(),
            };
            Ok(layout.interleaved(samples))
        }
        (Encoding::Rle, PixelBytes::Encapsulated { fragments, .. }) => {
            if fragments.len() != layout.frames as usize {
                return Err(DicomError::damaged(
                    "RLE has one fragment a frame, and others are here",
                ));
            }
            let planes = usize::from(layout.samples) * layout.sample_bytes;
            let bytes = rle::unpack(&fragments[frame], planes, layout.pixels())?;
            Ok(from_planes(&bytes, layout))
        }
        (Encoding::Jpeg, PixelBytes::Encapsulated { offsets, fragments }) => {
            jpeg::decode(&jpeg_frame(offsets, fragments, layout.frames as usize, frame)?, layout)
        }
        _ => Err(DicomError::damaged("its pixels are not what its transfer syntax says")),
    }
}

/// Samples of planes of bytes, the higher byte of a sample first (PS3.5, G.2).
fn from_planes(bytes: &[u8], layout: &Layout) -> Vec<u16> {
    let (pixels, samples) = (layout.pixels(), usize::from(layout.samples));
    let sample = |at: usize| {
        let (pixel, sample) = (at / samples, at % samples);
        let planes = sample * layout.sample_bytes..(sample + 1) * layout.sample_bytes;
        planes.fold(0, |value, plane| value << 8 | u16::from(bytes[plane * pixels + pixel]))
    };
    (0..pixels * samples).map(sample).collect()
}

/// The fragments of a frame, which is one fragment unless the file says where frames begin.
fn jpeg_frame<'a>(
    offsets: &[u32],
    fragments: &'a [Vec<u8>],
    frames: usize,
    frame: usize,
) -> Result<Cow<'a, [u8]>, DicomError> {
    if fragments.len() == frames {
        return Ok(Cow::Borrowed(&fragments[frame]));
    }
    if frames == 1 {
        return Ok(Cow::Owned(fragments.concat()));
    }
    let unknown = || DicomError::damaged("it does not say where its frames begin");
    let begin = u64::from(*offsets.get(frame).ok_or_else(unknown)?);
    let end = offsets.get(frame + 1).map_or(u64::MAX, |end| u64::from(*end));
    let mut at = 0;
    let mut bytes = Vec::new();
    for fragment in fragments {
        if (begin..end).contains(&at) {
            bytes.extend_from_slice(fragment);
        }
        // An item's tag and length lie before it.
        at += fragment.len() as u64 + 8;
    }
    Ok(Cow::Owned(bytes))
}

/// How values become grey.
struct Level {
    slope: f64,
    intercept: f64,
    /// The range of a frame's values where there is none.
    window: Option<Window>,
    inverted: bool,
}

impl Level {
    fn of(header: &Header, window: Option<Window>, layout: &Layout) -> Result<Self, DicomError> {
        let window = match window {
            Some(window) => Some(window),
            None => window_of(header)?,
        };
        if let Some(Window { width, center, shape }) = window {
            let least = if shape == Shape::Linear { 1.0 } else { f64::MIN_POSITIVE };
            if !(width >= least && width.is_finite() && center.is_finite()) {
                return Err(DicomError::damaged("its window shows no value"));
            }
        }
        if layout.samples == 1 && header.has_modality_lut {
            return Err(DicomError::unsupported(
                "has a modality look-up table, which is not read; apply it first",
            ));
        }
        if layout.samples == 1 && header.has_voi_lut && window.is_none() {
            return Err(DicomError::unsupported(
                "has a VOI look-up table, which is not read, and no window; give a window",
            ));
        }
        Ok(Self {
            slope: header.decimal(tags::RESCALE_SLOPE, "the rescale slope")?.unwrap_or(1.0),
            intercept: header
                .decimal(tags::RESCALE_INTERCEPT, "the rescale intercept")?
                .unwrap_or(0.0),
            window,
            inverted: layout.photometric == "MONOCHROME1",
        })
    }

    fn grey(&self, layout: &Layout, samples: &[u16]) -> Option<GrayImage> {
        let rescaled = |sample: u16| f64::from(layout.value(sample)) * self.slope + self.intercept;
        let window = self.window.unwrap_or_else(|| {
            let (least, greatest) = range(layout, samples);
            let ends = [least, greatest].map(|end| f64::from(end) * self.slope + self.intercept);
            Window::between(ends[0].min(ends[1]), ends[0].max(ends[1]))
        });
        let greatest = if layout.sample_bytes == 1 { 255 } else { u16::MAX };
        let table: Vec<u8> = (0..=greatest)
            .map(|sample| window.grey(rescaled(sample)))
            .map(|grey| if self.inverted { 255 - grey } else { grey })
            .collect();
        let greys = samples.iter().map(|sample| table[usize::from(*sample)]).collect();
        GrayImage::from_raw(layout.columns.into(), layout.rows.into(), greys)
    }
}

/// The window that a header has.
fn window_of(header: &Header) -> Result<Option<Window>, DicomError> {
    let center = header.decimal(tags::WINDOW_CENTER, "the window's center")?;
    let width = header.decimal(tags::WINDOW_WIDTH, "the window's width")?;
    let shape = match header.text(tags::VOILUT_FUNCTION) {
        Some("LINEAR_EXACT") => Shape::LinearExact,
        Some("SIGMOID") => Shape::Sigmoid,
        _ => Shape::Linear,
    };
    Ok(center.zip(width).map(|(center, width)| Window { center, width, shape }))
}

/// Least and greatest value that are shown without a window: all that 8 bits can hold, so that they
/// stay as they are, or those of the frame.
fn range(layout: &Layout, samples: &[u16]) -> (i32, i32) {
    let bits = layout.bits_stored;
    if bits <= 8 {
        let most = 1_i32 << bits;
        return if layout.signed { (-most / 2, most / 2 - 1) } else { (0, most - 1) };
    }
    let values = || samples.iter().map(|sample| layout.value(*sample));
    (values().min().unwrap_or(0), values().max().unwrap_or(0))
}

/// RGB of 8 bits. Frames of JPEG are RGB already.
fn colour(encoding: Encoding, layout: &Layout, samples: &[u16]) -> Option<RgbImage> {
    let ycbcr = layout.photometric == "YBR_FULL" && encoding != Encoding::Jpeg;
    let mut bytes: Vec<u8> = samples.iter().map(|sample| sample.to_le_bytes()[0]).collect();
    if ycbcr {
        for pixel in bytes.as_chunks_mut::<3>().0 {
            *pixel = rgb(*pixel);
        }
    }
    RgbImage::from_raw(layout.columns.into(), layout.rows.into(), bytes)
}

/// YBR_FULL → RGB: the inverse of PS3.3, C.7.6.3.1.2 (that of JFIF).
fn rgb([luma, blue, red]: [u8; 3]) -> [u8; 3] {
    let (luma, blue, red) = (f64::from(luma), f64::from(blue) - 128.0, f64::from(red) - 128.0);
    let parts =
        [luma + 1.402 * red, luma - 0.344_136 * blue - 0.714_136 * red, luma + 1.772 * blue];
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "colours that cannot be shown are the nearest that can"
    )]
    let parts = parts.map(|part| part.round() as u8);
    parts
}
