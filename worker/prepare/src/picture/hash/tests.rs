use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::*;
use crate::picture::decode::decode;

/// A picture of smooth light, some shapes and a little noise, unlike that of other seeds.
fn scene(seed: u64) -> RgbImage {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (width, height) = (random.random_range(100..180_u32), random.random_range(100..180_u32));
    let waves: Vec<[f64; 4]> = (0..6)
        .map(|_| {
            [random.random::<f64>() * 3.0, random.random::<f64>() * 3.0, random.random(), 30.0]
        })
        .collect();
    let shapes: Vec<([f64; 3], [f64; 3])> = (0..8)
        .map(|_| {
            ([random.random(), random.random(), random.random_range(0.05..0.25)], random.random())
        })
        .collect();
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (f64::from(x) / f64::from(width), f64::from(y) / f64::from(height));
        let light: f64 = waves
            .iter()
            .map(|[a, b, phase, far]| far * ((a * u + b * v + phase) * std::f64::consts::TAU).sin())
            .sum();
        let inside = shapes.iter().rfind(|([a, b, radius], _)| (u - a).hypot(v - b) < *radius);
        let colour = inside.map_or([0.5; 3], |(_, colour)| *colour);
        let noise: f64 = random.random_range(-6.0..6.0);
        Rgb(colour.map(|part| (part * 255.0 + light * 0.4 + noise).clamp(0.0, 255.0) as u8))
    })
}

fn recompressed(picture: &RgbImage, quality: u8) -> RgbImage {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(picture).unwrap();
    decode(&bytes).unwrap()
}

fn resized(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    imageops::resize(picture, width, height, FilterType::Triangle)
}

/// Without that share of each side.
fn cropped(picture: &RgbImage, share: f64) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (x, y) = ((f64::from(width) * share) as u32, (f64::from(height) * share) as u32);
    imageops::crop_imm(picture, x, y, width - 2 * x, height - 2 * y).to_image()
}

#[test]
fn the_same_picture_in_another_file_differs_in_few_bits() {
    let hash = PerceptualHash::new();
    let mut worst = [0; 6];
    for seed in 0..24 {
        let picture = scene(seed);
        let own = hash.of(&picture);
        let (width, height) = picture.dimensions();
        let others = [
            recompressed(&picture, 75),
            recompressed(&picture, 30),
            resized(&picture, width / 2, height / 2),
            resized(&picture, 300, 120),
            cropped(&picture, 0.01),
            imageops::brighten(&picture, 12),
        ];
        for (worst, other) in worst.iter_mut().zip(&others) {
            *worst = distance(own, hash.of(other)).max(*worst);
        }
    }
    // JPEG 75 and 30, half size, other shape, 1 % less of each side, brighter.
    println!("most bits: {worst:?}");
    assert!(worst.iter().all(|bits| *bits <= 8), "{worst:?}");
}

#[test]
fn different_pictures_differ_in_many_bits() {
    let hash = PerceptualHash::new();
    let hashes: Vec<u64> = (0..60).map(|seed| hash.of(&scene(seed))).collect();
    let pairs = hashes
        .iter()
        .enumerate()
        .flat_map(|(at, a)| hashes[at + 1..].iter().map(move |b| distance(*a, *b)));
    let least = pairs.min().unwrap();
    println!("fewest bits: {least}");
    assert!(least > 8, "{least}");
}

#[test]
fn a_gradient_and_its_opposite_differ() {
    let hash = PerceptualHash::new();
    let falling = RgbImage::from_fn(100, 80, |x, _| Rgb([(250 - x * 2) as u8; 3]));
    let seen = hash.of(&falling);
    assert_ne!(seen, hash.of(&imageops::flip_horizontal(&falling)));
    assert_ne!(seen, hash.of(&imageops::rotate90(&falling)));
    assert!(distance(seen, hash.of(&recompressed(&falling, 50))) <= 2);
}

#[test]
fn flat_pictures_have_no_bits_of_noise() {
    let hash = PerceptualHash::new();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let noisy = RgbImage::from_fn(256, 256, |_, _| Rgb([random.random_range(198..=202); 3]));
    let flat = RgbImage::from_pixel(31, 7, Rgb([200; 3]));
    assert_eq!(hash.of(&noisy), hash.of(&flat));
    assert_eq!(hash.of(&flat), 1 << 63, "the mean alone is above the median");
}

#[test]
fn cells_are_means_of_areas() {
    let mut halves = [0.0; 48];
    halves[24..].fill(9.0);
    let seen = means(&halves);
    assert_eq!((seen[15], seen[16]), (0.0, 9.0));
    // 32 cells of 1.5 values each: the second cell holds half of value 1 and the whole of value 2.
    let ramp: Vec<f64> = (0..48).map(f64::from).collect();
    assert_eq!(means(&ramp)[..2], [(0.0 + 0.5) / 1.5, (0.5 + 2.0) / 1.5]);
    assert!(means(&[7.0]).iter().all(|mean| (mean - 7.0).abs() < 1e-12), "fewer values than cells");
    let one = [1.0; 1000];
    assert!(means(&one).iter().all(|mean| (mean - 1.0).abs() < 1e-12));
}

#[test]
fn the_transform_is_orthonormal() {
    let hash = PerceptualHash::new();
    for (at, a) in hash.basis.iter().enumerate() {
        for (other, b) in hash.basis.iter().enumerate() {
            let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            let want = if at == other { 1.0 } else { 0.0 };
            assert!((dot - want).abs() < 1e-12, "{at} {other}");
        }
    }
}
