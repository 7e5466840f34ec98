//! A picture in memory for plotters, with letters from a font that is part of
//! the program: no font of the system is needed.

use std::convert::Infallible;

use noto_sans_mono_bitmap::{
    FontWeight, RasterHeight, RasterizedChar, get_raster, get_raster_width,
};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

/// Pixels of 3 bytes, rows from the top.
pub(super) struct Canvas<'a> {
    width: u32,
    height: u32,
    pixels: &'a mut [u8],
}

impl<'a> Canvas<'a> {
    /// Bytes of a picture.
    pub(super) fn bytes(width: u32, height: u32) -> usize {
        3 * width as usize * height as usize
    }

    /// Draws on `pixels`, which hold [`Self::bytes`].
    pub(super) fn new(width: u32, height: u32, pixels: &'a mut [u8]) -> Self {
        Self { width, height, pixels }
    }
}

/// The height of letters that comes next to what is asked for.
fn letters(size: f64) -> RasterHeight {
    if size < 18.0 { RasterHeight::Size16 } else { RasterHeight::Size20 }
}

impl DrawingBackend for Canvas<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return Ok(()) };
        if x < self.width && y < self.height {
            let start = 3 * (y as usize * self.width as usize + x as usize);
            let (red, green, blue) = color.rgb;
            for (old, new) in self.pixels[start..start + 3].iter_mut().zip([red, green, blue]) {
                let mixed = f64::from(*old) * (1.0 - color.alpha) + f64::from(new) * color.alpha;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between two bytes"
                )]
                let mixed = mixed.round() as u8;
                *old = mixed;
            }
        }
        Ok(())
    }

    /// Segment by segment: the library's outline of a path has spikes as high as
    /// the picture where the path turns sharply.
    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        let mut points = path.into_iter();
        let Some(mut from) = points.next() else { return Ok(()) };
        for to in points {
            self.draw_line(from, to, style)?;
            from = to;
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): BackendCoord,
    ) -> Drawn {
        let size = letters(style.size());
        let (width, height) = self.estimate_text_size(text, style)?;
        let (width, height) = (width.cast_signed(), height.cast_signed());
        let left = match style.anchor().h_pos {
            HPos::Left => x,
            HPos::Center => x - width / 2,
            HPos::Right => x - width,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => y,
            VPos::Center => y - height / 2,
            VPos::Bottom => y - height,
        };
        let color = style.color();
        let mut at = left;
        for letter in text.chars() {
            let raster = get_raster(letter, FontWeight::Regular, size)
                .or_else(|| get_raster('?', FontWeight::Regular, size));
            for (row, intensities) in (top..).zip(raster.iter().flat_map(RasterizedChar::rows)) {
                for (column, intensity) in (at..).zip(intensities) {
                    let alpha = color.alpha * f64::from(*intensity) / 255.0;
                    self.draw_pixel((column, row), BackendColor { alpha, ..color })?;
                }
            }
            at += width / i32::try_from(text.chars().count()).unwrap_or(i32::MAX).max(1);
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let size = letters(style.size());
        let width = text.chars().count() * get_raster_width(FontWeight::Regular, size);
        let pixels = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok((pixels(width), pixels(size.val())))
    }
}
