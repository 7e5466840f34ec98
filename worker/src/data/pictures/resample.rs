//! Resizing as Pillow's `Image.resize` does it, to the bit.
//!
//! A filter is stretched by the factor of the shrinking, so that every pixel counts; pixels are
//! weighted across and down, one after the other, with whole numbers of 22 bits, and rounded to 8
//! bits in between (Pillow's `libImaging/Resample.c`; which comes first, Pillow 13 decides by how
//! many rows and columns go). Another order or rounding changes pixels by 1, which is
//! little; another filter or a filter that is not stretched changes them by dozens.

use super::Pixels;

/// Bits behind the point of a weight.
const BITS: u32 = 22;

/// A filter, under Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// `sinc(x) sinc(x/3)` over 3 pixels.
    Lanczos,
    /// A triangle.
    Bilinear,
    /// Cubic convolution (Keys 1981) with `a = -1/2`.
    Bicubic,
    /// A box.
    Box,
    /// A raised cosine over 1 pixel.
    Hamming,
}

impl Filter {
    /// By Pillow's number (`PIL.Image.Resampling`).
    pub fn by_number(number: u64) -> Option<Self> {
        use Filter::{Bicubic, Bilinear, Box, Hamming, Lanczos, Nearest};
        let all = [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming];
        usize::try_from(number).ok().and_then(|index| all.get(index)).copied()
    }

    /// Where the filter is 0.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let near = x.abs();
        match self {
            Self::Nearest | Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - near).max(0.0),
            Self::Hamming if near == 0.0 => 1.0,
            Self::Hamming if near >= 1.0 => 0.0,
            Self::Hamming => sinc(near) * (0.54 + 0.46 * (near * std::f64::consts::PI).cos()),
            Self::Bicubic => {
                const A: f64 = -0.5;
                if near < 1.0 {
                    ((A + 2.0) * near - (A + 3.0)) * near * near + 1.0
                } else if near < 2.0 {
                    (((near - 5.0) * near + 8.0) * near - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let angle = x * std::f64::consts::PI;
    if angle == 0.0 { 1.0 } else { angle.sin() / angle }
}

/// What a pixel of the result is made of.
struct Weights {
    /// First pixel of the source.
    first: usize,
    /// Of the pixels from there on.
    weights: Vec<i32>,
}

/// Weights for each of `wanted` pixels out of `length`.
fn weights(length: usize, wanted: usize, filter: Filter) -> Vec<Weights> {
    let scale = length as f64 / wanted as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let of_pixel = |pixel: usize| {
        let center = (pixel as f64 + 0.5) * scale;
        let first = whole((center - support + 0.5).max(0.0));
        let end = whole(center + support + 0.5).min(length);
        let factor = 1.0 / stretch;
        let raw: Vec<f64> =
            (first..end).map(|x| filter.at((x as f64 - center + 0.5) * factor)).collect();
        let sum: f64 = raw.iter().sum();
        let unit = f64::from(1 << BITS);
        let rounded = |weight: f64| {
            let weight = if sum == 0.0 { weight } else { weight / sum } * unit;
            let half = if weight < 0.0 { -0.5 } else { 0.5 };
            #[expect(clippy::cast_possible_truncation, reason = "a weight is below 2 in size")]
            let whole = (weight + half) as i32;
            whole
        };
        Weights { first, weights: raw.into_iter().map(rounded).collect() }
    };
    (0..wanted).map(of_pixel).collect()
}

/// Edges are below 2³¹.
fn whole(value: f64) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= value < 2^31"
    )]
    let whole = value as usize;
    whole
}

/// `pixels` in another size. Both edges are above 0.
pub fn resize(pixels: Pixels, [height, width]: [usize; 2], filter: Filter) -> Pixels {
    if (pixels.height, pixels.width) == (height, width) {
        return pixels;
    }
    if filter == Filter::Nearest {
        return nearest(&pixels, [height, width]);
    }
    let across = |from: Pixels| {
        if from.width == width { from } else { columns(&from, width, filter) }
    };
    let down = |from: Pixels| {
        if from.height == height { from } else { rows(&from, height, filter) }
    };
    // Pillow 13 begins with what takes more away; before, it always went across first.
    let (lost, lost_twice) = (pixels.height.saturating_sub(height), 2 * pixels.width);
    if lost > 0 && lost + 2 * width > lost_twice {
        across(down(pixels))
    } else {
        down(across(pixels))
    }
}

