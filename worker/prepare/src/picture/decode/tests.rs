use std::io::Write;

use image::codecs::jpeg::JpegEncoder;
use image::{GrayImage, ImageEncoder, Rgb, RgbaImage};

use super::*;

fn png(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).unwrap();
    bytes
}

/// A chunk of a PNG: length, name, content and CRC (PNG 3rd edition, 5.3).
fn chunk(name: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut checked = name.to_vec();
    checked.extend_from_slice(content);
    let mut crc = u32::MAX;
    for byte in &checked {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    let mut bytes = u32::try_from(content.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(checked);
    bytes.extend((!crc).to_be_bytes());
    bytes
}

/// A PNG of 8 bits of grey that says it has that size, with the bytes of its zlib stream.
fn png_of(width: u32, height: u32, more: &[u8], stream: &[u8]) -> Vec<u8> {
    let mut header = width.to_be_bytes().to_vec();
    header.extend(height.to_be_bytes());
    header.extend([8, 0, 0, 0, 0]);
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(chunk(*b"IHDR", &header));
    bytes.extend(more);
    bytes.extend(chunk(*b"IDAT", stream));
    bytes.extend(chunk(*b"IEND", b""));
    bytes
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn grey_and_transparent_pictures_become_rgb() {
    let grey = GrayImage::from_raw(2, 1, vec![7, 200]).unwrap();
    assert_eq!(decode(&png(&grey.into())).unwrap().into_raw(), [7, 7, 7, 200, 200, 200]);
    let clear = RgbaImage::from_raw(1, 1, vec![1, 2, 3, 0]).unwrap();
    assert_eq!(decode(&png(&clear.into())).unwrap().into_raw(), [1, 2, 3]);
}

#[test]
fn exif_turns_a_jpeg() {
    let mut image = RgbImage::from_pixel(16, 8, Rgb([255; 3]));
    image.put_pixel(0, 0, Rgb([0; 3]));
    // Little-endian TIFF with the one entry Orientation = 6: turn by 90° clockwise to show it.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 100);
    encoder.set_exif_metadata(exif.to_vec()).unwrap();
    encoder.encode_image(&image).unwrap();
    let seen = decode(&bytes).unwrap();
    assert_eq!(seen.dimensions(), (8, 16));
    assert_eq!(size(&bytes), Some((8, 16)));
    assert!(seen.get_pixel(7, 0).0[0] < 128 && seen.get_pixel(0, 0).0[0] > 128);
}

#[test]
fn what_is_no_picture_or_half_of_one_is_refused() {
    assert!(matches!(decode(b"GIF89a"), Err(PictureError::Format)));
    assert!(matches!(decode(b""), Err(PictureError::Format)));
    let bytes = png(&GrayImage::from_pixel(64, 64, image::Luma([7])).into());
    assert!(decode(&bytes).is_ok());
    assert!(matches!(decode(&bytes[..bytes.len() / 2]), Err(PictureError::Decode(_))));
}

/// A zlib stream that unpacks to 512 MiB of zeros, and says so in 0.5 MB: one MiB, again and again.
fn bomb() -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![0; 1 << 20]).unwrap();
    encoder.flush().unwrap();
    let block = encoder.get_ref().clone();
    [vec![0x78, 0xDA], block.repeat(512)].concat()
}

#[test]
fn a_small_file_cannot_claim_a_large_picture() {
    let sentence = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
    let stream = zlib(&[0; 100]);
    assert!(sentence(&png_of(30_000, 30_000, b"", &stream)).contains("scale it down"));
    assert!(sentence(&png_of(6634, 6634, b"", &stream)).contains("scale it down"));
    assert!(sentence(&png_of(u32::MAX >> 1, 1, b"", &stream)).contains("cannot be decoded"));
    // What the stream holds beyond the picture is not kept.
    let zeros = bomb();
    let seen = decode(&png_of(2, 2, b"", &zeros));
    assert!(seen.is_err() || seen.unwrap().dimensions() == (2, 2));
    // A colour profile that is larger than all pictures is none.
    let mut profile = b"bomb\0\0".to_vec();
    profile.extend(&zeros);
    let bytes = png_of(2, 2, &chunk(*b"iCCP", &profile), &zlib(&[0; 6]));
    let seen = decode(&bytes);
    assert!(seen.is_err() || seen.unwrap().dimensions() == (2, 2));
}

#[test]
fn small_pictures_go() {
    let filter = |min_side| ImageFilter { min_side };
    for (name, least, size, want) in [
        ("no bound", None, (1, 1), true),
        ("both sides are long enough", Some(32), (32, 33), true),
        ("one side is short", Some(32), (31, 500), false),
        ("the other is", Some(32), (500, 31), false),
    ] {
        assert_eq!(stays(&filter(least), size), want, "{name}");
    }
}
