//! Bytes of a PNG or JPEG → pixels.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::Pixels;

/// Longest edge of a picture.
const LONGEST_EDGE: u32 = 32_768;
/// Most memory that a decoder may take: a small file may claim any size.
const MOST_MEMORY: u64 = 1 << 30;

/// Decodes a picture to RGB, turned as its camera says (EXIF), as Hugging Face `datasets` and
/// `convert("RGB")` of Pillow do: grey is repeated, transparency is dropped.
pub fn decode(bytes: &[u8]) -> Result<Pixels, String> {
    decode_within(bytes, MOST_MEMORY)
}

/// As [`decode`], for a picture of at most `most` bytes of pixels.
pub fn decode_within(bytes: &[u8], most: u64) -> Result<Pixels, String> {
    let told = |error: image::ImageError| format!("not a picture that can be read: {error}");
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_EDGE);
    limits.max_image_height = Some(LONGEST_EDGE);
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(told)?;
    if decoder.total_bytes() > most {
        let (width, height) = decoder.dimensions();
        return Err(format!("{width} by {height} pixels are too many"));
    }
    let orientation = decoder.orientation().map_err(told)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(told)?;
    image.apply_orientation(orientation);
    Pixels::of(image)
}

impl Pixels {
    /// The pixels of a decoded picture, in RGB.
    pub fn of(image: DynamicImage) -> Result<Self, String> {
        let rgb = image.into_rgb8();
        let edge = |length: u32| usize::try_from(length).unwrap_or(usize::MAX);
        let (width, height) = (edge(rgb.width()), edge(rgb.height()));
        if width == 0 || height == 0 {
            return Err("the picture has no pixel".into());
        }
        Ok(Self { width, height, bytes: rgb.into_raw() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grey_and_transparent_pictures_become_rgb() {
        let encode = |image: &DynamicImage| {
            let mut bytes = Vec::new();
            image.write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png).unwrap();
            bytes
        };
        let grey = image::GrayImage::from_raw(2, 1, vec![7, 200]).unwrap();
        let want = Pixels { width: 2, height: 1, bytes: vec![7, 7, 7, 200, 200, 200] };
        assert_eq!(decode(&encode(&grey.into())), Ok(want));
        let clear = image::RgbaImage::from_raw(1, 1, vec![1, 2, 3, 0]).unwrap();
        let want = Pixels { width: 1, height: 1, bytes: vec![1, 2, 3] };
        assert_eq!(decode(&encode(&clear.into())), Ok(want));
    }

    #[test]
    fn what_is_no_picture_or_half_of_one_is_refused() {
        assert!(decode(b"GIF89a").is_err());
        let grey = image::GrayImage::from_raw(64, 64, vec![7; 4096]).unwrap();
        let mut bytes = Vec::new();
        DynamicImage::from(grey)
            .write_to(&mut Cursor::new(&mut bytes), image::ImageFormat::Png)
            .unwrap();
        assert!(decode(&bytes).is_ok());
        assert!(decode(&bytes[..bytes.len() / 2]).is_err());
    }
}
