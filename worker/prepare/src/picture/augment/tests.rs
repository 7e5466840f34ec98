use hearth_crds::preparation::Scale;
use image::Rgb;

use super::*;
use crate::picture::decode::decode;

fn nothing() -> ImageAugmentation {
    ImageAugmentation {
        copies: 1,
        rotate: None,
        scale: None,
        flip: Vec::new(),
        color_jitter: None,
        crop: None,
    }
}

fn all() -> ImageAugmentation {
    ImageAugmentation {
        copies: 4,
        rotate: Some(20.0),
        scale: Some(Scale { min: 0.8, max: 1.2 }),
        flip: vec![Flip::Horizontal, Flip::Vertical],
        color_jitter: Some(ColorJitter {
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            hue: 0.1,
        }),
        crop: Some(0.5),
    }
}

fn picture() -> RgbImage {
    RgbImage::from_fn(48, 31, |x, y| Rgb([(x * 5) as u8, (y * 8) as u8, (x * y % 251) as u8]))
}

#[test]
fn what_changes_nothing_gives_the_same_pixels() {
    let spec = ImageAugmentation {
        scale: Some(Scale { min: 1.0, max: 1.0 }),
        color_jitter: Some(ColorJitter::default()),
        ..nothing()
    };
    for spec in [spec, nothing()] {
        assert_eq!(PictureAugmenter::new(&spec, 3).copy(&picture(), b"row", 0), picture());
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_thread() {
    let made = PictureAugmenter::new(&all(), 7);
    let bytes = |copy| png(&made.copy(&picture(), b"row", copy)).unwrap();
    let in_turn: Vec<Vec<u8>> = (0..4).map(bytes).collect();
    let in_threads: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).rev().map(|copy| scope.spawn(move || bytes(copy))).collect();
        threads.into_iter().rev().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(in_turn, in_threads);
    assert_ne!(in_turn[0], in_turn[1]);
    let other = PictureAugmenter::new(&all(), 8).copy(&picture(), b"row", 0);
    assert_ne!(png(&other).unwrap(), in_turn[0], "another seed");
    let other = made.copy(&picture(), b"other row", 0);
    assert_ne!(png(&other).unwrap(), in_turn[0], "another row");
}

#[test]
fn copies_are_the_same_as_ever() {
    let seen = PictureAugmenter::new(&all(), 7).copy(&picture(), b"row", 2);
    assert_eq!(seen.dimensions(), (48, 31));
    assert_eq!(blake3::hash(seen.as_raw()).to_hex()[..16], *"eff7dbfeb4f70f74");
}

#[test]
fn png_keeps_each_pixel() {
    assert_eq!(decode(&png(&picture()).unwrap()).unwrap(), picture());
}

#[test]
fn half_of_the_copies_are_mirrored() {
    let spec = ImageAugmentation { flip: vec![Flip::Horizontal], ..nothing() };
    let made = PictureAugmenter::new(&spec, 1);
    let mirrored = imageops::flip_horizontal(&picture());
    let copies = (0..200).map(|copy| made.copy(&picture(), b"row", copy));
    let count = copies.filter(|copy| *copy == mirrored).count();
    assert!((70..130).contains(&count), "{count}");
}

#[test]
fn each_setting_changes_something() {
    let jitter = ColorJitter::default();
    let color = |color_jitter| ImageAugmentation { color_jitter: Some(color_jitter), ..nothing() };
    for (name, spec) in [
        ("rotate", ImageAugmentation { rotate: Some(10.0), ..nothing() }),
        ("scale", ImageAugmentation { scale: Some(Scale { min: 1.1, max: 1.5 }), ..nothing() }),
        ("crop", ImageAugmentation { crop: Some(0.2), ..nothing() }),
        ("brightness", color(ColorJitter { brightness: 0.9, ..jitter.clone() })),
        ("contrast", color(ColorJitter { contrast: 0.9, ..jitter.clone() })),
        ("saturation", color(ColorJitter { saturation: 0.9, ..jitter.clone() })),
        ("hue", color(ColorJitter { hue: 0.4, ..jitter })),
    ] {
        let seen = PictureAugmenter::new(&spec, 1).copy(&picture(), b"row", 0);
        assert_ne!(seen, picture(), "{name}");
        assert_eq!(seen.dimensions(), picture().dimensions(), "{name}");
    }
}