fn nearest(pixels: &Pixels, [height, width]: [usize; 2]) -> Pixels {
    // Pillow adds up steps rather than to multiply; the sums differ in the last bit.
    let places = |length: usize, wanted: usize| {
        let step = length as f64 / wanted as f64;
        let mut place = step * 0.5;
        let next = move || {
            let here = whole(place).min(length - 1);
            place += step;
            Some(here)
        };
        std::iter::from_fn(next).take(wanted).collect::<Vec<_>>()
    };
    let (from_rows, from_columns) = (places(pixels.height, height), places(pixels.width, width));
    let mut bytes = Vec::with_capacity(height * width * 3);
    for row in from_rows {
        for column in &from_columns {
            let at = (row * pixels.width + column) * 3;
            bytes.extend_from_slice(&pixels.bytes[at..at + 3]);
        }
    }
    Pixels { width, height, bytes }
}

fn columns(pixels: &Pixels, width: usize, filter: Filter) -> Pixels {
    let weights = weights(pixels.width, width, filter);
    let mut bytes = Vec::with_capacity(pixels.height * width * 3);
    for row in pixels.bytes.chunks_exact(pixels.width * 3) {
        for Weights { first, weights } in &weights {
            let mut sums = [1 << (BITS - 1); 3];
            for (pixel, weight) in row[first * 3..].as_chunks::<3>().0.iter().zip(weights) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(*value) * weight;
                }
            }
            bytes.extend(sums.map(rounded));
        }
    }
    Pixels { width, height: pixels.height, bytes }
}

fn rows(pixels: &Pixels, height: usize, filter: Filter) -> Pixels {
    let length = pixels.width * 3;
    let mut bytes = Vec::with_capacity(height * length);
    let mut sums = vec![0; length];
    for Weights { first, weights } in weights(pixels.height, height, filter) {
        sums.fill(1 << (BITS - 1));
        for (row, weight) in pixels.bytes[first * length..].chunks_exact(length).zip(weights) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        bytes.extend(sums.iter().copied().map(rounded));
    }
    Pixels { width: pixels.width, height, bytes }
}

/// The sum of weighted pixels as a pixel; sharp filters go beyond either end.
fn rounded(sum: i32) -> u8 {
    u8::try_from((sum >> BITS).clamp(0, 255)).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(width: usize, height: usize) -> Pixels {
        let value = |at: usize| u8::try_from(at * 37 % 256).unwrap_or(0);
        Pixels { width, height, bytes: (0..width * height * 3).map(value).collect() }
    }

    #[test]
    fn a_picture_of_one_colour_keeps_it_under_every_filter() {
        let flat = Pixels { width: 7, height: 5, bytes: [10, 128, 255].repeat(35) };
        for number in 0..6 {
            let filter = Filter::by_number(number).unwrap();
            for size in [[3, 2], [9, 20], [5, 9], [2, 7]] {
                let small = resize(flat.clone(), size, filter);
                assert_eq!(small.bytes, [10, 128, 255].repeat(size[0] * size[1]), "{filter:?}");
            }
        }
        assert_eq!(Filter::by_number(6), None);
    }

    #[test]
    fn halving_with_a_box_takes_the_mean_of_two() {
        let pixels =
            Pixels { width: 4, height: 1, bytes: [0, 10, 100, 103].map(|v| [v; 3]).concat() };
        assert_eq!(resize(pixels, [1, 2], Filter::Box).bytes, [5, 5, 5, 102, 102, 102]);
    }

    #[test]
    fn the_same_size_changes_nothing() {
        assert_eq!(resize(ramp(6, 4), [4, 6], Filter::Lanczos), ramp(6, 4));
    }
}
