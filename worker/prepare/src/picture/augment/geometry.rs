//! Where pixels are: crops, turning and scaling. Sampling is bilinear, coordinates are those of
//! pixels' middles (`align_corners=False`), and results are rounded, as torchvision rounds them.

use image::{Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Least and greatest ratio of a crop's width to its height: `RandomResizedCrop`'s default.
const RATIOS: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);
/// Draws of a crop before it is the largest in the middle.
const TRIES: usize = 10;

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

/// Draws a part of a picture of that width and height, as torchvision's
/// `RandomResizedCrop.make_params` does: of `least` to all of the area, its ratio between 3/4 and
/// 4/3 and drawn by its logarithm.
pub fn random_crop((width, height): (u32, u32), least: f64, random: &mut ChaCha8Rng) -> Part {
    let area = f64::from(width) * f64::from(height);
    let (narrow, wide) = RATIOS;
    for _ in 0..TRIES {
        let of_area = area * random.random_range(least..=1.0);
        let ratio = libm::exp(random.random_range(libm::log(narrow)..=libm::log(wide)));
        let (columns, rows) = ((of_area * ratio).sqrt(), (of_area / ratio).sqrt());
        let (columns, rows) = (columns.round_ties_even() as u32, rows.round_ties_even() as u32);
        if (1..=width).contains(&columns) && (1..=height).contains(&rows) {
            let left = random.random_range(0..=width - columns);
            let top = random.random_range(0..=height - rows);
            return Part { left, top, width: columns, height: rows };
        }
    }
    middle((width, height))
}

/// The largest part in the middle whose ratio is between 3/4 and 4/3.
fn middle((width, height): (u32, u32)) -> Part {
    let (narrow, wide) = RATIOS;
    let ratio = f64::from(width) / f64::from(height);
    let (columns, rows) = if ratio < narrow {
        (width, (f64::from(width) / narrow).round_ties_even() as u32)
    } else if ratio > wide {
        ((f64::from(height) * wide).round_ties_even() as u32, height)
    } else {
        (width, height)
    };
    Part { left: (width - columns) / 2, top: (height - rows) / 2, width: columns, height: rows }
}

/// A part of a picture, scaled to the picture's size. Pixels beyond the part's edge are those at
/// the edge (`resize`); a part is never larger than the picture, so that nothing is to be averaged.
pub fn resized_crop(picture: &RgbImage, part: Part) -> RgbImage {
    let (width, height) = picture.dimensions();
    let along = |at: u32, to: u32, first: u32, of: u32| {
        let seen = (f64::from(at) + 0.5) * f64::from(of) / f64::from(to) - 0.5;
        f64::from(first) + seen.clamp(0.0, f64::from(of - 1))
    };
    let columns: Vec<f64> = (0..width).map(|x| along(x, width, part.left, part.width)).collect();
    let rows: Vec<f64> = (0..height).map(|y| along(y, height, part.top, part.height)).collect();
    RgbImage::from_fn(width, height, |x, y| sampled(picture, columns[x as usize], rows[y as usize]))
}

/// A picture turned counter-clockwise by `degrees` and magnified by `factor`, around its middle;
/// its size stays. What was outside is black, torchvision's default of `RandomAffine`.
pub fn turned(picture: &RgbImage, degrees: f64, factor: f64) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (sine, cosine) = libm::sincos(degrees.to_radians());
    let (sine, cosine) = (sine / factor, cosine / factor);
    let (middle_x, middle_y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (f64::from(x) + 0.5 - middle_x, f64::from(y) + 0.5 - middle_y);
        let seen_x = cosine * x - sine * y + middle_x - 0.5;
        let seen_y = sine * x + cosine * y + middle_y - 0.5;
        sampled(picture, seen_x, seen_y)
    })
}

/// The colour at a place between pixels' middles: each of the four around it counts by how near it
/// is, and those outside are black.
fn sampled(picture: &RgbImage, x: f64, y: f64) -> Rgb<u8> {
    let (left, top) = (x.floor(), y.floor());
    let (right_share, bottom_share) = (x - left, y - top);
    let mut sum = [0.0; 3];
    for (row, row_share) in [(top, 1.0 - bottom_share), (top + 1.0, bottom_share)] {
        for (column, share) in [(left, 1.0 - right_share), (left + 1.0, right_share)] {
            let share = share * row_share;
            if share > 0.0
                && let Some(pixel) = pixel(picture, column, row)
            {
                for (sum, part) in sum.iter_mut().zip(pixel.0) {
                    *sum += f64::from(part) * share;
                }
            }
        }
    }
    Rgb(sum.map(|part: f64| part.round_ties_even() as u8))
}

