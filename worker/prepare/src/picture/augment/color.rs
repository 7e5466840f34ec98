//! Colours, as torchvision's `transforms/v2/functional/_color.py` (0.24) changes those of a tensor
//! of `uint8`: in 32-bit floats, in the same order, cut off and not rounded on the way back.

use image::RgbImage;

/// Multiplies all by a factor, at least 0: `adjust_brightness`.
pub fn brightness(picture: &mut RgbImage, factor: f32) {
    for part in picture.iter_mut() {
        *part = byte(f32::from(*part) * factor);
    }
}

/// Blends with the mean of its greys: `adjust_contrast`. A factor of 0 gives that alone, 1 the
/// picture, more than 1 goes away from it.
pub fn contrast(picture: &mut RgbImage, factor: f32) {
    let pixels = picture.as_raw().as_chunks::<3>().0;
    // Whole numbers below 256: exact up to 2^45 pixels.
    let sum: f64 = pixels.iter().map(|pixel| f64::from(grey(*pixel))).sum();
    let mean = (sum / pixels.len().max(1) as f64) as f32;
    for part in picture.iter_mut() {
        *part = blended(*part, mean, factor);
    }
}

/// Blends with its greys: `adjust_saturation`.
pub fn saturation(picture: &mut RgbImage, factor: f32) {
    for pixel in picture.as_chunks_mut::<3>().0 {
        let grey = grey(*pixel);
        *pixel = pixel.map(|part| blended(part, grey, factor));
    }
}

/// Turns the hue, by `turns` of the circle from -0.5 to 0.5: `adjust_hue`.
pub fn hue(picture: &mut RgbImage, turns: f32) {
    for pixel in picture.as_chunks_mut::<3>().0 {
        let [hue, saturation, value] = hsv(*pixel);
        let turned = (hue + turns).rem_euclid(1.0);
        *pixel = rgb([turned, saturation, value]).map(|part| byte(part * 255.999));
    }
}

/// Luma (ITU-R BT.601), cut to a whole number.
fn grey([red, green, blue]: [u8; 3]) -> f32 {
    (f32::from(red) * 0.2989 + f32::from(green) * 0.587 + f32::from(blue) * 0.114).floor()
}

fn blended(part: u8, other: f32, factor: f32) -> u8 {
    byte(f32::from(part) * factor + other * (1.0 - factor))
}

/// The whole part, from 0 to 255.
fn byte(value: f32) -> u8 {
    value as u8
}

/// RGB → hue, saturation and value; all from 0 to 1.
fn hsv(pixel: [u8; 3]) -> [f32; 3] {
    let [red, green, blue] = pixel;
    let greatest = red.max(green).max(blue);
    let least = red.min(green).min(blue);
    let share = |part: u8| f32::from(part) * (1.0 / 255.0);
    if greatest == least {
        return [0.0, 0.0, share(greatest)];
    }
    let range = share(greatest) - share(least);
    let from = pixel.map(|part| (share(greatest) - share(part)) / range);
    let sixths = if greatest == red {
        from[2] - from[1]
    } else if greatest == green {
        2.0 + from[0] - from[2]
    } else {
        4.0 + from[1] - from[0]
    };
    [(sixths * (1.0 / 6.0) + 1.0) % 1.0, range / share(greatest), share(greatest)]
}

/// Hue, saturation and value → RGB; all from 0 to 1.
fn rgb([hue, saturation, value]: [f32; 3]) -> [f32; 3] {
    let sixth = (hue * 6.0).floor();
    let rest = hue * 6.0 - sixth;
    let part = |share: f32| (share * value).clamp(0.0, 1.0);
    let p = part(1.0 - saturation);
    let q = part(1.0 - saturation * rest);
    let t = part(saturation * rest + (1.0 - saturation));
    // A hue just below 1 may be rounded up to 6 sixths.
    match sixth as u8 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(pixels: &[u8], change: impl Fn(&mut RgbImage)) -> Vec<u8> {
        let width = u32::try_from(pixels.len() / 3).unwrap();
        let mut picture = RgbImage::from_raw(width, 1, pixels.to_vec()).unwrap();
        change(&mut picture);
        picture.into_raw()
    }

    #[test]
    fn brightness_multiplies_and_cuts_off() {
        let seen = changed(&[0, 101, 255, 10, 20, 200], |picture| brightness(picture, 1.5));
        assert_eq!(seen, [0, 151, 255, 15, 30, 255]);
        assert_eq!(changed(&[9, 8, 7], |picture| brightness(picture, 0.0)), [0, 0, 0]);
    }

    #[test]
    fn contrast_blends_with_the_mean_grey() {
        // Greys: floor(0.2989 * 100 + 0.587 * 50) = 59 and floor(0.9999 * 200) = 199; their mean
        // is 129.
        let pixels = [100, 50, 0, 200, 200, 200];
        let seen = changed(&pixels, |picture| contrast(picture, 0.5));
        assert_eq!(seen, [114, 89, 64, 164, 164, 164]);
        assert_eq!(changed(&pixels, |picture| contrast(picture, 0.0)), [129; 6]);
        let seen = changed(&pixels, |picture| contrast(picture, 2.0));
        assert_eq!(seen, [71, 0, 0, 255, 255, 255]);
    }

    #[test]
    fn saturation_blends_with_the_grey_of_the_pixel() {
        // Grey: floor(59.24) = 59.
        let seen = changed(&[100, 50, 0], |picture| saturation(picture, 0.5));
        assert_eq!(seen, [79, 54, 29]);
        assert_eq!(changed(&[100, 50, 0], |picture| saturation(picture, 0.0)), [59; 3]);
        assert_eq!(changed(&[7; 3], |picture| saturation(picture, 1.9)), [7; 3]);
    }

    #[test]
    fn hue_turns_around_the_circle() {
        let third = 1.0_f32 / 3.0;
        assert_eq!(changed(&[255, 0, 0], |picture| hue(picture, third)), [0, 255, 0]);
        assert_eq!(changed(&[255, 0, 0], |picture| hue(picture, -third)), [0, 0, 255]);
        assert_eq!(changed(&[200, 100, 50], |picture| hue(picture, 0.5)), [50, 150, 200]);
        assert_eq!(changed(&[80, 80, 80], |picture| hue(picture, 0.3)), [80, 80, 80]);
    }

    #[test]
    fn what_changes_nothing_keeps_each_colour() {
        let colours: Vec<u8> = (0..=255_u8)
            .step_by(5)
            .flat_map(|red| (0..=255_u8).step_by(15).map(move |green| (red, green)))
            .flat_map(|(red, green)| {
                (0..=255_u8).step_by(17).flat_map(move |blue| [red, green, blue])
            })
            .collect();
        assert_eq!(changed(&colours, |picture| brightness(picture, 1.0)), colours);
        assert_eq!(changed(&colours, |picture| contrast(picture, 1.0)), colours);
        assert_eq!(changed(&colours, |picture| saturation(picture, 1.0)), colours);
        assert_eq!(changed(&colours, |picture| hue(picture, 0.0)), colours);
    }
}
