//! Pictures made of a picture: a crop, mirrored, turned and scaled around the middle, in other
//! colours; in that order, each as torchvision's transforms v2 have it.
//!
//! A copy depends on the seed, the content of its picture and its number alone.

pub mod color;
pub mod geometry;

use hearth_crds::preparation::{ColorJitter, Flip, ImageAugmentation};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageError, ImageFormat, RgbImage, imageops};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::augment::random;

/// Of 100: what a second encoding loses is not to be seen.
const JPEG_QUALITY: u8 = 95;

/// Makes pictures of pictures. Threads may share one.
#[derive(Clone, Debug)]
pub struct PictureAugmenter {
    seed: u64,
    spec: ImageAugmentation,
}

impl PictureAugmenter {
    /// As the spec has it.
    pub fn new(spec: &ImageAugmentation, seed: u64) -> Self {
        Self { seed, spec: spec.clone() }
    }

    /// The copy of that number of a picture, of its size. `content` is what tells the picture from
    /// others, such as the hash of its bytes.
    pub fn copy(&self, picture: &RgbImage, content: &[u8], copy: u64) -> RgbImage {
        let mut random = random(self.seed, "picture", content, copy);
        let mut made = match self.spec.crop {
            Some(least) => {
                let part = geometry::random_crop(picture.dimensions(), least, &mut random);
                geometry::resized_crop(picture, part)
            }
            None => picture.clone(),
        };
        for flip in &self.spec.flip {
            if random.random::<bool>() {
                match flip {
                    Flip::Horizontal => imageops::flip_horizontal_in_place(&mut made),
                    Flip::Vertical => imageops::flip_vertical_in_place(&mut made),
                }
            }
        }
        let degrees = self.spec.rotate.map_or(0.0, |most| random.random_range(-most..=most));
        let scale = self.spec.scale.as_ref();
        let factor = scale.map_or(1.0, |scale| random.random_range(scale.min..=scale.max));
        if self.spec.rotate.is_some() || scale.is_some() {
            made = geometry::turned(&made, degrees, factor);
        }
        if let Some(jitter) = &self.spec.color_jitter {
            jittered(&mut made, jitter, &mut random);
        }
        made
    }
}

/// The bytes of a PNG of a picture: the same for the same picture.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let (width, height) = picture.dimensions();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive)
        .write_image(picture.as_raw(), width, height, ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

/// The bytes of a picture in the format of another, a PNG or JPEG.
pub fn encoded(picture: &RgbImage, like: &[u8]) -> Result<Vec<u8>, ImageError> {
    if image::guess_format(like)? != ImageFormat::Jpeg {
        return png(picture);
    }
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(picture)?;
    Ok(bytes)
}

/// Changes colours by factors drawn from `1 - x` to `1 + x`, the hue by one from `-x` to `x` turns,
/// in an order that is drawn, too (`ColorJitter` of torchvision). What is 0 changes nothing, and
/// nothing is drawn for it.
fn jittered(picture: &mut RgbImage, jitter: &ColorJitter, random: &mut ChaCha8Rng) {
    type Change = fn(&mut RgbImage, f32);
    let ColorJitter { brightness, contrast, saturation, hue } = *jitter;
    let changes: [(Change, f64, f64); 4] = [
        (color::brightness, 1.0, brightness),
        (color::contrast, 1.0, contrast),
        (color::saturation, 1.0, saturation),
        (color::hue, 0.0, hue),
    ];
    let mut drawn: Vec<(Change, f64)> = changes
        .into_iter()
        .filter(|(.., far)| *far > 0.0)
        .map(|(change, middle, far)| {
            (change, random.random_range((middle - far).max(-0.5)..=middle + far))
        })
        .collect();
    drawn.shuffle(random);
    for (change, by) in drawn {
        change(picture, by as f32);
    }
}

#[cfg(test)]
mod tests;