fn pixel(picture: &RgbImage, column: f64, row: f64) -> Option<&Rgb<u8>> {
    if column < 0.0 || row < 0.0 {
        return None;
    }
    picture.get_pixel_checked(column as u32, row as u32)
}

#[cfg(test)]
mod tests {
    use image::Luma;
    use image::buffer::ConvertBuffer;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn grey(width: u32, pixels: &[u8]) -> RgbImage {
        let height = u32::try_from(pixels.len()).unwrap() / width;
        image::GrayImage::from_raw(width, height, pixels.to_vec()).unwrap().convert()
    }

    fn greys(picture: &RgbImage) -> Vec<u8> {
        picture.pixels().map(|Rgb([red, ..])| Luma([*red]).0[0]).collect()
    }

    #[test]
    fn turning_by_nothing_keeps_each_pixel() {
        for (width, height) in [(1, 1), (7, 4), (64, 33)] {
            let picture = RgbImage::from_fn(width, height, |x, y| {
                Rgb([(x * 37 % 256) as u8, (y * 91 % 256) as u8, (x * y % 256) as u8])
            });
            assert_eq!(turned(&picture, 0.0, 1.0), picture);
            let whole = Part { left: 0, top: 0, width, height };
            assert_eq!(resized_crop(&picture, whole), picture);
        }
    }

    #[test]
    fn quarters_turn_against_the_clock() {
        let picture = grey(3, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(greys(&turned(&picture, 90.0, 1.0)), [3, 6, 9, 2, 5, 8, 1, 4, 7]);
        assert_eq!(greys(&turned(&picture, 180.0, 1.0)), [9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(greys(&turned(&picture, -90.0, 1.0)), [7, 4, 1, 8, 5, 2, 9, 6, 3]);
    }

    #[test]
    fn corners_of_a_turned_picture_are_black() {
        let seen = turned(&grey(9, &[200; 81]), 45.0, 1.0);
        assert_eq!((seen.get_pixel(0, 0).0, seen.get_pixel(4, 4).0), ([0; 3], [200; 3]));
    }

    #[test]
    fn scaling_samples_between_pixels() {
        // Twice as large: the middles at 0.25, 0.75, ... less 0.5 of the four pixels' middle half.
        let picture = grey(4, &[0, 40, 80, 120]);
        let seen = greys(&turned(&grey(4, &[0, 40, 80, 120].repeat(4)), 0.0, 2.0));
        assert_eq!(seen[..4], [30, 50, 70, 90]);
        // Half as large: between two pixels each, and black around.
        let seen = greys(&turned(&grey(4, &[0, 40, 80, 120].repeat(4)), 0.0, 0.5));
        assert_eq!(seen[4..8], [0, 20, 100, 0]);
        assert_eq!(seen[..4], [0; 4]);
        let part = Part { left: 1, top: 0, width: 2, height: 1 };
        assert_eq!(greys(&resized_crop(&picture, part)), [40, 50, 70, 80], "edges are repeated");
    }

    #[test]
    fn crops_keep_area_and_ratio() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let (mut least, mut greatest) = (f64::MAX, 0.0_f64);
        for _ in 0..2000 {
            let part = random_crop((640, 480), 0.3, &mut random);
            assert!(part.left + part.width <= 640 && part.top + part.height <= 480);
            let area = f64::from(part.width * part.height) / f64::from(640 * 480);
            let ratio = f64::from(part.width) / f64::from(part.height);
            assert!((0.29..=1.0).contains(&area) && (0.74..=1.35).contains(&ratio), "{part:?}");
            (least, greatest) = (least.min(area), greatest.max(area));
        }
        assert!(least < 0.32 && greatest > 0.9, "{least} {greatest}");
    }

    #[test]
    fn where_no_crop_fits_the_middle_is_taken() {
        for (name, size, want) in [
            ("wide", (1000, 10), Part { left: 493, top: 0, width: 13, height: 10 }),
            ("high", (10, 1000), Part { left: 0, top: 493, width: 10, height: 13 }),
            ("neither", (400, 400), Part { left: 0, top: 0, width: 400, height: 400 }),
            ("one pixel", (1, 1), Part { left: 0, top: 0, width: 1, height: 1 }),
        ] {
            assert_eq!(middle(size), want, "{name}");
        }
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let part = random_crop((10_000, 1), 0.9, &mut random);
        assert_eq!((part.width, part.height), (1, 1));
    }
}
