//! Numbers that tell what an input is like: by them a server tells whether what it is asked is like what
//! its model learned from. They are taken where an input is made a model's, so that training and servers
//! measure alike.

use super::pictures::Pixels;

/// Numbers of an input, in the order of their names.
pub type Facts = Vec<f32>;

/// Of a text, where the tokenizer knows an unknown token.
pub const OF_TEXT: [&str; 4] = ["characters", "tokens", "unknownTokens", "charactersBeyondAscii"];
/// Of a text, where the tokenizer puts all texts together of what it knows.
pub const OF_WHOLE_TEXT: [&str; 4] =
    ["characters", "tokens", "tokensPerWord", "charactersBeyondAscii"];
/// Of a picture.
pub const OF_PICTURE: [&str; 7] =
    ["width", "height", "brightness", "contrast", "red", "green", "blue"];

/// Pixels of a picture that are measured, about: enough for a mean to a thousandth of its range.
const MEASURED: usize = 1 << 16;

/// Of a text that was cleaned, and of its tokens, which were cut at the longest.
#[expect(clippy::cast_possible_truncation, reason = "figures of 24 bits are enough for shares")]
pub(super) fn of_text(text: &str, ids: &[u32], unknown: Option<u32>) -> Facts {
    let (mut characters, mut beyond, mut words, mut in_word) = (0_u64, 0_u64, 0_u64, false);
    for character in text.chars() {
        characters += 1;
        beyond += u64::from(!character.is_ascii());
        let is_space = character.is_whitespace();
        words += u64::from(!is_space && !in_word);
        in_word = !is_space;
    }
    let tokens = ids.len() as f64;
    let share = match unknown {
        Some(unknown) => ids.iter().filter(|id| **id == unknown).count() as f64 / tokens.max(1.0),
        None => tokens / words.max(1) as f64,
    };
    let beyond = beyond as f64 / characters.max(1) as f64;
    [characters as f64, tokens, share, beyond].map(|value| value as f32).to_vec()
}

/// Of a picture as it came: turned as its camera says, and not resized yet. Values are those of 8 bits;
/// brightness is the mean of luma (ITU-R BT.601), contrast its standard deviation. Of large pictures a
/// grid of pixels is measured.
#[expect(clippy::cast_possible_truncation, reason = "means of bytes")]
pub(super) fn of_picture(pixels: &Pixels) -> Facts {
    let Pixels { width, height, bytes } = pixels;
    let mut step = 1;
    while width.div_ceil(step) * height.div_ceil(step) > MEASURED {
        step += 1;
    }
    let (mut sums, mut luma_sum, mut squares, mut count) = ([0.0; 3], 0.0, 0.0, 0_u64);
    for row in bytes.chunks_exact(3 * width).step_by(step) {
        for pixel in row.as_chunks::<3>().0.iter().step_by(step) {
            let [red, green, blue] = pixel.map(f64::from);
            let luma = 0.299 * red + 0.587 * green + 0.114 * blue;
            sums.iter_mut().zip([red, green, blue]).for_each(|(sum, value)| *sum += value);
            luma_sum += luma;
            squares += luma * luma;
            count += 1;
        }
    }
    let count = count.max(1) as f64;
    let mean = luma_sum / count;
    let contrast = (squares / count - mean * mean).max(0.0).sqrt();
    let [red, green, blue] = sums.map(|sum: f64| sum / count);
    let facts = [*width as f64, *height as f64, mean, contrast, red, green, blue];
    facts.map(|value| value as f32).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_by_their_characters_words_and_tokens() {
        assert_eq!(of_text("ab  cd\u{e9}", &[2, 1, 1, 3], Some(1)), [7.0, 4.0, 0.5, 1.0 / 7.0]);
        assert_eq!(of_text(" one two ", &[5; 3], None), [9.0, 3.0, 1.5, 0.0]);
        assert_eq!(of_text("", &[], None), [0.0; 4]);
        assert_eq!(of_text("", &[], Some(1)), [0.0; 4]);
    }

    #[test]
    fn pictures_are_told_by_size_light_and_colour() {
        let pixels = Pixels { width: 2, height: 1, bytes: vec![255, 0, 0, 0, 0, 0] };
        let facts = of_picture(&pixels);
        let want = [2.0, 1.0, 38.1225, 38.1225, 127.5, 0.0, 0.0];
        for (got, want) in facts.iter().zip(want) {
            assert!((got - want).abs() < 1e-3, "{facts:?}");
        }
    }

    #[test]
    fn of_a_large_picture_a_grid_is_enough() {
        let side = 1200;
        // Brighter to the right: the mean is that of a ramp from 0 to 255.
        let row = (0..side).flat_map(|x| [u8::try_from(x * 255 / (side - 1)).unwrap(); 3]);
        let row: Vec<u8> = row.collect();
        let facts = of_picture(&Pixels { width: side, height: side, bytes: row.repeat(side) });
        assert_eq!(facts[..2], [1200.0, 1200.0]);
        assert!((facts[2] - 127.5).abs() < 1.0, "{facts:?}");
        assert!((facts[3] - 255.0 / 12.0_f32.sqrt()).abs() < 1.0, "{facts:?}");
    }
}
